"""Runs on a GPU: starts that are kept, batches in pinned memory, rows that come some at a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cases import CLASSES, SOFT, network, sample, samples

from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import collate
from selflabel.datasets.symmetry import UNMOVED
from selflabel.training import Batches, InitialLabels, KeptLabels, Row, TrainingSettings, read_history, train
from selflabel.training.distributed import ALONE
from selflabel.training.loading import load
from selflabel.training.run import UNREAD

pytestmark = pytest.mark.cuda
DEVICE = torch.device("cuda", 0)


def known(count: int) -> Batches:
    found = [replace(sample(number), moved=UNMOVED) for number in range(count)]
    return Batches(found, CLASSES, 2, seed=3, augmentation=Augmentation(rotate90=True), held_out=samples(2))


def test_kept_labels_are_those_of_the_cpu() -> None:
    here, there = KeptLabels(InitialLabels()), KeptLabels(InitialLabels())
    data = collate([replace(sample(number), moved=UNMOVED) for number in range(3)])
    on_device = data.to(DEVICE)
    logits = torch.zeros(3, CLASSES, 16, 16)
    expected = here(SOFT.problem(logits, data, SOFT.affinity(data.images)), data)
    for _ in range(2):
        problem = SOFT.problem(logits.to(DEVICE), on_device, SOFT.affinity(on_device.images))
        found = there(problem, on_device)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1.01 / 255)
    assert all(one is not None and one.labels.is_pinned() for one in there.kept.values())


def test_batches_come_in_pinned_memory() -> None:
    data = known(4)
    for workers in (0, 1):
        for step, one in enumerate(load(data, range(3), ALONE, workers=workers, pinned=True)):
            assert one.images.is_pinned()
            assert torch.equal(one.to(DEVICE).images.cpu(), data.training(step).images)


def test_a_run_on_the_device_is_that_of_the_cpu(tmp_path: Path) -> None:
    """Rows come in blocks, with the times of the device; losses agree while rounding has not grown."""
    settings = TrainingSettings(
        steps=UNREAD + 5, validate_every=0, measure_every=0, checkpoint_every=UNREAD + 2, learning_rate=1e-3
    )
    blocks, written = list[int](), tmp_path / "cuda" / "history.jsonl"

    def note(row: Row) -> None:
        blocks.append(len(read_history(written)))

    there = train(network(), SOFT, known(4), settings, tmp_path / "cuda", device=DEVICE, callbacks=(note,))
    here = train(network(), SOFT, known(4), settings, tmp_path / "cpu")
    assert blocks == UNREAD * [UNREAD] + 2 * [UNREAD + 2] + 3 * [UNREAD + 5]
    for one, other in zip(there.rows[:3], here.rows[:3], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
    for row in there.rows:
        assert min(row["network_seconds"] or 0, row["solver_seconds"] or 0) > 0
    seconds = [row["seconds"] or 0 for row in there.rows]
    assert seconds == sorted(seconds)
    again = train(network(), SOFT, known(4), settings, tmp_path / "cuda", device=DEVICE, resume=True)
    assert again.rows == there.rows
