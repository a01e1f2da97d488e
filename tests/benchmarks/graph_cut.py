"""GraphCut against GCO (`gco-wrapper`): energy and time of α-expansion on photographs with 21 classes.

    pip install . -r tests/benchmarks/requirements.txt
    SELFLABEL_DATA=... python tests/benchmarks/graph_cut.py --images 10

Both are given the same unaries (a mixture of 21 Gaussians in color space), edges and weights, and run to
convergence in this process on one core; times are of the CPU and include building graphs. Energies are those
of the resulting labels, evaluated here in float64, and must not exceed GCO's by more than 0.1 % on any image:
else the exit code is 1. GCO rounds costs to integers; it is free for research only.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import gco
import numpy as np
import torch
from pictures import color_mixture
from PIL import Image

from selflabel.affinity import GridAffinity
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import GraphCut


def gco_labels(unary: np.ndarray, first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    classes = unary.shape[1]
    return np.asarray(
        gco.cut_general_graph(
            np.stack([first, second], 1),
            weight,
            unary,
            1.0 - np.eye(classes),
            n_iter=-1,
            algorithm="expansion",
        )
    )


@dataclass(frozen=True)
class Compared:
    """One photograph: seconds of both, excess over GCO's energy and the gap to the bound in percent."""

    ours: float
    theirs: float
    above: float
    gap: float
    single: float | None
    """The excess without exploring, if asked for."""


def posed(image: np.ndarray, probs: np.ndarray, sigma: float, neighbors: int, pairwise: float) -> Problem:
    """The problem of a photograph without seeds."""
    affinity = GridAffinity.from_image(torch.from_numpy(image).movedim(-1, 0)[None], sigma, neighbors)
    seeds = torch.full((1, *image.shape[:2]), UNLABELED)
    return Problem(Energy(pairwise_weight=pairwise), torch.from_numpy(probs).float()[None], seeds, affinity)


def compare(problem: Problem, single: bool) -> Compared:
    """Graph cut and GCO on one problem; the reported energy and bound are checked."""
    edges = problem.affinity.edges()
    first, second = edges.first.numpy().astype(np.int32), edges.second.numpy().astype(np.int32)
    weight = problem.energy.pairwise_weight * edges.weight[0].double().numpy()
    costs = problem.energy.coupling.at_vertices(problem.probs)
    unary = np.ascontiguousarray(costs[0].flatten(1).T.double().numpy())

    def energy_of(index: np.ndarray) -> float:
        return unary[np.arange(len(unary)), index].sum() + weight[index[first] != index[second]].sum()

    started = time.process_time()
    solution = solve(problem, GraphCut())
    ours = time.process_time() - started
    started = time.process_time()
    labels = gco_labels(unary, first, second, weight)
    theirs = time.process_time() - started
    energy, own = energy_of(labels), energy_of(solution.labels[0].argmax(0).flatten().numpy())
    assert abs(own - float(solution.energy)) <= 1e-6 * own, "the reported energy is wrong"
    assert float(solution.bound) <= own * (1 + 1e-9), "the bound is above the energy"
    once = 100 * (float(solve(problem, GraphCut(explore=False)).energy) / energy - 1) if single else None
    gap = 100 * (1 - float(solution.bound) / own)
    return Compared(ours, theirs, 100 * (own / energy - 1), gap, once)


def row(neighbors: int, pairwise: float, found: list[Compared]) -> str:
    """A line of the table: means and worst cases over the photographs."""
    above, gap, ours, theirs = (
        np.array([getattr(one, name) for one in found]) for name in ("above", "gap", "ours", "theirs")
    )
    single = [one.single for one in found if one.single is not None]
    alone = f"{np.mean(single):.4f} | {np.max(single):.4f}" if single else "- | -"
    return (
        f"| {neighbors} | {pairwise:g} | {above.mean():.4f} | {above.max():.4f} | {alone} "
        f"| {gap.mean():.2f} | {ours.mean():.2f} | {theirs.mean():.2f} "
        f"| {ours.sum() / theirs.sum():.2f} | {(ours / theirs).max():.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first images")
    parser.add_argument("--single", action="store_true", help="also the energies without exploring")
    parser.add_argument("--at-most", type=float, default=0.1, help="largest excess over GCO, in percent")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--neighbors", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.5, 2.0, 8.0])
    parser.add_argument("--sigma", type=float, default=9.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(20301)
    paths = sorted((Path(os.environ["SELFLABEL_DATA"]) / "bsds" / "images").iterdir())
    paths = paths[options.skip : options.skip + options.images]
    cases = []
    for path in paths:
        image = np.array(Image.open(path).convert("RGB"))
        cases.append((path.stem, image, color_mixture(image, options.classes, rng)))
    print(
        "| neighbors | lambda | energy over GCO, % mean | worst | single pass, % mean | worst | bound gap, % "
        "| seconds | GCO seconds | ratio | worst |"
    )
    print("|" + "---:|" * 11)
    failed = []
    for neighbors in options.neighbors:
        for pairwise in options.weights:
            found = []
            for name, image, probs in cases:
                problem = posed(image, probs, options.sigma, neighbors, pairwise)
                found.append(compare(problem, options.single))
                if found[-1].above > options.at_most:
                    failed.append(
                        f"{name}, {neighbors} neighbors, lambda {pairwise:g}: {found[-1].above:.3f} %"
                    )
            print(row(neighbors, pairwise, found), flush=True)
    if failed:
        raise SystemExit(f"more than {options.at_most} % above GCO:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
