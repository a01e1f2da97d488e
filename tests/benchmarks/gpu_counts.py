"""What each job of `gpu.py` launches on a GPU, how often it waits, and how long the host needs: found without a GPU.

    python tests/benchmarks/gpu_counts.py --jobs gated,dense,mean-field,walker

A job runs at a small size on the CPU with the kernels that a GPU would get. Counted are Triton's launches, torch's
operations but views and empty tensors (one launch each, which is about right), and readings of tensors by the host, for
each of which it would wait. Counts hardly depend on the size: a lattice or a grid has a few levels more.

`host, ms`: the time of the call when no kernel of ours runs, of jobs that do not need their results to go on. Where a
device is faster than that, the host is what one waits for.
"""

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["TRITON_INTERPRET"] = "1"

import torch
from gpu_base import Job, Sizes
from gpu_checks import LatticeOnGPU
from gpu_jobs import FAMILIES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from selflabel.affinity.filters.lattice import FINE
from selflabel.kernels import backend
from selflabel.kernels.gpu.launch import Kernel
from selflabel.numerics.linear.multigrid import Multigrid
from selflabel.solvers import random_walker

VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "expand",
        "slice",
        "select",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "permute",
        "detach",
        "alias",
        "as_strided",
        "split",
        "split_with_sizes",
        "unbind",
        "unfold",
        "diagonal",
        "movedim",
        "lift_fresh",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "view_as_real",
        "set_",
        "_reshape_alias",
        "resize_",
    ]
)
"""Operations that launch nothing."""

WAITS = frozenset(
    [
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique_dim",
        "_unique2",
        "unique_consecutive",
        "equal",
    ]
)
"""Operations whose result the host must know to go on."""

_SHAPE = (1, 3, 16, 20)
TINY = Sizes(
    network="unet:2",
    block=2,
    descent=_SHAPE,
    single=_SHAPE,
    training=_SHAPE,
    mean_field=_SHAPE,
    photograph=_SHAPE,
    gated=(_SHAPE,),
    published=(),
    dense=_SHAPE,
    strokes=(_SHAPE,),
    lattice_side=16,
    exact_side=16,
)
"""The interpreter runs a program at a time."""

PEERS = frozenset(("recipe", "published", "network", "folder", "steps"))

HOSTED = frozenset(("descent", "gated", "window"))
"""Whose jobs launch the same kernels whatever these find."""

HOST_REPEATS = 30


class Counts(TorchDispatchMode):
    """What torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in WAITS or (name == "index" and _has_mask(args)):
            self.waits[name] += 1
        if name not in VIEWS and name != "_local_scalar_dense":
            self.operations[name] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(args: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Routines get their kernels for a GPU on the CPU, in modules that know the function already, too."""
    decide = backend.backend

    def instead(routine: backend.Routine, device: torch.device, dtype: torch.dtype) -> backend.Backend:
        takes = dtype in backend.GPU_DTYPES.get(routine, ())
        return backend.Backend.GPU if takes else backend.Backend.TORCH

    modules = [each for each in list(sys.modules.values()) if getattr(each, "backend", None) is decide]
    for module in modules:
        module.backend = instead  # type: ignore[attr-defined]
    walks = patch.object(random_walker, "method_by_size", lambda *_: Multigrid())
    try:
        with walks, patch.object(LatticeOnGPU, "build", lambda _, features: FINE.build(features)):
            yield
    finally:
        for module in modules:
            module.backend = decide  # type: ignore[attr-defined]


@contextmanager
def counted() -> Iterator[Counts]:
    """Counts of what is done within."""
    counts, launch = Counts(), Kernel.__call__

    def call(kernel: Kernel, grid: tuple[int, ...], *arguments: Any) -> None:
        counts.kernels[kernel._function.__name__] += 1
        with torch.utils._python_dispatch._disable_current_modes():
            launch(kernel, grid, *arguments)

    def reading(name: str) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def read(tensor: Tensor, *args: Any) -> Any:
            counts.waits[name] += 1
            return method(tensor, *args)

        return read

    readings = [patch.object(Tensor, name, reading(name)) for name in ("tolist", "numpy", "cpu")]
    with patch.object(Kernel, "__call__", call), readings[0], readings[1], readings[2], counts:
        yield counts


def host_ms(work: Callable[[], object]) -> float:
    """Milliseconds of the call without our kernels."""
    times = []
    with patch.object(Kernel, "__call__", lambda *_: None):
        for _ in range(HOST_REPEATS):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def row(job: Job, needs_results: bool, detail: bool) -> str:
    """A line of the table."""
    job.work()  # imports and compiles
    with counted() as counts:
        job.work()
    ms = "" if needs_results else f"{host_ms(job.work) / job.steps:.2f}"
    totals = [sum(each.values()) for each in (counts.kernels, counts.operations, counts.waits)]
    cells = [job.name, *(f"{each / job.steps:g}" for each in totals), ms]
    line = f"| {' | '.join(cells)} |"
    if not detail:
        return line
    parts = (counts.kernels, counts.operations, counts.waits)
    return "\n".join([line, *(f"    {dict(each.most_common())}" for each in parts)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", default="", help="families of gpu_jobs.py, with commas; all but peers without"
    )
    parser.add_argument("--detail", action="store_true", help="print the names of all that is counted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.jobs.split(",") if options.jobs else [name for name in FAMILIES if name not in PEERS]
    print("| job | kernels | operations of torch | waits | host, ms |\n| --- | --- | --- | --- | --- |")
    with as_on_a_gpu():
        for name in names:
            for job in FAMILIES[name].jobs(TINY, torch.device("cpu")):
                print(row(job, name not in HOSTED, options.detail), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
