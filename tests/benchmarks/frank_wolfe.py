"""Energy against filterings and against time: Frank-Wolfe, mean field, gradient descent, graph cut, total variation.

    SELFLABEL_DATA=… python tests/benchmarks/frank_wolfe.py --images 20 --out docs/solvers_over_time

Photographs of bsds and camvid, halved twice, with their scribbles as seeds, and predictions of the forest mixed with
0.1 % of uniform. All solvers minimize the bi-linear energy without entropy: "relaxed". "Rounded" is the Potts energy
of the most probable classes. Mean field minimizes with an entropy (τ = 1); its energies here are without it, as in
Lê-Huu & Alahari (NeurIPS 2021). The total variation is relaxed otherwise, so only its rounded labels are compared. A
step of mean field and of Frank-Wolfe is one filtering, and one more is at the start; gradient descent filters once
more. Such counts do not depend on the machine. Seconds are the processor's, of one thread, without what is read off
on the way.

Writes OUT.tables.md, and OUT.png with matplotlib. `--settings` tries shares and decays instead: those of the defaults
were chosen on six other photographs.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pictures import Picture, spaced

from selflabel import DenseAffinity, Energy, GaussianKernel, GridAffinity, Problem, solve
from selflabel.affinity import Affinity
from selflabel.affinity.builders import Dense
from selflabel.annotators import ForestAnnotator
from selflabel.driver import Solver, Step
from selflabel.labels import one_hot
from selflabel.solvers import FrankWolfe, GradientDescent, GraphCut, MeanField, TotalVariation
from selflabel.solvers.frank_wolfe import Entropic, Euclidean
from selflabel.terms import BILINEAR, STANDARD, TOTAL_VARIATION

STEPS = 20
READ = (5, 10, 20)
"""Steps of the tables."""

LEAST_SHOWN = 0.01
"""Percent: what is less is drawn there."""

DENSE = Dense(sigma=8.0, sigma_xy=40.0, smoothness=1.0, smoothness_xy=3.0, symmetric=True)
LOSS = (GaussianKernel(1.0, 100.0, 15.0),)
KERNELS: dict[str, tuple[Callable[[torch.Tensor], Affinity], float]] = {
    "labeling (σ 8, 40; place 3; symmetric), λ 1": (DENSE, 1.0),
    "loss (σ 15, 100), λ 0.01": (lambda image: DenseAffinity.from_image(image, LOSS), 0.01),
    "grid (σ 9, 8 neighbors), λ 2": (
        lambda image: GridAffinity.from_image(image, 9.0, 8, by_distance=True),
        2.0,
    ),
}
SOLVERS: dict[str, Solver] = {
    "mean field": MeanField(rtol=0.0),
    "gradient descent": GradientDescent(rtol=0.0),
    "Frank-Wolfe": FrankWolfe(rtol=0.0),
    "Frank-Wolfe, entropic": FrankWolfe(Entropic(), rtol=0.0),
}
SPARSE: dict[str, Solver] = {"total variation": TotalVariation(rtol=0.0), "graph cut": GraphCut()}


@dataclass
class Run:
    """After each step of a solver on one image: energies, and the processor's seconds up to it."""

    relaxed: list[float] = field(default_factory=list)
    rounded: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def at(self, step: int) -> tuple[float, float]:
        """The energies after a step; of a solver that stopped before, its last ones."""
        number = min(step, len(self.relaxed)) - 1
        return self.relaxed[number], self.rounded[number]


def posed(picture: Picture, kernel: str) -> Problem:
    build, weight = KERNELS[kernel]
    probs = picture.predict(ForestAnnotator())
    probs = (probs + 1e-3) / (1 + 1e-3 * picture.classes)
    energy = Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=weight)
    return Problem(energy, probs, picture.seeds, build(picture.image))


def run(problem: Problem, solver: Solver, steps: int = STEPS) -> Run:
    given, found = problem, Run()
    if isinstance(solver, MeanField):
        given = replace(problem, energy=replace(problem.energy, entropy_weight=1.0))
    if isinstance(solver, TotalVariation):
        given = replace(problem, energy=replace(problem.energy, relaxation=TOTAL_VARIATION))
    spent = 0.0
    began = time.process_time()

    def look(_: int, step: Step) -> None:
        nonlocal spent, began
        spent += time.process_time() - began
        rounded = problem.feasible(one_hot(step.labels.argmax(1), step.labels.shape[1]))
        found.relaxed.append(float(problem.value(step.labels)))
        found.rounded.append(float(problem.value(rounded)))
        found.seconds.append(spent)
        began = time.process_time()

    solve(given, solver, max_steps=steps, callback=look)
    return found


def rows(runs: dict[str, list[Run]], number: int) -> list[str]:
    """Energies over those of mean field after as many steps, in percent: the mean, and images that are lower."""
    lines = []
    for name, own in runs.items():
        cells = []
        for step in READ:
            pairs = [
                zip(one.at(step), base.at(step), strict=True)
                for one, base in zip(own, runs["mean field"], strict=True)
            ]
            for kind in zip(*[[(a / b - 1, a < b) for a, b in each] for each in pairs], strict=True):
                lower = sum(below for _, below in kind)
                cells.append(f"{100 * statistics.mean(change for change, _ in kind):+.2f} % ({lower})")
        if name == "total variation":
            cells[::2] = ["–"] * len(READ)
        median = statistics.median(one.seconds[min(10, len(one.seconds)) - 1] for one in own)
        lines.append(f"| {name} | {' | '.join(cells)} | {median:.2f} |")
    return lines


def table(kernel: str, runs: dict[str, list[Run]]) -> str:
    heads = " | ".join(f"{step} steps, {kind}" for step in READ for kind in ("relaxed", "rounded"))
    count = len(runs["mean field"])
    lines = [f"**{kernel}**, {count} images", ""]
    lines += [f"| | {heads} | seconds of 10 steps |", "| --- " * (2 + 2 * len(READ)) + "|"]
    return "\n".join([*lines, *rows(runs, count)])


def figure(every: dict[str, dict[str, list[Run]]], path: Path) -> None:
    """The mean over images of energies above the least one that any solver found, in percent, against seconds."""
    import matplotlib.pyplot as plt

    sheet, axes = plt.subplots(
        2, len(every), figsize=(4.6 * len(every), 7), layout="constrained", squeeze=False
    )
    for column, (kernel, runs) in zip(axes.T, every.items(), strict=True):
        for kind, axis in zip(("relaxed", "rounded"), column, strict=True):
            least = [min(min(one.rounded) for one in each) for each in zip(*runs.values(), strict=True)]
            for place, (name, own) in enumerate(runs.items()):
                if kind == "relaxed" and name == "total variation":
                    continue
                length = min(len(one.relaxed) for one in own)
                above = [
                    statistics.mean(
                        max(100 * (getattr(one, kind)[step] / low - 1), LEAST_SHOWN)
                        for one, low in zip(own, least, strict=True)
                    )
                    for step in range(length)
                ]
                seconds = [statistics.mean(one.seconds[step] for one in own) for step in range(length)]
                axis.plot(seconds, above, "o-", markersize=3, color=f"C{place}", label=name)
            axis.set(xscale="log", yscale="log", ylabel=f"{kind} energy above the least, %")
            axis.grid(alpha=0.3)
        column[0].set_title(kernel, fontsize="medium")
        column[1].set_xlabel("seconds of one processor")
    axes[1][-1].legend(fontsize="small")
    sheet.savefig(path, dpi=110)


def pictures(count: int, halvings: int) -> list[Picture]:
    parts = (("bsds", count // 2), ("camvid", count - count // 2))
    found = [picture for pack, n in parts for picture in spaced(pack, n)]
    for _ in range(halvings):
        found = [picture.halved() for picture in found]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--halvings", type=int, default=2)
    parser.add_argument("--out", type=Path, help="OUT.tables.md and OUT.png")
    parser.add_argument("--settings", action="store_true", help="shares and decays of Frank-Wolfe instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = pictures(options.images, options.halvings)
    every: dict[str, dict[str, list[Run]]] = {}
    for kernel in KERNELS:
        solvers = {**SOLVERS, **(SPARSE if kernel.startswith("grid") else {})}
        if options.settings:
            solvers = {"mean field": MeanField(rtol=0.0)}
            for share in (0.25, 0.5, 1.0, 2.0):
                for decay in (0.6, 0.7, 0.8):
                    solvers[f"Euclidean, share {share}, decay {decay}"] = FrankWolfe(
                        Euclidean(share=share), decay, rtol=0.0
                    )
        problems = [posed(picture, kernel) for picture in chosen]
        for solver in solvers.values():
            run(problems[0], solver, 2)  # compiles
        every[kernel] = {name: [run(one, solver) for one in problems] for name, solver in solvers.items()}
        print(table(kernel, every[kernel]), end="\n\n", flush=True)
    if options.out:
        tables = "\n\n".join(table(kernel, runs) for kernel, runs in every.items())
        options.out.with_suffix(".tables.md").write_text(tables + "\n", encoding="utf-8")
        figure(every, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
