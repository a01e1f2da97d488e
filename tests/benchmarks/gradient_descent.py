"""The default gradient descent against the published preset and against a long run, for every energy.

    SELFLABEL_DATA=… python tests/benchmarks/gradient_descent.py --images 20

Energies: images are halved twice (120x90 to 120x80 pixels), or the long runs would take a day. Columns: energy of a
short run (as many steps as `--evaluations` allow, default 30) above that of the long one (3000 steps at most; ended
when 200 steps gain less than 1e-6 of the energy; the lowest of the runs without coarse start, with one level and
with all), mean and worst image; its work in gradient evaluations, the coarse ones counted by their pixels; and
images where it ends above the preset (200 steps at rate 0.075). Times: on `--timed` images of full size, the share
of the preset's time after which the default is below the preset's final energy, median and worst.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from pictures import Picture, spaced

from selflabel import Energy, GridAffinity, Problem, solve
from selflabel.annotators import ForestAnnotator
from selflabel.driver import Step
from selflabel.solvers import GradientDescent
from selflabel.solvers.gradient_descent import PAPER
from selflabel.terms import COUPLINGS, RELAXATIONS, Coupling, Relaxation


@dataclass
class Work:
    """Pixels whose gradient (or half: energy alone) was evaluated."""

    pixels: float = 0.0


@contextmanager
def counted() -> Iterator[Work]:
    work, value, with_slope = Work(), Problem.value, Problem.value_and_grad

    def count_value(problem: Problem, labels: torch.Tensor) -> torch.Tensor:
        work.pixels += labels[:, 0].numel() / 2
        return value(problem, labels)

    def count_slope(problem: Problem, labels: torch.Tensor) -> object:
        work.pixels += labels[:, 0].numel()
        return with_slope(problem, labels)

    Problem.value, Problem.value_and_grad = count_value, count_slope
    try:
        yield work
    finally:
        Problem.value, Problem.value_and_grad = value, with_slope


def long_run(problem: Problem) -> float:
    """The lowest energy of a long run."""
    best = float("inf")
    for levels in (0, 1, 3):
        solver = GradientDescent(rtol=0.0, coarse_levels=levels)
        labels, energy = None, float("inf")
        for round_ in range(15):
            chosen = solver if round_ == 0 else replace(solver, coarse_levels=0)
            solution = solve(problem, chosen, start=labels, max_steps=200)
            labels, gain = solution.labels, energy - float(solution.energy)
            energy = float(solution.energy)
            if gain <= 1e-6 * abs(energy):
                break
        best = min(best, energy)
    return best


@dataclass(frozen=True)
class Row:
    excess: float
    work: float
    below_preset: bool


def evaluations_of(problem: Problem, steps: int) -> tuple[float, float]:
    """The gradient evaluations of a run, without the driver's energies of start and end, and its last energy."""
    with counted() as work:
        solution = solve(problem, GradientDescent(), max_steps=steps)
    return work.pixels / problem.seeds.numel() - 1, float(solution.energy)


def measure(problem: Problem, limit: float) -> Row:
    preset = solve(problem, PAPER, max_steps=200)
    start, _ = evaluations_of(problem, 1)
    evaluations, energy = evaluations_of(problem, int(limit - start) + 1)
    best = min(long_run(problem), energy)
    return Row(energy / best - 1, evaluations, energy <= float(preset.energy))


def share_of_time(problem: Problem) -> float:
    """Seconds of the default until it is below the preset's end, over the preset's; inf if it never is."""
    start = time.perf_counter()
    preset = solve(problem, PAPER, max_steps=200)
    preset_seconds = time.perf_counter() - start
    reached: list[float] = []
    start = time.perf_counter()

    def note(_: int, step: Step) -> None:
        if not reached:
            energy = problem.value(step.labels) if step.energy is None else step.energy
            if float(energy) <= float(preset.energy):
                reached.append(time.perf_counter() - start)

    solve(problem, GradientDescent(), max_steps=200, callback=note)
    return reached[0] / preset_seconds if reached else float("inf")


@dataclass(frozen=True)
class Case:
    """A picture with its prediction, as soft as a network's."""

    picture: Picture
    probs: torch.Tensor
    affinity: GridAffinity

    @classmethod
    def of(cls, picture: Picture) -> "Case":
        probs = picture.predict(ForestAnnotator())
        probs = (probs + 1e-3) / (1 + 1e-3 * picture.classes)
        return cls(picture, probs, GridAffinity.from_image(picture.image))

    def problem(self, energy: Energy) -> Problem:
        return Problem(energy, self.probs, self.picture.seeds, self.affinity)


def pictures(count: int) -> list[Picture]:
    parts = (("bsds", count // 2), ("camvid", count - count // 2))
    return [picture for pack, n in parts for picture in spaced(pack, n)]


def energy(coupling: Coupling, relaxation: Relaxation) -> Energy:
    return Energy(coupling, relaxation, coupling_weight=0.3, pairwise_weight=6.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--timed", type=int, default=4)
    parser.add_argument("--evaluations", type=float, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = [Case.of(picture.halved().halved()) for picture in pictures(options.images)]
    full = [Case.of(picture) for picture in pictures(options.timed)]
    print(
        "| coupling | relaxation | above long run, mean | worst | evaluations | above preset | time | worst |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for coupling in COUPLINGS:
        for relaxation in RELAXATIONS:
            chosen = energy(coupling, relaxation)
            rows = [measure(case.problem(chosen), options.evaluations) for case in small]
            shares = [share_of_time(case.problem(chosen)) for case in full]
            print(
                f"| {coupling.name} | {relaxation.name} | {statistics.mean(r.excess for r in rows):.2%} "
                f"| {max(r.excess for r in rows):.2%} | {max(r.work for r in rows):.1f} "
                f"| {sum(not r.below_preset for r in rows)} "
                f"| 1/{1 / statistics.median(shares):.0f} | 1/{1 / max(shares):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
