"""Which devices label a folder, and how many images fit one at a time."""

import os
from dataclasses import dataclass

import torch

from selflabel.driver import Solver
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker

MOST_IMAGES = 16
"""In a batch: a GPU gains nothing by more."""

MEMORY_SHARE = 0.5
"""Of what is free on a device: what a batch may take. The formulas below are of the largest batches measured."""

LEAST_IMAGES_A_PROCESSOR = 12
"""From that many on a GPU is faster: it takes 3 s to start, in which a processor solves 10 photographs."""


@dataclass(frozen=True)
class OnDevice:
    """What a GPU does for a solver.

    agrees: its labels are the CPU's to 99.99 %. is_faster: it solves faster than 16 processors. pixel_bytes,
    class_bytes: memory of a solve, a pixel and a pixel and class; the affinity is built in it.
    """

    solver: type | None
    agrees: bool
    is_faster: bool
    pixel_bytes: int
    class_bytes: int

    @property
    def is_default(self) -> bool:
        """Is it taken without being asked for?"""
        return self.agrees and self.is_faster


ON_DEVICE = (
    OnDevice(GradientDescent, agrees=True, is_faster=True, pixel_bytes=200, class_bytes=64),
    OnDevice(MeanField, agrees=True, is_faster=True, pixel_bytes=1400, class_bytes=90),
    OnDevice(RandomWalker, agrees=True, is_faster=False, pixel_bytes=200, class_bytes=110),
)
"""Labels, times and memory: docs/gpu.md, "Folders"."""

UNKNOWN = OnDevice(None, agrees=False, is_faster=False, pixel_bytes=2000, class_bytes=200)
"""Other solvers."""


def on_device(solver: Solver) -> OnDevice:
    """What is known of a solver."""
    return next(
        (each for each in ON_DEVICE if each.solver is not None and isinstance(solver, each.solver)), UNKNOWN
    )


def most_images(solver: Solver, pixels: int, classes: int, free: int | None) -> int:
    """How many images of this size a device solves at once, of whose bytes so many are `free` (None: not known)."""
    if free is None:
        return 1
    known = on_device(solver)
    each = pixels * (known.pixel_bytes + classes * known.class_bytes)
    return max(1, min(MOST_IMAGES, int(MEMORY_SHARE * free) // each))


def labeling_devices(name: str, solver: Solver, images: int, processors: int) -> tuple[torch.device, ...]:
    """The GPUs that label a folder of so many images; none: processors do.

    name: auto, cpu, cuda (all GPUs) or cuda:N. auto: all GPUs if their labels are the CPU's and they are faster for
    this solver and that many images, else none. CUDA is not initialized here: this process can be forked.

    Raises `ValueError` for other names, for devices that are not there, and for solvers of the CPU on a GPU.
    """
    kind, colon, number = name.partition(":")
    if name in ("auto", "cpu"):
        known = on_device(solver)
        is_gain = known.is_default and images >= LEAST_IMAGES_A_PROCESSOR * processors
        return _all_gpus() if name == "auto" and is_gain else ()
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ValueError(f"there is no device {name!r} to label with: there are auto, cpu, cuda and cuda:N")
    found = _all_gpus()
    if not found:
        raise ValueError(f"there is no device {name!r} here: {_why_none()}, or label with --device cpu")
    if isinstance(solver, GraphCut):
        raise ValueError(
            f"{solver.name} works on the CPU alone, got the device {name!r}: leave it out (--device auto), or use "
            f"another solver"
        )
    if not colon:
        return found
    if int(number) >= len(found):
        raise ValueError(
            f"there is no device {name!r} here: there are {', '.join(map(str, found))}; --device cuda takes all"
        )
    return (found[int(number)],)


def _all_gpus() -> tuple[torch.device, ...]:
    count = torch.cuda.device_count() if _is_built() else 0  # from NVML, without CUDA
    return tuple(torch.device("cuda", number) for number in range(count))


def _why_none() -> str:
    if not _is_built():
        return (
            f"torch {torch.__version__} is built without CUDA; install a build with it (https://pytorch.org)"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    limit = "" if visible is None else f", and CUDA_VISIBLE_DEVICES is {visible!r}"
    return f"torch {torch.__version__} finds no GPU{limit}; see whether `nvidia-smi` lists one"


def _is_built() -> bool:
    return bool(torch.backends.cuda.is_built())  # type: ignore[no-untyped-call]
