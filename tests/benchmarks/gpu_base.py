"""What the jobs of `gpu.py` share: sizes, goals, drawn images, and how bytes are counted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selflabel.affinity.filters.lattice_torch import TorchLattice
from selflabel.affinity.filters.split import SplitFilter
from selflabel.kernels.backend import Routine
from selflabel.labels import UNLABELED

NUMBER = 4
"""Bytes of a float32 or an int32."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Batches of the jobs, ``(images, classes, height, width)``, and the network of training steps."""

    descent: Shape = (12, 21, 513, 513)
    single: Shape = (1, 12, 360, 480)
    training: Shape = (24, 4, 256, 256)
    mean_field: Shape = (8, 21, 513, 513)
    photograph: Shape = (1, 21, 321, 481)
    gated: tuple[Shape, ...] = ((4, 21, 128, 128), (4, 21, 256, 256), (4, 21, 513, 513))
    published: tuple[Shape, ...] = ((4, 21, 128, 128), (4, 21, 256, 256))
    dense: Shape = (1, 21, 513, 513)
    strokes: tuple[Shape, ...] = ((1, 5, 321, 481), (1, 21, 321, 481))
    folder: Shape = (100, 21, 321, 481)
    lattice_side: int = 512
    exact_side: int = 256
    copied: int = 1 << 30
    repeats: int = 20
    network: str = "unet:32"
    block: int = 10
    """Training steps of a call: as many as there are between two readings of the losses."""


_TINY = (2, 3, 40, 48)
SMALL = Sizes(
    descent=_TINY,
    single=(1, 3, 40, 48),
    training=_TINY,
    mean_field=_TINY,
    photograph=(1, 3, 40, 48),
    gated=((1, 3, 32, 40),),
    published=((1, 3, 32, 40),),
    dense=(1, 3, 40, 48),
    strokes=((1, 3, 40, 48),),
    folder=(2, 3, 40, 48),
    lattice_side=64,
    exact_side=24,
    copied=1 << 24,
    repeats=2,
    network="unet:2",
    block=2,
)


@dataclass(frozen=True)
class Goal:
    """What a job should take: `is_met` of milliseconds and of their ratio to the floor."""

    text: str
    is_met: Callable[[float, float], bool]


def at_most(ms: float) -> Goal:
    """Milliseconds."""
    return Goal(f"{ms:g} ms", lambda found, _: found <= ms)


def times_floor(factor: float) -> Goal:
    """The floor of memory."""
    return Goal(f"{factor:g} x floor", lambda _, ratio: ratio <= factor)


@dataclass(frozen=True)
class Job:
    """A timed call: `steps` of the work that the row is about, and the bytes that one must move.

    `note` says what there is to say about the result.
    """

    name: str
    work: Callable[[], object]
    bytes: float
    counted: str
    goal: Goal | None = None
    steps: int = 1
    note: Callable[[], str] = str


@dataclass(frozen=True)
class Family:
    """Jobs, and the routines that may run in kernels; none for what is compared with."""

    jobs: Callable[[Sizes, torch.device], Iterator[Job]]
    routines: tuple[Routine, ...] = ()


def draw(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and logits, smooth: lattices then have vertices as on photographs."""
    generator = torch.Generator().manual_seed(7_351)
    batch, classes, *size = shape
    parts = [
        torch.nn.functional.interpolate(
            torch.randn(batch, channels, *(n // 16 + 2 for n in size), generator=generator).to(device),
            size,
            mode="bilinear",
        )
        for channels in (3, classes)
    ]
    noise = torch.randn(parts[0].shape, generator=generator).to(device)
    return (0.5 + parts[0] / 4 + 0.02 * noise).clamp(0, 1), 3 * parts[1]


def bytes_of_lattice(lattice: Any, channels: int) -> float:
    """Bytes of one filtering: all matrices once, the values in and out, each table between two products twice.

    Matrices are those of `TorchLattice`, or the lists of `TritonLattice`.
    """
    if isinstance(lattice, SplitFilter):
        return sum(bytes_of_lattice(each, channels) for each in lattice.filters)
    if not isinstance(lattice, TorchLattice):
        lists = 4 * lattice.weight.numel() + sum(each.numel() for each in lattice.neighbors)
        rows = lattice.vertices + sum(each.shape[1] for each in lattice.neighbors)
        return NUMBER * (lists + 2 * channels * (lattice.batch * lattice.pixels + rows))
    matrices = (lattice.splat, *lattice.blurs, lattice.slice)
    sparse = sum(NUMBER * (m.index.numel() + m.weight.numel() + m.offsets.numel()) for m in matrices)
    tables = sum(m.offsets.numel() for m in matrices[:-1])
    return sparse + NUMBER * channels * (2 * lattice.batch * lattice.pixels + 2 * tables)


def by(shape: Shape) -> str:
    return "x".join(map(str, shape))


def free_seeds(logits: Tensor) -> Tensor:
    return torch.full((len(logits), *logits.shape[2:]), UNLABELED, device=logits.device)


def strokes(shape: Shape, device: torch.device) -> Tensor:
    """A stroke of every class, each in its part of the image."""
    batch, classes, height, width = shape
    seeds = torch.full((batch, height, width), UNLABELED)
    for label in range(classes):
        row = (2 * label + 1) * height // (2 * classes)
        start = (label * 37) % (width // 2)
        seeds[:, row, start : start + width // 4] = label
    return seeds.to(device)
