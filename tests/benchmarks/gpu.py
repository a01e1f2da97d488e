"""What tensors on a GPU get: the same results as on the CPU, and how near each step is to its floor of memory.

    python tests/benchmarks/gpu.py --out docs/gpu.md
    python tests/benchmarks/gpu.py --device cpu --small         # the same script where there is no GPU

First every path is checked against the CPU in double precision (`gpu_checks.py`); then steps are timed, with events
after a warm-up (medians), next to the least time in which the bytes that they must move can be moved, at the speed of
a large copy. "Must move" counts every input that the step reads and every output that it writes once, as if all between
stayed in registers; labels are ``4 b k n`` bytes. `syncs`: how often a call waits for the device. The hot functions are
timed once more as torch.compile fuses them. Nothing has to be compiled before.

Exit code 1 if a result differs, 2 if there is no such device.
"""

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_checks import LatticeInTorch, checks
from torch import Tensor

from selflabel import DenseAffinity, GaussianKernel, GridAffinity, Problem, solve
from selflabel.affinity import Affinity, Exact, FilterBuilder
from selflabel.affinity.filters.lattice_torch import TorchLattice
from selflabel.labels import UNLABELED
from selflabel.losses import dense_crf_loss, gated_crf_loss
from selflabel.solvers import GradientDescent, MeanField
from selflabel.terms import COLLISION_DIVERGENCE, potts_and_grad

NUMBER = 4
"""Bytes of a float32 or an int32."""


@dataclass(frozen=True)
class Sizes:
    """Batches of the jobs."""

    descent: tuple[int, ...] = (12, 21, 513, 513)
    mean_field: tuple[int, ...] = (8, 21, 513, 513)
    gated: tuple[int, ...] = (4, 21, 513, 513)
    dense: tuple[int, ...] = (1, 21, 513, 513)
    lattice_side: int = 512
    exact_side: int = 256
    copied: int = 1 << 30
    repeats: int = 20


SMALL = Sizes((2, 3, 40, 48), (2, 3, 40, 48), (1, 3, 32, 40), (1, 3, 40, 48), 64, 24, 1 << 24, 2)


@dataclass(frozen=True)
class Job:
    """A timed step, the bytes that it must move, and how these are counted."""

    name: str
    work: Callable[[], object]
    bytes: float
    counted: str
    goal: "Goal | None" = None


@dataclass(frozen=True)
class Goal:
    """What a job should take: `is_met` of milliseconds and of their ratio to the floor."""

    text: str
    is_met: Callable[[float, float], bool]


@dataclass(frozen=True)
class Clock:
    """Milliseconds of a call, after a warm-up."""

    device: torch.device
    repeats: int

    def median(self, work: Callable[[], object]) -> float:
        for _ in range(3):
            work()
        return statistics.median(self._by_events(work) if self.device.type == "cuda" else self._by_wall(work))

    def _by_events(self, work: Callable[[], object]) -> list[float]:
        ends = []
        torch.cuda.synchronize()
        for _ in range(self.repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            ends.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in ends]

    def _by_wall(self, work: Callable[[], object]) -> list[float]:
        times = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
        return times

    def bandwidth(self, size: int) -> float:
        """Bytes a second, read and written, of a copy that fits no cache."""
        source = torch.ones(size // NUMBER, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / (1e-3 * self.median(lambda: target.copy_(source)))

    def syncs(self, work: Callable[[], object]) -> int | None:
        """The number of times that the call waits for the device; None on the CPU."""
        if self.device.type != "cuda":
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)


def draw(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and logits, smooth: lattices then have vertices as on photographs."""
    generator = torch.Generator().manual_seed(7_351)
    batch, classes, *size = shape
    parts = [
        torch.nn.functional.interpolate(
            torch.randn(batch, channels, *(n // 16 + 2 for n in size), generator=generator),
            size,
            mode="bilinear",
        )
        for channels in (3, classes)
    ]
    image = (0.5 + parts[0] / 4 + 0.02 * torch.randn(parts[0].shape, generator=generator)).clamp(0, 1)
    return image.to(device), (3 * parts[1]).to(device)


def bytes_of_lattice(lattice: TorchLattice, channels: int) -> float:
    """Bytes of one filtering: all matrices once, the values in and out, each table between two products twice."""
    matrices = (lattice.splat, *lattice.blurs, lattice.slice)
    sparse = sum(NUMBER * (m.index.numel() + m.weight.numel() + m.offsets.numel()) for m in matrices)
    tables = sum(m.offsets.numel() for m in matrices[:-1])
    return sparse + NUMBER * channels * (2 * lattice.batch * lattice.pixels + 2 * tables)


def by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def free_seeds(logits: Tensor) -> Tensor:
    return torch.full((len(logits), *logits.shape[2:]), UNLABELED, device=logits.device)


def descent(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    image, logits = draw(sizes.descent, device)
    solver = GradientDescent(rtol=0.0, coarse_levels=0)
    affinity = GridAffinity.from_image(image, 9.0)
    problem = Problem.from_logits(solver.default_energy, logits, free_seeds(logits), affinity)
    steps = solver.iterate(problem, problem.probs)

    @torch.no_grad()
    def one() -> object:
        return next(steps)

    yield Job(
        f"GradientDescent, one step, {by(sizes.descent)}",
        one,
        11 * NUMBER * logits.numel(),
        "11 labels: direction, point and natural gradient to new direction and point (3 + 2); these and prediction, "
        "old gradient to gradient and natural gradient (4 + 2)",
        Goal("3 x floor", lambda _, ratio: ratio <= 3),
    )


def mean_field(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    image, logits = draw(sizes.mean_field, device)
    kernels = (GaussianKernel(10.0, 80.0, 13.0), GaussianKernel(3.0, 3.0, None))
    solver, steps = MeanField(rtol=0.0), 10
    affinity = DenseAffinity.from_image(image, kernels, filtering=LatticeInTorch(), symmetric=True)
    problem = Problem.from_logits(solver.default_energy, logits, free_seeds(logits), affinity)
    lattice: Any = affinity.filters[0].filter
    labels = NUMBER * logits.numel()
    yield Job(
        f"mean field, {steps} iterations, {by(sizes.mean_field)}",
        lambda: solve(problem, solver, max_steps=steps),
        (steps + 1) * (bytes_of_lattice(lattice, logits.shape[1]) + 2 * labels) + steps * 3 * labels,
        "11 filterings by the lattice and by place (2 labels), 10 updates (labels, unaries to labels)",
    )


def filters(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    for name, filtering, side, channels in (
        ("lattice", LatticeInTorch(), sizes.lattice_side, 3),
        ("exact filter", Exact(), sizes.exact_side, 21),
    ):
        image, _ = draw((1, 1, side, side), device)
        place = torch.stack(torch.meshgrid(*[torch.arange(side, device=device)] * 2, indexing="ij"))
        features = torch.cat([place[None] / 80.0, image * 255 / 13.0], 1).flatten(2).mT.contiguous()
        values = torch.rand(1, channels, side * side, device=device)
        built = filtering.build(features)
        if isinstance(built, TorchLattice):
            moved = bytes_of_lattice(built, channels)
            counted = "matrices, values, and tables of vertices both ways"
            goal: Goal | None = Goal("5 ms", lambda ms, _: ms <= 5)
        else:
            moved, goal = NUMBER * (2 * values.numel() + features.numel()), None
            counted = "features, values; it waits for arithmetic"
        size = f"{side}² points, {channels} values"
        yield Job(f"{name}, {size}", partial(built.apply, values), moved, counted)
        both = partial(_build_and_apply, filtering, features, values)
        yield Job(f"{name} with its build, {size}", both, moved + NUMBER * features.numel(), counted, goal)


def _build_and_apply(filtering: FilterBuilder, features: Tensor, values: Tensor) -> Tensor:
    return filtering.build(features).apply(values)


def losses(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    image, logits = draw(sizes.gated, device)
    kernel = GaussianKernel(1.0, 6.0, 15.0)
    yield Job(
        f"gated CRF loss, both ways, {by(sizes.gated)}, radius 5",
        partial(
            _both_ways,
            partial(gated_crf_loss, images=image, radius=5, kernels=(kernel,)),
            logits.requires_grad_(),
        ),
        NUMBER * (2 * logits.numel() + image.numel()),
        "logits, images; gradient",
    )
    image, logits = draw(sizes.dense, device)
    inputs = NUMBER * (2 * logits.numel() + image.numel())
    for filtering in (LatticeInTorch(), Exact()):
        build = partial(
            DenseAffinity.from_image, image, (GaussianKernel(1.0, 100.0, 15.0),), filtering=filtering
        )
        built: Any = build().filters[0].filter
        is_lattice = isinstance(built, TorchLattice)
        yield Job(
            f"dense CRF loss with its {'lattice' if is_lattice else 'exact filter'}, both ways, {by(sizes.dense)}",
            partial(_both_ways, partial(_dense_crf, build), logits.detach().requires_grad_()),
            inputs + (bytes_of_lattice(built, logits.shape[1]) if is_lattice else 0),
            "logits, images; gradient" + "; one filtering" * is_lattice,
            Goal("5 ms", lambda ms, _: ms <= 5) if is_lattice else None,
        )


def _dense_crf(build: Callable[[], Affinity], logits: Tensor) -> Tensor:
    return dense_crf_loss(logits, build())


def _both_ways(loss: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    logits.grad = None
    loss(logits).backward()


def hot_functions(
    sizes: Sizes, device: torch.device
) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """Name, eager and compiled."""
    image, logits = draw(sizes.descent, device)
    probs, affinity = logits.softmax(1), GridAffinity.from_image(image, 9.0)
    energy = GradientDescent.default_energy
    problem = Problem(energy, probs, free_seeds(logits), affinity)
    image, logits = draw(sizes.gated, device)
    gated = partial(gated_crf_loss, logits, image, radius=5)
    calls: dict[str, Callable[[], object]] = {
        "Potts sum and gradient, collision divergence": partial(
            potts_and_grad, probs, affinity, COLLISION_DIVERGENCE
        ),
        "energy and gradient, default of GradientDescent": partial(problem.value_and_grad, probs),
        "gated CRF loss, forward": gated,
    }
    for name, call in calls.items():
        yield name, call, torch.compile(call)


def failures(side: int, device: torch.device) -> list[str]:
    """The checks whose error is above their tolerance, all printed."""
    found = []
    print("| check | relative error | tolerance |\n| --- | --- | --- |")
    for check in checks():
        error = check.error(side, device)
        print(f"| {check.name} | {error:.1e} | {check.tolerance:.0e} |", flush=True)
        if not error <= check.tolerance:
            found.append(f"{check.name}: {error:.1e}, more than {check.tolerance:.0e}")
    return found


def table(sizes: Sizes, device: torch.device) -> Iterator[str]:
    clock = Clock(device, sizes.repeats)
    speed = clock.bandwidth(sizes.copied)
    yield f"Copy: {speed / 1e9:.0f} GB/s, read and written.\n"
    yield "| job | ms | MB to move | counted | floor, ms | ratio | target | syncs |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for family in (descent, mean_field, filters, losses):
        for job in family(sizes, device):
            ms, floor = clock.median(job.work), 1e3 * job.bytes / speed
            goal = job.goal
            target = (
                "" if goal is None else f"{goal.text}{'' if goal.is_met(ms, ms / floor) else ', NOT MET'}"
            )
            syncs = clock.syncs(job.work)
            yield (
                f"| {job.name} | {ms:.2f} | {job.bytes / 1e6:.1f} | {job.counted} | {floor:.3f} | {ms / floor:.1f} | "
                f"{target} | {'' if syncs is None else syncs} |"
            )
    yield "\n| function | eager, ms | torch.compile, ms |\n| --- | --- | --- |"
    with torch.no_grad():
        for name, eager, fused in hot_functions(sizes, device):
            try:
                compiled = f"{clock.median(fused):.2f}"
            except Exception as error:  # whatever the compiler stumbles over belongs in the report
                compiled = f"fails: {type(error).__name__}"
            yield f"| {name} | {clock.median(eager):.2f} | {compiled} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a try-out")
    parser.add_argument("--out", type=Path, help="also write the times to this file")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device: nothing to measure (--device cpu --small tries the script out)", file=sys.stderr
        )
        sys.exit(2)
    wrong = failures(24 if options.small else 96, device)
    if wrong:
        sys.exit("\n".join(wrong))
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    lines = [f"{model}, torch {torch.__version__}, Python {platform.python_version()}."]
    for line in table(SMALL if options.small else Sizes(), device):
        lines.append(line)
        print(line, flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
