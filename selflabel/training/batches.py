"""Batches for training as a pure function of the step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Batch, Sample, collate
from selflabel.datasets.shuffle import batch_indices
from selflabel.kinds import check_count, check_fields
from selflabel.training.distributed import ALONE, Process


@runtime_checkable
class DataSource(Protocol):
    """The data of a training run; each of several processes asks for its part."""

    @property
    def classes(self) -> int:
        """The number of classes that the network predicts."""

    @property
    def fixed(self) -> bool:
        """True if an image always comes in the same size and place: its labels can then be stored."""

    def training(self, step: int, process: Process) -> Batch:
        """This process's part of the batch of a step: a pure function of the step."""

    def images(self, process: Process) -> Iterator[Batch]:
        """All training images, once each and not augmented, to be labeled."""

    def validation(self, process: Process) -> Iterator[Batch]:
        """The validation images with their masks; may be empty."""


@runtime_checkable
class Samples(Protocol):
    """A list of samples, such as `selflabel.datasets.samples.Folder`."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, number: int, /) -> Sample:
        """A sample."""


@dataclass(frozen=True, eq=False)
class Batches:
    """A `DataSource` of samples: shuffled every epoch and augmented by draws that depend on seed and step alone.

    batch: images of a step, over all processes. augmentation: for training only. held_out: validation samples with
    masks, `held_out_batch` at once (1 if their sizes differ).
    """

    samples: Samples
    classes: int
    batch: int
    seed: int = 1
    augmentation: Augmentation | None = None
    held_out: Samples | None = None
    held_out_batch: int = 8

    def __post_init__(self) -> None:
        check_fields(self)
        check_count(self.seed, "seed", least=0)
        if len(self.samples) == 0:
            raise ValueError("expected at least one sample to train with, got none")
        for name in ("batch", "held_out_batch", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")

    @property
    def fixed(self) -> bool:
        """True without an augmentation that moves pixels."""
        a = self.augmentation
        return a is None or not (a.flip or a.flip_rows or a.rotate90 or a.degrees > 0 or a.scale > 1)

    @property
    def epoch(self) -> int:
        """The steps of an epoch, rounded up."""
        return -(-len(self.samples) // self.batch)

    def training(self, step: int, process: Process = ALONE) -> Batch:
        """This process's part of the batch of a step; each sample draws from a generator of its own."""
        indices, drawn = next(batch_indices(len(self.samples), self.batch, self.seed, step))
        return collate(
            [
                self._augmented(self.samples[indices[place]], drawn, place)
                for place in process.of(len(indices))
            ]
        )

    def images(self, process: Process = ALONE) -> Iterator[Batch]:
        """All training images, in batches of the size of a step."""
        return _in_order(self.samples, self.batch, process)

    def validation(self, process: Process = ALONE) -> Iterator[Batch]:
        """The held-out samples."""
        return iter(()) if self.held_out is None else _in_order(self.held_out, self.held_out_batch, process)

    def _augmented(self, sample: Sample, drawn: int, place: int) -> Sample:
        if self.augmentation is None:
            return sample
        seed = int(np.random.SeedSequence((drawn, place)).generate_state(1, np.uint64)[0]) >> 1
        return self.augmentation(sample, torch.Generator().manual_seed(seed | 1))


def _in_order(samples: Samples, batch: int, process: Process) -> Iterator[Batch]:
    mine: Sequence[int] = process.among(len(samples))
    for start in range(0, len(mine), batch):
        yield collate([samples[number] for number in mine[start : start + batch]])
