"""Gradient descent on the quadratic energy against its closed form, the random walker (Zhang & Boykov 2025, App. A).

    SELFLABEL_DATA=… python tests/benchmarks/closed_form.py --images 100

Prints the soft Jaccard index Σ min(y, y*) / Σ max(y, y*) over the pixels that are not seeds: mean and worst.
"""

import argparse
import statistics
import time

import torch
from pictures import Picture, spaced

from selflabel import Energy, GridAffinity, Problem, solve
from selflabel.annotators import ForestAnnotator
from selflabel.solvers import GradientDescent, RandomWalker
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS

ENERGY = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.3, pairwise_weight=6.0)


def soft_jaccard(problem: Problem, a: torch.Tensor, b: torch.Tensor) -> float:
    return float((torch.minimum(a, b) * problem.free).sum() / (torch.maximum(a, b) * problem.free).sum())


def compare(picture: Picture, steps: int) -> tuple[float, int, float, float]:
    affinity = GridAffinity.from_image(picture.image)
    problem = Problem(ENERGY, picture.predict(ForestAnnotator()), picture.seeds, affinity)
    exact = solve(problem, RandomWalker())
    start = time.perf_counter()
    descent = solve(problem, GradientDescent(), max_steps=steps)
    seconds = time.perf_counter() - start
    excess = float(descent.energy / exact.energy) - 1
    return soft_jaccard(problem, descent.labels, exact.labels), int(descent.steps), excess, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bsds = min(60, options.images // 2)
    rows = []
    for pack, count in (("bsds", bsds), ("camvid", options.images - bsds)):
        for picture in spaced(pack, count):
            rows.append(compare(picture, options.steps))
    indices, steps, excess, seconds = zip(*rows, strict=True)
    print("| images | mean soft Jaccard | worst | steps, mean | most | energy above exact, mean | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {len(rows)} | {statistics.mean(indices):.5f} | {min(indices):.5f} | {statistics.mean(steps):.1f} "
        f"| {max(steps)} | {statistics.mean(excess):.2%} | {statistics.mean(seconds):.2f} |"
    )


if __name__ == "__main__":
    main()
