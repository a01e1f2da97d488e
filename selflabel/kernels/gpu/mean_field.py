"""Mean field in Triton: the energy of labels whose filtering is known, and the labels that minimize its tangent.

A program works on all classes of a block of pixels; labels lie class by class in memory, ``[b k n]``.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import blocks, kernel_of, on_device

UNLABELED = tl.constexpr(255)
"""The seed of a pixel without one."""

TINY = tl.constexpr(1.2e-38)
"""The least float32 that is not denormal, nearly."""

TILE = 2048
"""Labels of a program."""


class Terms(NamedTuple):
    """What the energy is made of, the same in all steps."""

    probs: Tensor
    """``[b k n]``."""
    seeds: Tensor
    """``[b n]``, `UNLABELED` where there is none."""
    allowed: Tensor
    """``[b k]``, 1 for the classes that an image may have, else 0."""
    coupling: float
    pairwise: float
    temperature: float
    floor: float
    """The least logarithm of a label or a prediction."""


@kernel_of("classes")
def _energy(
    labels,
    filtered,
    probs,
    seeds,
    to,
    coupling,
    pairwise,
    temperature,
    floor,
    pixels,
    classes,
    CLASSES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    image, block = tl.program_id(1), tl.program_id(0)
    pixel, k = block * PIXELS + tl.arange(0, PIXELS), tl.arange(0, CLASSES)
    there = (k < classes)[:, None] & (pixel < pixels)[None, :]
    at = (image.to(tl.int64) * classes + k[:, None]) * pixels + pixel[None, :]
    y = tl.load(labels + at, mask=there, other=0.0)
    wy = tl.load(filtered + at, mask=there, other=0.0)
    prob = tl.load(probs + at, mask=there, other=1.0)
    seed = tl.load(seeds + image.to(tl.int64) * pixels + pixel, mask=pixel < pixels, other=0)
    least = tl.exp(floor)
    unary = temperature * tl.log(tl.maximum(y, least)) - coupling * tl.log(tl.maximum(prob, least))
    own = tl.where(seed == UNLABELED, tl.sum(y * unary, 0), 0.0)
    own += pairwise * (tl.sum(wy, 0) - tl.sum(y * wy, 0))
    tl.store(to + image * tl.num_programs(0) + block, tl.sum(own.to(tl.float64), 0))


@kernel_of("classes")
def _update(
    current,
    current_filtered,
    trial,
    trial_filtered,
    accepted,
    rates,
    probs,
    seeds,
    allowed,
    coupling,
    pairwise,
    temperature,
    floor,
    pixels,
    classes,
    CLASSES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    image, k = tl.program_id(1), tl.arange(0, CLASSES)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = (k < classes)[:, None]
    there = inside & (pixel < pixels)[None, :]
    at = (image.to(tl.int64) * classes + k[:, None]) * pixels + pixel[None, :]
    chosen = tl.load(accepted + image) + tl.zeros([PIXELS], tl.int32)
    taken, kept = there & (chosen != 0)[None, :], there & (chosen == 0)[None, :]
    rate = tl.load(rates + image)
    y = tl.load(trial + at, mask=taken, other=0.0)
    y += tl.load(current + at, mask=kept, other=0.0)
    wy = tl.load(trial_filtered + at, mask=taken, other=0.0)
    wy += tl.load(current_filtered + at, mask=kept, other=0.0)
    # what was refused makes room for what is kept
    tl.store(trial + at, y, mask=kept)
    tl.store(trial_filtered + at, wy, mask=kept)

    least = tl.exp(floor)
    prob = tl.load(probs + at, mask=there, other=1.0)
    target = (coupling * tl.log(tl.maximum(prob, least)) + 2 * pairwise * wy) / temperature
    before = tl.log(tl.maximum(y, TINY))
    before -= tl.max(tl.where(inside, before, -float("inf")), 0)[None, :]
    before = tl.maximum(before, floor)
    logits = before + rate * (target - before)
    logits = tl.where(rate < 1, logits, target)
    logits -= tl.max(tl.where(inside, logits, -float("inf")), 0)[None, :]
    mass = tl.exp(tl.maximum(logits, floor))
    mass *= tl.load(allowed + image * classes + k, mask=k < classes, other=0.0)[:, None]
    mass /= tl.sum(mass, 0)[None, :]
    seed = tl.load(seeds + image.to(tl.int64) * pixels + pixel, mask=pixel < pixels, other=0)
    hard = (k[:, None] == seed[None, :]).to(tl.float32)
    tl.store(current + at, tl.where((seed == UNLABELED)[None, :], mass, hard), mask=there)


def _tile(classes: int) -> tuple[int, int]:
    """Classes and pixels of a program."""
    padded = int(triton.next_power_of_2(classes))
    return padded, max(16, TILE // padded)


def energy(labels: Tensor, filtered: Tensor, terms: Terms) -> Tensor:
    """``[b]``: ``η Σ -y·ln σ + λ Σ_ij W_ij (1 - y_i·y_j) - τ Σ S(y)`` with `filtered` = W y, in float64."""
    batch, classes, pixels = labels.shape
    across, height = _tile(classes)
    parts = labels.new_empty(batch, blocks(pixels, height), dtype=torch.float64)
    with on_device(labels):
        _energy[(parts.shape[1], batch)](
            labels,
            filtered,
            terms.probs,
            terms.seeds,
            parts,
            terms.coupling,
            terms.pairwise,
            terms.temperature,
            terms.floor,
            pixels,
            classes,
            CLASSES=across,
            PIXELS=height,
        )
    return parts.sum(1)


class Labels(NamedTuple):
    """Labels ``[b k n]``, and W of them."""

    value: Tensor
    filtered: Tensor


def update(current: Labels, trial: Labels, accepted: Tensor, rates: Tensor, terms: Terms) -> None:
    """One step in the logits, from the trial where it is accepted, else from the current labels.

    Writes the new trial to ``current.value``, and to `trial` the labels that it starts from: the two change roles.
    A step goes by the `rates` of the images from their logits to those that minimize the tangent.
    """
    batch, classes, pixels = current.value.shape
    across, height = _tile(classes)
    with on_device(accepted):
        _update[(blocks(pixels, height), batch)](
            *current,
            *trial,
            accepted.int(),
            rates,
            terms.probs,
            terms.seeds,
            terms.allowed,
            terms.coupling,
            terms.pairwise,
            terms.temperature,
            terms.floor,
            pixels,
            classes,
            CLASSES=across,
            PIXELS=height,
        )
