"""How time and memory of each solver grow with pixels, classes and images; each measurement in a process of its own.

    SELFLABEL_DATA=… python tests/benchmarks/growth.py --out docs/growth --keep runs/growth.jsonl

Writes OUT.md and, with matplotlib, OUT.png. Exit code 1 if for some solver

- *pixels, classes*: seconds grow more than 1.2 times as fast as what is labeled, from one size to the next: a
  photograph resized to 0.1 to 10 megapixels (5 classes), and 2 to 100 classes (0.1 megapixels). Graph cut is not
  judged: minimum cuts are not linear;
- *memory*: the process grows by more than its docstring says (`CASES`), affinity included, inputs not;
- *batch*: eight photographs of 481x321 (21 classes) at once cost more than one by one.

Predictions are smooth noise; every seventh pixel of every seventh row is a seed. Affinities are built anew each time.
The processes keep the memory that they free (`keep_freed_memory`), as the command `selflabel` does.
`--keep` adds each measurement to a file, and takes those from it that it holds: for runs in pieces.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pictures import spaced
from torch import Tensor
from torch.nn.functional import interpolate

sys.path.append(str(Path(__file__).resolve().parent.parent))

from support.memory import resident_growth

from selflabel import DenseAffinity, GridAffinity, Problem, solve
from selflabel.affinity import GaussianKernel
from selflabel.affinity.protocol import Affinity
from selflabel.driver import Solver
from selflabel.kernels.malloc import keep_freed_memory
from selflabel.labels import UNLABELED
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker

MEGAPIXELS = (0.1, 0.3, 1.0, 3.0, 10.0)
CLASSES = (2, 5, 10, 30, 100)
FEW_CLASSES = 5
FEW_MEGAPIXELS = 0.1
LINEAR = 1.2
"""The most that seconds may grow over what is labeled, from one size to the next."""

IMAGES = 8
BATCH_CLASSES = 21

SLACK = 16e6
"""Bytes that an allocator may keep for itself."""

REPEATS, LONG = 5, 15.0
"""Runs of a measurement, whose least time counts, and seconds after which none begins; two are made always."""

ROUNDS = 4
"""Runs of a batch and of its images one by one, in turn; the first takes memory from the system: not counted."""

SMOOTH = (GaussianKernel(1.0, 80.0, 13.0),)
Measured = dict[str, float]

ABOUT = f"""# Growth of time and memory

    SELFLABEL_DATA=… python tests/benchmarks/growth.py --out docs/growth

One photograph resized, seconds of one thread, each measurement in a process of its own (`tests/benchmarks/growth.py`).
"Growth": the growth of the seconds over the growth of what is labeled, from each size to the next; target: {LINEAR}.
"Bytes": the growth of the process beyond its inputs, affinity included, for K classes, in bytes a pixel
({SLACK / 1e6:g} MB more are granted to the allocator). Batch: {IMAGES} photographs of 481x321, {BATCH_CLASSES} classes.
"""


def grid(image: Tensor) -> Affinity:
    return GridAffinity.from_image(image, 9.0)


def dense(image: Tensor) -> Affinity:
    return DenseAffinity.from_image(image, SMOOTH, symmetric=True)


@dataclass(frozen=True)
class Case:
    """A solver, and what its docstring says of its memory."""

    solver: Solver
    steps: int
    affinity: Callable[[Tensor], Affinity]
    per_pixel: float
    """Bytes, or megabytes per megapixel."""
    per_label: float
    """The same for each class."""
    is_linear: bool = True

    def bound(self, pixels: float, classes: int) -> float:
        """Bytes that a solve may take, affinity included."""
        return pixels * (self.per_pixel + self.per_label * classes) + SLACK

    def run(self, images: Tensor, probs: Tensor, seeds: Tensor) -> None:
        problem = Problem(self.solver.default_energy, probs, seeds, self.affinity(images))
        solve(problem, self.solver, max_steps=self.steps)


CASES = {
    case.solver.name: case
    for case in (
        Case(GradientDescent(), 10, grid, per_pixel=100, per_label=60),
        Case(MeanField(), 5, dense, per_pixel=400, per_label=90),
        Case(RandomWalker(), 200, grid, per_pixel=1600, per_label=115),
        Case(GraphCut(), 200, grid, per_pixel=500, per_label=50, is_linear=False),
    )
}


def inputs(photographs: list[Tensor], size: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, predictions and seeds ``[b . h w]``."""
    images = torch.cat([interpolate(image, size, mode="bilinear") for image in photographs]).clamp_(0, 1)
    draw = torch.Generator().manual_seed(3_417)
    coarse = torch.randn(len(images), classes, *(n // 20 + 2 for n in size), generator=draw)
    probs = (3 * interpolate(coarse, size, mode="bilinear")).softmax(1)
    seeds = torch.full((len(images), *size), UNLABELED)
    seeds[:, ::7, ::7] = probs[..., ::7, ::7].argmax(1)
    return images, probs, seeds


def warm_up(case: Case, images: Tensor, probs: Tensor, seeds: Tensor) -> None:
    """Compile and import."""
    case.run(images[:1, :, :40, :40], probs[:1, :, :40, :40], seeds[:1, :40, :40])


def timed(work: Callable[[], None]) -> float:
    """Seconds of the processor: other work on the machine does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, megapixels: float, classes: int) -> Measured:
    """Seconds and bytes for one photograph."""
    case = CASES[name]
    photograph = next(spaced("bsds", 1)).image
    scale = (megapixels * 1e6 / photograph[0, 0].numel()) ** 0.5
    given = inputs([photograph], tuple(round(scale * n) for n in photograph.shape[2:]), classes)
    warm_up(case, *given)
    times: list[float] = []
    grown = resident_growth(lambda: times.append(timed(partial(case.run, *given))))
    while len(times) < 2 or (len(times) < REPEATS and sum(times) < LONG):
        times.append(timed(partial(case.run, *given)))
    return {"seconds": min(times), "bytes": grown, "pixels": given[1][0, 0].numel()}


def measure_batch(name: str) -> Measured:
    """The time of a batch over the mean time of its images one by one: the median over the rounds."""
    case = CASES[name]
    lying = (321, 481)
    photographs = [picture.image for picture in spaced("bsds", IMAGES)]
    given = inputs([x if x.shape[2] < x.shape[3] else x.mT for x in photographs], lying, BATCH_CLASSES)
    warm_up(case, *given)
    one, all_, ratios = [], [], []
    for _ in range(ROUNDS):
        alone = [timed(partial(case.run, *(x[i : i + 1] for x in given))) for i in range(IMAGES)]
        together = timed(partial(case.run, *given))
        one.append(sum(alone) / IMAGES)
        all_.append(together)
        ratios.append(together / one[-1])
    one, all_, ratios = one[1:], all_[1:], ratios[1:]
    return {"one": min(one), "batch": min(all_), "ratio": statistics.median(ratios)}


class Bench:
    """Measurements: read from a file, or made in a process of their own."""

    def __init__(self, kept: Path | None) -> None:
        self.kept = kept
        self.found: dict[tuple[str, ...], Measured] = {}
        if kept is not None and kept.exists():
            rows = map(json.loads, kept.read_text(encoding="utf-8").splitlines())
            self.found = {tuple(row["what"]): row["measured"] for row in rows}

    def get(self, *what: object) -> Measured:
        """`what`: solver, megapixels and classes, or the solver alone for a batch."""
        key = tuple(map(str, what))
        if key not in self.found:
            command = [sys.executable, __file__, "--one", *key]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            self.found[key] = json.loads(lines.splitlines()[-1])
            if self.kept is not None:
                with self.kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"what": key, "measured": self.found[key]}) + "\n")
        return self.found[key]


@dataclass(frozen=True)
class Curve:
    """One solver's measurements along pixels or classes."""

    amounts: tuple[float, ...]
    classes: tuple[int, ...]
    measured: list[Measured]

    @property
    def seconds(self) -> list[float]:
        return [row["seconds"] for row in self.measured]

    def growth(self) -> list[float]:
        """From each amount to the next, the growth of the seconds over the growth of the amount."""
        pairs = itertools.pairwise(zip(self.seconds, self.amounts, strict=True))
        return [(t / s) / (b / a) for (s, a), (t, b) in pairs]

    def shares(self, case: Case) -> list[float]:
        """The memory taken over the memory that the case may take."""
        return [
            row["bytes"] / case.bound(row["pixels"], k)
            for row, k in zip(self.measured, self.classes, strict=True)
        ]


@dataclass(frozen=True)
class Findings:
    """The measurements of one solver."""

    name: str
    along_pixels: Curve
    along_classes: Curve
    batch: Measured

    @classmethod
    def of(cls, name: str, bench: Bench, most: float) -> "Findings":
        sizes = tuple(m for m in MEGAPIXELS if m <= most)
        pixels = [bench.get(name, m, FEW_CLASSES) for m in sizes]
        classes = [bench.get(name, FEW_MEGAPIXELS, k) for k in CLASSES]
        return cls(
            name,
            Curve(tuple(row["pixels"] / 1e6 for row in pixels), (FEW_CLASSES,) * len(sizes), pixels),
            Curve(CLASSES, CLASSES, classes),
            bench.get(name),
        )

    def complaints(self) -> Iterator[str]:
        """A line for each measurement above its target."""
        case = CASES[self.name]
        for unit, curve in (("megapixels", self.along_pixels), ("classes", self.along_classes)):
            for (a, b), growth in zip(itertools.pairwise(curve.amounts), curve.growth(), strict=True):
                if case.is_linear and growth > LINEAR:
                    yield f"{self.name}: from {a:.2g} to {b:.2g} {unit}, {growth:.2f} times linear growth"
            for amount, share in zip(curve.amounts, curve.shares(case), strict=True):
                if share > 1:
                    yield f"{self.name}: {amount:.2g} {unit}, {share:.2f} times its memory"
        if self.batch["ratio"] > IMAGES:
            yield f"{self.name}: {IMAGES} images cost {self.batch['ratio']:.2f} times one"

    def __str__(self) -> str:
        case, both = CASES[self.name], (self.along_pixels, self.along_classes)
        values = [
            self.name,
            *(" / ".join(f"{x:.2g}" if x < 10 else f"{x:.0f}" for x in curve.seconds) for curve in both),
            *(f"{max(curve.growth(), default=1.0):.2f}" for curve in both),
            f"{case.per_pixel:g} + {case.per_label:g} K",
            f"{max(share for curve in both for share in curve.shares(case)):.2f}",
            f"{self.batch['one']:.2f}, {self.batch['batch']:.2f}",
            f"{self.batch['ratio']:.1f}",
        ]
        return "| " + " | ".join(values) + " |"


def head(most: float) -> str:
    sizes = " / ".join(f"{m:g}" for m in MEGAPIXELS if m <= most)
    columns = (
        "solver",
        f"seconds for {sizes} MP, K = {FEW_CLASSES}",
        f"seconds for {' / '.join(map(str, CLASSES))} classes, {FEW_MEGAPIXELS:g} MP",
        "most growth, of linear: pixels",
        "classes",
        "bytes a pixel, at most",
        "of that",
        f"seconds for one image, for {IMAGES}",
        "ratio",
    )
    return "| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|"


def figure(findings: list[Findings], path: Path) -> None:
    import matplotlib.pyplot as plt

    sheet, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for found in findings:
        for axis, curve in zip(axes, (found.along_pixels, found.along_classes), strict=False):
            axis.loglog(curve.amounts, curve.seconds, "o-", label=found.name)
        curve = found.along_pixels
        axes[2].loglog(curve.amounts, [row["bytes"] / 1e6 for row in curve.measured], "o-", label=found.name)
    for axis, curve in zip(axes, (findings[0].along_pixels, findings[0].along_classes), strict=False):
        slope = [curve.seconds[0] * amount / curve.amounts[0] for amount in curve.amounts]
        axis.loglog(curve.amounts, slope, "--", color="gray", label="linear")
    axes[0].set(xlabel=f"megapixels ({FEW_CLASSES} classes)", ylabel="seconds")
    axes[1].set(xlabel=f"classes ({FEW_MEGAPIXELS:g} megapixels)", ylabel="seconds")
    axes[2].set(xlabel=f"megapixels ({FEW_CLASSES} classes)", ylabel="MB beyond the inputs")
    axes[0].legend()
    sheet.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="OUT.md and OUT.png")
    parser.add_argument("--keep", type=Path, help="a file of measurements")
    parser.add_argument("--most", type=float, default=10.0, help="megapixels")
    parser.add_argument("--solvers", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        keep_freed_memory()  # as the command `selflabel` does
        name, *size = options.one
        print(json.dumps(measure(name, float(size[0]), int(size[1])) if size else measure_batch(name)))
        return
    bench = Bench(options.keep)
    findings: list[Findings] = []
    lines = [head(options.most)]
    print(lines[0], flush=True)
    for name in options.solvers:
        findings.append(Findings.of(name, bench, options.most))
        lines.append(str(findings[-1]))
        print(lines[-1], flush=True)
    complaints = [line for found in findings for line in found.complaints()]
    if options.out:
        picture = options.out.with_suffix(".png")
        text = [ABOUT, *lines, *["", "Above target:", ""] * bool(complaints)]
        text += [*(f"- {line}" for line in complaints), "", f"![Seconds and memory]({picture.name})"]
        options.out.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
        figure(findings, picture)
    if complaints:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
