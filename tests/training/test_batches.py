"""Batches: the parts of several processes, and all images once."""

from dataclasses import replace

import pytest
import torch
from support.cases import CLASSES, samples

from selflabel.datasets.augment import Augmentation
from selflabel.training import (
    Batches,
    Process,
)


def test_parts_of_processes_are_the_batch() -> None:
    """The draws of an augmented sample do not depend on the process that loads it."""
    data = Batches(samples(7), CLASSES, 4, seed=9, augmentation=Augmentation(rotate90=True, brightness=0.1))
    for step in (0, 5):
        whole = data.training(step)
        parts = [data.training(step, Process(rank, 3)) for rank in range(3)]
        assert [len(part.stems) for part in parts] == [1, 1, 2]
        assert whole.stems == sum((part.stems for part in parts), ())
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.images, data.training(step).images)
    assert data.training(0).stems != data.training(5).stems
    with pytest.raises(ValueError, match="a batch of at least 5, one image a process, got 4"):
        data.training(0, Process(0, 5))


def test_all_images_come_once() -> None:
    data = Batches(samples(7), CLASSES, 2, held_out=samples(3), held_out_batch=2, augmentation=Augmentation())
    assert (data.epoch, data.fixed) == (4, False)
    assert replace(data, augmentation=Augmentation(flip=False, contrast=0.2)).fixed
    stems = [stem for rank in range(2) for found in data.images(Process(rank, 2)) for stem in found.stems]
    assert stems == ["im0", "im2", "im4", "im6", "im1", "im3", "im5"]
    assert [found.stems for found in data.validation()] == [("im0", "im1"), ("im2",)]
    assert list(Batches(samples(1), CLASSES, 2).validation()) == []
    with pytest.raises(ValueError, match="at least one sample"):
        Batches([], CLASSES, 2)
    with pytest.raises(ValueError, match="batch >= 1, got 0"):
        Batches(samples(1), CLASSES, 0)
