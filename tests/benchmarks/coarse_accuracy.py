"""Mean field on the lattices against brute force, on every image of a pack: how far labels are off at worst.

    SELFLABEL_DATA=… python tests/benchmarks/coarse_accuracy.py --packs bsds camvid

Crops of 64 x 64 pixels from the middle of each photograph, the dense CRF of `speed.py` (two kernels, symmetric, 10
steps, K = 21) on a mixture of Gaussians in color. "Other labels": the share of pixels whose most probable class is not
that of brute force; KL: the mean divergence from its labels. Prints a Markdown table.
"""

import argparse
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from pictures import Picture, color_mixture, load, stems
from torch import Tensor

from selflabel import DenseAffinity, Energy, GaussianKernel, Problem, solve
from selflabel.affinity import COARSE, FilterBuilder, Lattice
from selflabel.labels import UNLABELED
from selflabel.solvers import MeanField
from selflabel.terms import BILINEAR, STANDARD

CLASSES, STEPS, SIDE = 21, 10, 64
KERNELS = (GaussianKernel(10.0, 80.0, 13.0), GaussianKernel(3.0, 3.0, None))
# pydensecrf2 takes W y into the exponent, which is the tangent of the energy with half of its weight
ENERGY = Energy(STANDARD, BILINEAR, 1.0, 0.5, entropy_weight=1.0)
LATTICES: dict[str, FilterBuilder] = {"`COARSE`": COARSE, "`Lattice()`, the default": Lattice()}
Array = np.ndarray


def pixels_of(picture: Picture) -> Array:
    """The photograph in landscape format, uint8 ``[h w 3]``."""
    image = picture.pixels()
    return np.ascontiguousarray(image if image.shape[0] < image.shape[1] else image.transpose(1, 0, 2))


def ours(images: Array, probs: Array, filtering: FilterBuilder = COARSE) -> Tensor:
    """Labels from images, uint8 ``[b h w 3]``, and probabilities ``[b k h w]``."""
    pixels = torch.from_numpy(images).movedim(-1, 1)
    affinity = DenseAffinity.from_image(pixels, KERNELS, symmetric=True, filtering=filtering)
    seeds = torch.full((len(probs), *probs.shape[2:]), UNLABELED)
    problem = Problem(ENERGY, torch.from_numpy(probs), seeds, affinity)
    return solve(problem, MeanField(rtol=0.0), max_steps=STEPS).labels


def brute_force(image: Array, probs: Array) -> Tensor:
    """The same updates with the matrix of all pairs."""
    height, width = image.shape[:2]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([y, x], -1).view(-1, 2).float()
    total = torch.zeros(height * width, height * width)
    for kernel in KERNELS:
        features = place / kernel.sigma_xy
        if kernel.sigma_rgb is not None:
            features = torch.cat([features, torch.from_numpy(image).view(-1, 3) / kernel.sigma_rgb], 1)
        matrix = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        matrix.square_().mul_(-0.5).exp_()
        scale = matrix.sum(1).rsqrt()
        total += matrix.mul_(scale[:, None]).mul_(kernel.weight * scale)
    sigma = torch.from_numpy(probs).flatten(1).T
    unary, labels = sigma.clamp_min(1e-13).log(), sigma
    for _ in range(STEPS):
        labels = (unary + total @ labels).softmax(1)
    return labels.T.reshape(probs.shape).double()


def closeness(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """Share of pixels with another label, and the mean divergence from the exact labels."""
    divergence = exact * (exact.clamp_min(1e-13).log() - found.double().clamp_min(1e-13).log())
    return float((found.argmax(0) != exact.argmax(0)).double().mean()), float(divergence.sum(0).mean())


def middle(image: Array, probs: Array, side: int) -> tuple[Array, Array]:
    """The square in the middle of an image ``[h w 3]`` and of its probabilities ``[k h w]``."""
    top, left = ((n - side) // 2 for n in image.shape[:2])
    crop = image[top : top + side, left : left + side]
    part = probs[:, top : top + side, left : left + side]
    return np.ascontiguousarray(crop), np.ascontiguousarray(part)


def measured(picture: Picture) -> list[tuple[float, float]]:
    """`closeness` of each lattice on one photograph."""
    image = pixels_of(picture)
    rng = np.random.default_rng(zlib.crc32(picture.name.encode()))  # whichever other images are measured
    crop, part = middle(image, color_mixture(image, CLASSES, rng).astype(np.float32), SIDE)
    exact = brute_force(crop, part)
    return [closeness(ours(crop[None], part[None], one)[0], exact) for one in LATTICES.values()]


def table(pack: str, rows: Array, names: list[str]) -> Iterator[str]:
    """Lines of a Markdown table; rows: ``[images lattices 2]``."""
    for number, lattice in enumerate(LATTICES):
        other, divergence = rows[:, number].T
        worst = names[int(other.argmax())]
        yield (
            f"| {pack} | {len(rows)} | {lattice} | {np.median(other):.2%} | {np.quantile(other, 0.95):.2%} | "
            f"{other.max():.2%} ({worst}) | {np.median(divergence):.1g} | {divergence.max():.1g} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packs", nargs="+", default=["bsds", "camvid"])
    parser.add_argument("--every", type=int, default=1, help="every how many images of a pack")
    options = parser.parse_args()
    print("| pack | images | lattice | other labels, median | 95 of 100 | worst | KL, median | worst |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for pack in options.packs:
        names = stems(pack)[:: options.every]
        rows = np.array([measured(load(pack, name)) for name in names])
        print("\n".join(table(pack, rows, names)), flush=True)


if __name__ == "__main__":
    main()
