"""Dense CRFs against pydensecrf2: mean field one by one and eight at a time, and the loss; gated CRF as published."""

import statistics
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pydensecrf.densecrf as peer
import torch
from coarse_accuracy import CLASSES, brute_force, closeness, middle, ours, pixels_of
from gated_crf import ours as gated
from gated_crf import published, run
from lattice_accuracy import exact_rows, features_of
from peer_folder import mean_field as theirs
from pictures import Picture, color_mixture
from pydensecrf.utils import unary_from_softmax
from timing import Duel, Row, spread
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent))

from support.memory import peak_bytes

from selflabel import DenseAffinity, GaussianKernel
from selflabel.affinity import COARSE, FilterBuilder, Lattice
from selflabel.losses import dense_crf_loss

LOSS = GaussianKernel(1.0, 100.0, 15.0)
Array = np.ndarray


def accuracy(cases: list[tuple[Array, Array]], filtering: FilterBuilder) -> tuple[str, bool]:
    """On crops of 64 and 128 pixels: labels that differ from brute force and divergence, both ways."""
    texts, fine = [], True
    for side in (64, 128):
        found: list[list[tuple[float, float]]] = [[], []]
        for image, probs in cases:
            crop, part = middle(image, probs, side)
            exact = brute_force(crop, part)
            found[0].append(closeness(ours(crop[None], part[None], filtering)[0], exact))
            found[1].append(closeness(torch.from_numpy(theirs(crop, part)), exact))
        own, other = ([statistics.median(column) for column in zip(*rows, strict=True)] for rows in found)
        fine = fine and own[0] <= other[0] and own[1] <= other[1]
        texts.append(
            f"{side}²: other labels {own[0]:.2%}, peer {other[0]:.2%}; KL {own[1]:.1g}, {other[1]:.1g}"
        )
    return "; ".join(texts), fine


def mean_field(pictures: list[Picture], repeats: int) -> list[Row]:
    rng = np.random.default_rng(20_301)
    cases = []
    for picture in pictures:
        image = pixels_of(picture)
        cases.append((image, color_mixture(image, CLASSES, rng).astype(np.float32)))
    rows = []
    for name, filtering in (("coarse lattice", COARSE), ("lattice", Lattice())):
        duel = Duel(repeats)
        for image, probs in cases:
            duel.run(partial(ours, image[None], probs[None], filtering), partial(theirs, image, probs))
        check, fine = accuracy(cases[:8], filtering)
        rows.append(duel.row(f"dense CRF, 10 steps, K = 21, {name}", "pydensecrf2", 0.5, check, fine))

    shape = cases[0][0].shape
    alike = [case for case in cases if case[0].shape == shape][:8]
    images, probs = (np.stack(column) for column in zip(*alike, strict=True))
    duel = Duel(repeats)
    together, _ = duel.run(partial(ours, images, probs), lambda: [theirs(*case) for case in alike])
    alone = torch.cat([ours(*(x[None] for x in case)) for case in alike])
    apart = float((together - alone).abs().max())
    name = f"the same, {len(alike)} images at once, coarse lattice"
    rows.append(duel.row(name, "as many calls", 0.35, f"as one by one to {apart:.1g}", apart < 1e-3))
    return rows


def loss_and_gradient(image: Array, probs: Array) -> tuple[Tensor, Tensor]:
    """The loss and its gradient from uint8 pixels and probabilities; the affinity is built here."""
    logits = torch.from_numpy(probs).clamp_min(1e-4).log()[None].requires_grad_()
    pixels = torch.from_numpy(image).movedim(-1, 0)[None]
    value = dense_crf_loss(logits, DenseAffinity.from_image(pixels, (LOSS,)))
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def one_filtering(image: Array, probs: Array) -> None:
    """The peer's lattice, and one filtering with its softmax."""
    crf = peer.DenseCRF2D(image.shape[1], image.shape[0], CLASSES)
    crf.setUnaryEnergy(unary_from_softmax(probs))
    none = peer.NO_NORMALIZATION
    crf.addPairwiseBilateral(sxy=100, srgb=15, rgbim=image, compat=1, normalization=none)
    crf.inference(1)


def loss(pictures: list[Picture], repeats: int) -> list[Row]:
    """Errors at 500 random pixels of each photograph, where the sums over all pixels are computed exactly.

    The gradient is that by the probabilities, ``-2 W S``, which is what the peers return.
    """
    rng = np.random.default_rng(20_302)
    duel, values, slopes = Duel(repeats), [], []
    for picture in pictures:
        image = pixels_of(picture)
        probs = color_mixture(image, CLASSES, rng).astype(np.float32)
        pixels = torch.from_numpy(image).float()
        some = torch.from_numpy(rng.choice(pixels[..., 0].numel(), 500, replace=False))
        labels = torch.from_numpy(probs)[None].flatten(2)
        exact = exact_rows(features_of(pixels, 15.0, 100.0), labels, some)
        affinity = DenseAffinity.from_image(torch.from_numpy(image).movedim(-1, 0)[None], (LOSS,))
        found = affinity.apply(torch.from_numpy(probs)[None]).flatten(2)[0][:, some].double()
        cut, exact_cut = (((1 - labels[0][:, some]) * filtered).sum() for filtered in (found, exact))
        values.append(float(abs(cut / exact_cut - 1)))
        slopes.append(float((found - exact).norm() / exact.norm()))
        duel.run(partial(loss_and_gradient, image, probs), partial(one_filtering, image, probs))
    check = f"value off by {spread(values, '.2%')}, gradient by {spread(slopes, '.2%')}, not rescaled"
    return [duel.row("dense CRF loss, K = 21", "pydensecrf2", 1.0, check, max(values + slopes) <= 0.03)]


def gated_crf(_: list[Picture], repeats: int) -> list[Row]:
    """Values and gradients are compared in double precision, times are of single."""
    generator = torch.Generator().manual_seed(5_351)
    logits = torch.randn(4, CLASSES, 128, 128, generator=generator)
    images = torch.nn.functional.avg_pool2d(torch.rand(4, 3, 128, 128, generator=generator), 9, 1, 4)
    found = []
    for function in (gated, published):
        leaf = logits[:1].double().requires_grad_()
        found.append((run(function, leaf, images[:1].double(), 5), leaf.grad))
    value = float(abs(found[0][0] / found[1][0] - 1))
    slope = float((found[0][1] - found[1][1]).norm() / found[1][1].norm())
    leaf = logits.requires_grad_()
    memory = [peak_bytes(partial(run, function, leaf, images, 5)) for function in (gated, published)]
    duel = Duel(repeats)
    duel.run(partial(run, gated, leaf, images, 5), partial(run, published, leaf, images, 5))
    check = (
        f"value to {value:.0e}, gradient to {slope:.0e}; memory {memory[0] / 1e6:.0f} MB, "
        f"peer {memory[1] / 1e6:.0f} MB"
    )
    fine = max(value, slope) < 1e-6 and memory[0] * 20 <= memory[1]
    return [duel.row("gated CRF loss, 4x21x128x128, radius 5", "as published", 0.1, check, fine)]
