"""Mean field with the lattice against mean field with the exact filter, on 128-pixel crops of photographs.

    SELFLABEL_DATA=… python tests/benchmarks/mean_field.py --images 20

Two kernels (appearance and smoothness of 3 pixels, weight 1 each), ten steps, no seeds; predictions of the
forest. Prints the share of pixels with the same most probable label, and the mean Kullback-Leibler divergence
of the labels, median and worst crop.
"""

import argparse
import statistics

import torch
from pictures import Picture, spaced

from selflabel import DenseAffinity, Energy, GaussianKernel, Problem, solve
from selflabel.affinity import FINE, Exact
from selflabel.annotators import ForestAnnotator
from selflabel.labels import UNLABELED
from selflabel.solvers import MeanField
from selflabel.terms import BILINEAR, STANDARD

SIDE = 128


def agreement(
    picture: Picture, kernel: GaussianKernel, weight: float, symmetric: bool
) -> tuple[float, float]:
    top, left = ((n - SIDE) // 2 for n in picture.image.shape[2:])
    probs = picture.predict(ForestAnnotator()).clamp_min(1e-3)
    probs = (probs / probs.sum(1, keepdim=True))[..., top : top + SIDE, left : left + SIDE]
    image = picture.image[..., top : top + SIDE, left : left + SIDE]
    seeds = torch.full((1, SIDE, SIDE), UNLABELED)
    energy = Energy(STANDARD, BILINEAR, 1.0, weight, entropy_weight=1.0)
    kernels = (kernel, GaussianKernel(1.0, 3.0, None))
    lattice, exact = (
        solve(
            Problem(
                energy,
                probs,
                seeds,
                DenseAffinity.from_image(image, kernels, filtering=each, symmetric=symmetric),
            ),
            MeanField(),
            max_steps=10,
        ).labels
        for each in (FINE, Exact())
    )
    same = (lattice.argmax(1) == exact.argmax(1)).double().mean()
    divergence = (exact * (exact.clamp_min(1e-13).log() - lattice.clamp_min(1e-13).log())).sum(1).mean()
    return float(same), float(divergence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = list(spaced("bsds", options.images))
    print("| (σ_rgb, σ_xy) | normalized | λ | same label, median | mean | worst | KL, median | worst |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for rgb, xy in ((13.0, 80.0), (15.0, 100.0)):
        for symmetric, weight in ((True, 1.0), (True, 5.0), (False, 0.01)):
            rows = [agreement(p, GaussianKernel(1.0, xy, rgb), weight, symmetric) for p in pictures]
            same, divergence = zip(*rows, strict=True)
            print(
                f"| ({rgb:g}, {xy:g}) | {'symmetric' if symmetric else 'no'} | {weight:g} "
                f"| {statistics.median(same):.4f} | {statistics.mean(same):.4f} | {min(same):.4f} "
                f"| {statistics.median(divergence):.2g} | {max(divergence):.2g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
