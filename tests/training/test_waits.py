"""A run reads its losses when rows are due, and waits for the device no more often; what it reads is the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cases import CLASSES, GRID, QUICK, SOFT, Constant, batch, network, samples
from support.waits import Waits
from torch import Tensor, nn

from selflabel.datasets.samples import Batch
from selflabel.datasets.symmetry import UNMOVED
from selflabel.training import (
    SGD,
    Batches,
    FullMasks,
    InitialLabels,
    KeptLabels,
    MemoryStore,
    Monitor,
    Objective,
    PseudoLabels,
    Row,
    SeedsOnly,
    Terms,
    TrainingError,
    TrainingSettings,
    load_checkpoint,
    read_history,
    train,
)
from selflabel.training.step import LabelSource, take_step

KEPT = replace(SOFT, starter=KeptLabels(InitialLabels()))


def known() -> Batch:
    """A batch as a run's loader gives it."""
    return replace(batch(), moved=(UNMOVED,) * 3).checked(CLASSES)


@pytest.mark.parametrize(
    ("objective", "waits"),
    [(SeedsOnly(), 0), (FullMasks(), 0), (GRID, 0), (KEPT, 1)],
    ids=["seeds", "masks", "potts", "soft"],
)
def test_a_step_between_rows_waits_for_nothing_but_its_solver(objective: Objective, waits: int) -> None:
    """The one wait, for the prediction to be looked at, is that of the solver, which waits at once, too."""
    net, data = network(), known()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    take_step(net, objective, optimizer, data, checked=False)  # labels of the seeds are made
    with Waits() as found:
        take_step(net, objective, optimizer, data, checked=False, network_steps=2)
    reads = [
        file for file in found.within("training/") if file != "training/starters.py"
    ]  # it copies from pinned
    assert reads == ["training/step.py"] * waits
    assert found.within("losses/") == []
    if not isinstance(objective, type(KEPT)):
        # a step of the network: an affinity looks at its image and its weights
        assert len(found.found) <= 2 * 2
    with Waits() as found:
        take_step(net, objective, optimizer, data)
    assert len(found.within("training/")) > waits


def test_reading_a_step_is_one_wait() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    outcome = take_step(net, GRID, optimizer, known(), checked=False, network_steps=3)
    with Waits() as found:
        report = outcome.read()
    assert found.found == ["training/step.py"]
    assert len(report.losses) == 3


def test_rows_come_when_they_are_due(tmp_path: Path) -> None:
    """Rows of eight steps at four and eight: each time two looks before the network moves, and one reading."""
    reads, weights = list[int](), len(list(network().parameters()))  # looked at before they are saved
    settings = TrainingSettings(
        steps=8, optimizer=SGD(), validate_every=0, measure_every=0, checkpoint_every=0, read_every=4
    )
    with Waits() as waits:

        def note(row: Row) -> None:
            reads.append(
                len(waits.within("training/step.py")) + len(waits.within("training/run.py")) - weights
            )

        train(network(), SeedsOnly(), Constant(known()), settings, tmp_path, callbacks=(note,))
    reads[4:] = [count - weights for count in reads[4:]]  # the last checkpoint
    assert reads == 4 * [3] + 4 * [6]


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        (SeedsOnly(), {"average": 0.7}),
        (SOFT, {"measure_every": 5}),
        (SOFT, {"relabel_every": 4, "network_steps": 2}),
    ],
    ids=["seeds", "soft", "stored"],
)
def test_when_losses_are_read_changes_nothing(
    objective: Objective, changes: dict[str, object], tmp_path: Path
) -> None:
    settings = replace(QUICK, steps=7, validate_every=0, checkpoint_every=5, **changes)  # type: ignore[arg-type]
    for every in (1, 3):
        data = Batches(samples(4), CLASSES, 2, seed=3, held_out=samples(2))
        out = tmp_path / str(every)
        train(network(), objective, data, replace(settings, read_every=every), out, store=MemoryStore())
    rows = [
        [
            {key: value for key, value in row.items() if "seconds" not in key}
            for row in read_history(tmp_path / name / "history.jsonl")
        ]
        for name in "13"
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 7
    one, other = (load_checkpoint(tmp_path / name / "last.pt") for name in "13")
    assert all(torch.equal(one.network[key], other.network[key]) for key in one.network)
    data = Batches(samples(4), CLASSES, 2, seed=3, held_out=samples(2))
    train(network(), objective, data, replace(settings, read_every=2), tmp_path / "3", resume=True)


class Breaking(nn.Module):
    """Predicts nan from one call on, for one image."""

    def __init__(self, inner: nn.Module, call: int) -> None:
        super().__init__()
        self.inner, self.call, self.calls = inner, call, 0

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        self.calls += 1
        logits: Tensor = self.inner(images)
        if self.calls < self.call:
            return logits
        return torch.cat([logits[:1], logits[1:2] * float("nan"), logits[2:]])


@pytest.mark.parametrize("breaks", [2, 3, 4])
def test_what_is_read_late_is_named_with_its_step(breaks: int, tmp_path: Path) -> None:
    """Nothing of a failed step is saved; the last checkpoint is the last good one."""
    settings = replace(QUICK, validate_every=0, measure_every=0, checkpoint_every=1000, read_every=4)
    data = Constant(known())
    message = rf"^step {breaks}: the network's prediction is nan or inf for im1: .*last good checkpoint"
    with pytest.raises(TrainingError, match=message):
        train(Breaking(network(), breaks), SeedsOnly(), data, settings, tmp_path)
    assert load_checkpoint(tmp_path / "last.pt").step == 0
    assert read_history(tmp_path / "history.jsonl") == []


def test_a_term_that_is_nan_is_found_late(tmp_path: Path) -> None:
    net, data = network(), known()
    outcome = take_step(net, Overflowing(), torch.optim.SGD(net.parameters(), 0.01), data, checked=False)
    with pytest.raises(TrainingError, match=r"the term 'seeds' of the loss is inf for the batch of im0"):
        outcome.read()


class Overflowing(SeedsOnly):
    """A loss that is infinite."""

    def terms(self, logits: Tensor, batch: Batch, pseudo_labels: PseudoLabels | None, ramp: float) -> Terms:
        """Its one term."""
        term = super().terms(logits, batch, None, ramp)["seeds"]
        return {"seeds": replace(term, value=term.value / 0)}


def test_predictions_that_a_solver_gets_are_looked_at_first() -> None:
    net = Breaking(network(), 1)
    with pytest.raises(TrainingError, match="prediction is nan or inf for im1"):
        take_step(net, SOFT, torch.optim.SGD(net.parameters(), 0.01), known(), checked=False)
    before = [parameter.clone() for parameter in net.parameters()]
    stored = LabelSource(store=MemoryStore(), fit_stored=True)
    assert all(torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True))
    with pytest.raises(ValueError, match="stored labels of every image"):
        take_step(net, SOFT, torch.optim.SGD(net.parameters(), 0.01), known(), labels=stored, checked=False)


def test_the_monitor_reads_at_once() -> None:
    net = network()
    outcome = take_step(net, SOFT, torch.optim.SGD(net.parameters(), 0.01), known(), monitor=Monitor(SOFT))
    assert outcome.measuring_seconds > 0
    assert outcome.measured is not None
    assert outcome.measured["joint"] == pytest.approx(outcome.read().loss, rel=1e-5)
