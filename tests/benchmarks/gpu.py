"""What tensors on a GPU get: the same results as on the CPU, and how near each step is to its floor of memory.

    python tests/benchmarks/gpu.py --out docs/gpu.md
    python tests/benchmarks/gpu.py --jobs checks,descent,gated
    python tests/benchmarks/gpu.py --device cpu --small         # the same script where there is no GPU

First every path is checked against the CPU in double precision (`gpu_checks.py`); then jobs are timed
(`gpu_jobs.py`), with events after a warm-up (medians), next to the least time in which the bytes that they must move
can be moved, at the speed of a large copy. "Must move" counts every input that a step reads and every output that it
writes once, as if all between stayed in registers; labels are ``4 b k n`` bytes. `kernels`: jobs that have kernels in
Triton are timed with them and without. `waits`: how often a call waits for the device. `first, s`: the first call,
which may compile. `peak`: memory beyond that of the inputs. Published recipes (`gpu_peers.py`) are timed beside. With
`--compiled` the hot functions are timed once more as torch.compile fuses them, which takes minutes. With `--profile`
the kernels of each job that has some in Triton are written to a file, by the time that the device spends in them.

What fails is reported, and the rest goes on. Exit code 1 if a result differs or a job fails, 2 if there is no such
device.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import torch
from gpu_base import NUMBER, SMALL, Family, Job, Sizes
from gpu_checks import checks
from gpu_jobs import FAMILIES, hot_functions
from gpu_profile import profiled

from selflabel.kernels import backend

LONGEST = 0.5
"""Seconds that a job is repeated, at most."""

HEADER = (
    "| job | kernels | ms | first, s | floor, ms | ratio | target | waits | peak, MB | note |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Clock:
    """Milliseconds of a call, after a warm-up."""

    device: torch.device
    repeats: int

    def median(self, work: Callable[[], object]) -> float:
        once = self.first(work)
        repeats = max(1, min(self.repeats, int(LONGEST / max(once, 1e-6))))
        if repeats > 2:
            work()
        return statistics.median(
            self._by_events(work, repeats) if self.device.type == "cuda" else self._by_wall(work, repeats)
        )

    def first(self, work: Callable[[], object]) -> float:
        """Seconds of one call, until the device has done its work."""
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def _by_events(self, work: Callable[[], object], repeats: int) -> list[float]:
        ends = []
        torch.cuda.synchronize()
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            ends.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in ends]

    def _by_wall(self, work: Callable[[], object], repeats: int) -> list[float]:
        return [1e3 * self.first(work) for _ in range(repeats)]

    def bandwidth(self, size: int) -> float:
        """Bytes a second, read and written, of a copy that fits no cache."""
        source = torch.ones(size // NUMBER, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / (1e-3 * self.median(lambda: target.copy_(source)))

    def costs(self, work: Callable[[], object]) -> tuple[str, str]:
        """How often the call waits for the device, and megabytes that it takes beyond those taken before."""
        if self.device.type != "cuda":
            return "", ""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = sum("synchronizing" in str(warning.message) for warning in caught)
        return str(waits), f"{(torch.cuda.max_memory_allocated() - before) / 1e6:.0f}"


@dataclass
class Report:
    """Lines that are printed as they come, and what failed. `kernels`: the file for those of the jobs, if any."""

    lines: list[str]
    failures: list[str]
    kernels: Path | None = None

    def add(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def fail(self, what: str) -> None:
        self.failures.append(what)
        print(f"FAILED {what}", flush=True)


def check(report: Report, side: int, device: torch.device) -> None:
    """Run all checks; those whose error is above their tolerance are failures."""
    report.add("| check | relative error | tolerance |\n| --- | --- | --- |")
    for each in checks():
        try:
            error = each.error(side, device)
        except Exception as problem:  # whatever it is, the other checks are run
            report.fail(f"{each.name}: {_named(problem)}")
            continue
        report.add(f"| {each.name} | {error:.1e} | {each.tolerance:.0e} |")
        if not error <= each.tolerance:
            report.fail(f"{each.name}: {error:.1e}, more than {each.tolerance:.0e}")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"


def time_family(
    report: Report, family: Family, sizes: Sizes, clock: Clock, speed: float, kernels: str
) -> None:
    """The rows of a family."""
    try:
        for job in family.jobs(sizes, clock.device):
            report.add(row(job, clock, speed, kernels))
            if report.kernels and kernels == "triton":
                with report.kernels.open("a", encoding="utf-8") as file:
                    file.write("\n".join(profiled(job.name, job.work)) + "\n")
    except (
        Exception
    ) as problem:  # the next job of a generator that failed does not come, the next family does
        report.fail(f"{family.jobs.__name__} ({kernels}): {_named(problem)}")


def row(job: Job, clock: Clock, speed: float, kernels: str) -> str:
    """Times a job."""
    first = clock.first(job.work)
    ms, floor = clock.median(job.work) / job.steps, 1e3 * job.bytes / speed
    ratio = ms / floor if floor else 0.0
    goal = job.goal
    target = "" if goal is None else f"{goal.text}{'' if goal.is_met(ms, ratio) else ', NOT MET'}"
    waits, peak = clock.costs(job.work)
    cells = [
        job.name,
        kernels,
        f"{ms:.2f}",
        f"{first:.2f}",
        f"{floor:.3f}" if floor else "",
        f"{ratio:.1f}" if floor else "",
        target,
        waits,
        peak,
        job.note(),
    ]
    return f"| {' | '.join(cells)} |"


def variants(family: Family, device: torch.device, twice: bool) -> Iterator[tuple[str, bool]]:
    """With kernels where there are some, and in torch alone: where there are none, or if it is to be timed twice."""
    kernels = device.type == "cuda" and backend.has_triton()
    has_some = kernels and any(routine in backend.GPU_DTYPES for routine in family.routines)
    if has_some:
        yield "triton", True
    if twice or not has_some:
        yield "torch", False


def time_all(
    report: Report, names: list[str], sizes: Sizes, device: torch.device, twice: bool = True
) -> None:
    """The table of the chosen families."""
    clock = Clock(device, sizes.repeats)
    speed = clock.bandwidth(sizes.copied)
    report.add(f"\nCopy: {speed / 1e9:.0f} GB/s, read and written.\n")
    report.add(HEADER)
    for name in names:
        family = FAMILIES[name]
        for kernels, with_triton in variants(family, device, twice):
            if with_triton:
                time_family(report, family, sizes, clock, speed, kernels)
            else:
                with patch.object(backend, "has_triton", lambda: False):
                    time_family(report, family, sizes, clock, speed, kernels)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def time_compiled(report: Report, sizes: Sizes, device: torch.device) -> None:
    """The hot functions as they are and as torch.compile fuses them."""
    clock = Clock(device, sizes.repeats)
    report.add("\n| function | eager, ms | torch.compile, ms |\n| --- | --- | --- |")
    with torch.no_grad():
        for name, eager, fused in hot_functions(sizes, device):
            try:
                compiled = f"{clock.median(fused):.2f}"
            except Exception as problem:  # whatever the compiler stumbles over belongs in the report
                compiled = f"fails: {_named(problem)}"
            report.add(f"| {name} | {clock.median(eager):.2f} | {compiled} |")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ["checks", *FAMILIES]
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a try-out")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--profile", type=Path, help="write the kernels of the jobs to this file")
    parser.add_argument("--jobs", default=",".join(every), help=f"some of {', '.join(every)}")
    parser.add_argument("--once", action="store_true", help="what has kernels is not timed without them, too")
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile")
    options = parser.parse_args()
    options.jobs = options.jobs.split(",")
    unknown = sorted(set(options.jobs) - set(every))
    if unknown:
        parser.error(f"expected --jobs from {', '.join(every)}, got {', '.join(unknown)}")
    return options


def _commit() -> str:
    """Of the working tree; "unknown" without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _versions() -> str:
    triton = f", Triton {version('triton')}" if backend.has_triton() else ""
    return f"torch {torch.__version__}{triton}, Python {platform.python_version()}"


def main() -> None:
    options = parsed()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device: nothing to measure (--device cpu --small tries the script out)", file=sys.stderr
        )
        sys.exit(2)
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    report, start = Report([], [], options.profile), time.perf_counter()
    sizes = SMALL if options.small else Sizes()
    report.add(
        "# On a GPU\n\nMade by `tests/benchmarks/gpu.py`, whose first lines say what the columns are.\n"
    )
    report.add(f"{date.today()}, commit {_commit()}: {model}, {_versions()}.\n")
    if "checks" in options.jobs:
        check(report, 24 if options.small else 64, device)
    names = [name for name in FAMILIES if name in options.jobs]
    if names:
        time_all(report, names, sizes, device, not options.once)
    if options.compiled:
        time_compiled(report, sizes, device)
    report.add(f"\n{time.perf_counter() - start:.0f} seconds.")
    if options.out:
        options.out.write_text("\n".join(report.lines) + "\n", encoding="utf-8")
    if report.failures:
        sys.exit("\n".join([f"{len(report.failures)} failed:", *report.failures]))


if __name__ == "__main__":
    main()
