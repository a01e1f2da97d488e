"""Mean field in Triton: the energy of labels whose filtering is known, and the labels that minimize its tangent.

A program works on all classes of a block of pixels; labels lie class by class in memory, ``[b k n]``.
"""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, Launch, blocks, power_of_two

UNLABELED = tl.constexpr(255)
"""The seed of a pixel without one."""

TINY = tl.constexpr(1.2e-38)
"""The least float32 that is not denormal, nearly."""

TILE = 2048
"""Labels of a program."""


class Terms(NamedTuple):
    """What the energy is made of, the same in all steps."""

    unary: Tensor
    """``η ln σ``, ``[b k n]``."""
    seeds: Tensor
    """``[b n]``, `UNLABELED` where there is none."""
    allowed: Tensor
    """``[b k]``, 1 for the classes that an image may have, else 0."""
    pairwise: float
    temperature: float
    floor: float
    """The least logarithm of a label or a prediction."""
    rules: "SweepRules"


class SweepRules(NamedTuple):
    """Which pixels a step visits, and which steps are taken (`mean_field_torch`)."""

    revisit: int
    """All are visited every so many steps, at least."""
    far: float
    """Fraction of the energy: while steps lower it by more, all are visited."""
    settled: float
    """Distance between a pixel's labels before and after a step: the next one leaves nearer ones as they are."""
    rise: float
    """Fraction of the energy: by so much it may rise."""
    shortest: float
    """Rate: an image whose steps are shorter is done."""


@Kernel
def _energy(
    labels,
    filtered,
    unary,
    seeds,
    to,
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
    cost = temperature * tl.log(tl.maximum(y, tl.exp(floor))) - tl.load(unary + at, mask=there, other=0.0)
    seed = tl.load(seeds + image.to(tl.int64) * pixels + pixel, mask=pixel < pixels, other=0)
    own = tl.where(seed == UNLABELED, tl.sum(y * cost, 0), 0.0)
    own += pairwise * (tl.sum(wy, 0) - tl.sum(y * wy, 0))
    tl.store(to + image * tl.num_programs(0) + block, tl.sum(own.to(tl.float64), 0))


@Kernel
def _update(
    current, current_filtered, trial, trial_filtered, accepted, rates, ages, swept, moved, unary, seeds, allowed,
    pairwise, temperature, floor, revisit, settled, pixels, classes,
    SWEEPS: tl.constexpr, CLASSES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    image, k = tl.program_id(1), tl.arange(0, CLASSES)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = (k < classes)[:, None]
    there = inside & (pixel < pixels)[None, :]
    at = (image.to(tl.int64) * classes + k[:, None]) * pixels + pixel[None, :]
    taken, rate = tl.load(accepted + image), tl.load(rates + image)
    if taken != 0:
        wy = tl.load(trial_filtered + at, mask=there, other=0.0)
    else:  # what was refused makes room for what is kept
        wy = tl.load(current_filtered + at, mask=there, other=0.0)
        tl.store(trial_filtered + at, wy, mask=there)
        tl.store(trial + at, tl.load(current + at, mask=there, other=0.0), mask=there)
    logits = (tl.load(unary + at, mask=there, other=0.0) + 2 * pairwise * wy) * (1 / temperature)
    if rate < 1:
        tl.debug_barrier()  # the labels to start from are in `trial` now, in either case
        before = tl.log(tl.maximum(tl.load(trial + at, mask=there, other=0.0), TINY))
        before -= tl.max(tl.where(inside, before, -float("inf")), 0)[None, :]
        before = tl.maximum(before, floor)
        logits = before + rate * (logits - before)
    logits -= tl.max(tl.where(inside, logits, -float("inf")), 0)[None, :]
    mass = tl.exp(tl.maximum(logits, floor))
    mass *= tl.load(allowed + image * classes + k, mask=k < classes, other=0.0)[:, None]
    mass /= tl.sum(mass, 0)[None, :]
    seed = tl.load(seeds + image.to(tl.int64) * pixels + pixel, mask=pixel < pixels, other=0)
    hard = (k[:, None] == seed[None, :]).to(tl.float32)
    new = tl.where((seed == UNLABELED)[None, :], mass, hard)
    if SWEEPS:
        tl.debug_barrier()  # as above
        old = tl.load(trial + at, mask=there, other=0.0)
        everywhere = (tl.load(swept + image) == 0) | (tl.load(ages + image) % revisit == 0)
        place = moved + image.to(tl.int64) * pixels + pixel
        visited = (seed == UNLABELED) & (everywhere | (tl.load(place, mask=pixel < pixels, other=0) != 0))
        new = tl.where(visited[None, :], new, old)
        change = new - old
        far = tl.sum(change * change, 0) > settled
        tl.store(place, (visited & far).to(tl.uint8), mask=pixel < pixels)
    tl.store(current + at, new, mask=there)


@Kernel
def _decide(
    parts,
    done_before,
    done,
    energies,
    rates,
    ages,
    swept,
    new_energies,
    accepted,
    new_rates,
    new_ages,
    new_swept,
    rtol,
    far,
    revisit,
    rise,
    shortest,
    count,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(parts + image.to(tl.int64) * count + at, mask=at < count, other=0.0)
    energy, before, rate = tl.sum(total, 0), tl.load(energies + image), tl.load(rates + image)
    was_done = tl.load(done_before + image).to(tl.int32)
    sweeps, age = tl.load(swept + image), tl.load(ages + image)
    size = tl.abs(before)
    better = (energy <= before + rise * size).to(tl.int32) * (1 - was_done)
    resting = better * (before - energy <= rtol * size).to(tl.int32)
    everywhere = ((sweeps == 0) | (age % revisit == 0)).to(tl.int32)
    ended = was_done | (resting * everywhere) | (rate < shortest).to(tl.int32)
    tl.store(done + image, ended.to(tl.uint8))
    tl.store(accepted + image, better)
    tl.store(new_energies + image, tl.where(better > 0, energy, before))
    # a sweep that is refused is tried again at all pixels, before steps become shorter
    shorter = tl.where(sweeps > 0, rate, rate / 2)
    tl.store(new_rates + image, tl.where(better > 0, tl.minimum(2 * rate, 1.0), shorter))
    again = (resting > 0) | (before - energy > far * size)
    tl.store(new_ages + image, tl.where(again, 0, age + 1))
    tl.store(new_swept + image, sweeps * better)


def _tile(classes: int) -> tuple[int, int]:
    """Classes and pixels of a program."""
    padded = power_of_two(classes)
    return padded, max(16, TILE // padded)


class Labels(NamedTuple):
    """Labels ``[b k n]``, and W of them."""

    value: Tensor
    filtered: Tensor


def parts_of(labels: Tensor) -> Tensor:
    """For energies by blocks of pixels: ``[b blocks]`` in float64."""
    batch, classes, pixels = labels.shape
    return labels.new_empty(batch, blocks(pixels, _tile(classes)[1]), dtype=torch.float64)


def measuring(labels: Labels, terms: Terms, parts: Tensor) -> Launch:
    """``η Σ -y·ln σ + λ Σ_ij W_ij (1 - y_i·y_j) - τ Σ S(y)`` by blocks of pixels."""
    batch, classes, pixels = labels.value.shape
    return Launch(
        _energy, (parts.shape[1], batch), *labels, terms.unary, terms.seeds, parts, terms.pairwise,
        terms.temperature, terms.floor, pixels, classes, *_tile(classes),
    )  # fmt: skip


class State(NamedTuple):
    """Of the images ``[b]``."""

    energies: Tensor
    done: Tensor
    accepted: Tensor
    """1 where the trial is, 0 where the labels before it are kept."""
    rates: Tensor
    """Of the next step."""
    ages: Tensor
    """Steps since all pixels were due."""
    swept: Tensor
    """1 where steps visit pixels that move, 0 where all."""

    @classmethod
    def at_start(cls, energies: Tensor, *, swept: bool) -> "State":
        """Full steps from a trial that is accepted."""
        ones = torch.ones_like(energies, dtype=torch.float32)
        done = torch.zeros_like(energies, dtype=torch.bool)
        return cls(energies, done, ones.int(), ones, done.int(), torch.full_like(ones, int(swept)).int())


def deciding(parts: Tensor, before: State, after: State, rtol: float, rules: SweepRules) -> Launch:
    """The state after a trial with these energies. Where they rise, it is not accepted.

    After such a sweep all steps of the image visit all pixels; after such a step of all, the next one is half as long.
    An image is done if a step of all pixels gains less than `rtol` of its energy, or if no step is short enough.
    """
    flags = (state.done.view(torch.uint8) for state in (before, after))
    rest = (
        before.energies, before.rates, before.ages, before.swept,
        after.energies, after.accepted, after.rates, after.ages, after.swept,
    )  # fmt: skip
    numbers = rtol, rules.far, rules.revisit, rules.rise, rules.shortest, parts.shape[1]
    return Launch(_decide, (len(parts),), parts, *flags, *rest, *numbers, 1024)


def updating(
    current: Labels,
    trial: Labels,
    state: State,
    terms: Terms,
    moved: Tensor | None,
    *,
    is_first: bool = False,
) -> Launch:
    """One step in the logits, from the trial where it is accepted, else from the current labels.

    Writes the new trial to ``current.value``, and to `trial` the labels that it starts from: the two change roles.
    A step goes by the rates of the images from their logits to those that minimize the tangent. `moved` ``[b n]``:
    the pixels that a sweep visits, which is written for the next one (after the first one, all); None for steps of all.
    """
    batch, classes, pixels = current.value.shape
    across, height = _tile(classes)
    return Launch(
        _update, (blocks(pixels, height), batch), *current, *trial, state.accepted, state.rates, state.ages,
        state.swept, state.swept if moved is None else moved, terms.unary, terms.seeds, terms.allowed,
        terms.pairwise, terms.temperature, terms.floor, terms.rules.revisit,
        -1.0 if is_first else terms.rules.settled**2, pixels, classes, moved is not None, across, height,
    )  # fmt: skip
