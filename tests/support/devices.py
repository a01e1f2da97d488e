"""Solvers and helpers for the tests of the engine of devices, which run it on the CPU."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from selflabel.driver import Step
from selflabel.labeling.engines.parcels import Blocks
from selflabel.labeling.engines.stages import FileWork, ReadImage, Waiting
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Job
from selflabel.labeling.settings import LabelingSettings
from selflabel.problem import Problem
from support.folders import LABELER, SETTINGS, Smooth

CPU = torch.device("cpu")
TALL = 9
"""Rows of the images that some solvers fail on."""


@dataclass(frozen=True)
class Cramped(Smooth):
    """Has memory for batches of `most` images, and none for tall ones."""

    most: int = 2

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """As a GPU says it."""
        if len(labels) > self.most or labels.shape[2] == TALL:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB")
        yield from super().iterate(problem, labels)


@dataclass(frozen=True)
class Deadly(Smooth):
    """Kills its process at batches with a bright image, as a crash in a driver does."""

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """Die where a seed is at the first pixel."""
        if bool((problem.seeds[:, 0, 0] != 255).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().iterate(problem, labels)


@dataclass(frozen=True)
class Breaking(Smooth):
    """Breaks the device for good at batches in which a seed is at the first pixel; `sign` stands for that."""

    sign: str = ""

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """As CUDA does: later calls in the same process fail, whatever they are."""
        if bool((problem.seeds[:, 0, 0] != 255).any()):
            Path(f"{self.sign}{os.getpid()}").touch()
        if Path(f"{self.sign}{os.getpid()}").exists():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        yield from super().iterate(problem, labels)


@dataclass(frozen=True)
class Picky(Smooth):
    """Refuses batches in which a seed is at the first pixel."""

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """A defect of a solver."""
        if bool((problem.seeds[:, 0, 0] != 255).any()):
            raise ZeroDivisionError("the first pixel")
        yield from super().iterate(problem, labels)


def with_solver(solver: Smooth) -> LabelingSettings:
    """Settings with this solver."""
    return replace(SETTINGS, labeler=replace(LABELER, solver=solver))


def read(
    folders: tuple[Path, ...], out: Path, settings: LabelingSettings, blocks: Blocks
) -> tuple[Waiting, ...]:
    """Images that were read and wait for a device."""
    work, found = FileWork(settings, OutputFolder(out, settings.soft, settings.overlay)), []
    for image in sorted(folders[0].iterdir()):
        job = Job(image.stem, image, folders[1] / image.name)
        waiting = work(ReadImage(job, blocks.lend()))
        assert isinstance(waiting, Waiting), waiting
        found.append(waiting)
    return tuple(found)
