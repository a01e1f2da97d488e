"""Whole runs of training in one process, and how they end when something is wrong."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cases import CLASSES, GRID, QUICK, SOFT, Constant, batch, batches, network
from torch import Tensor, nn

from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Batch
from selflabel.driver import Step
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent
from selflabel.training import (
    FullMasks,
    Objective,
    PseudoLabels,
    Regularized,
    Row,
    SeedsOnly,
    SelfLabeling,
    TrainingError,
    WeightedLoss,
    advance,
    evaluate,
    load_checkpoint,
    load_weights,
    train,
)
from selflabel.training.run import columns

# --- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective", [SeedsOnly(), FullMasks(), GRID, SOFT], ids=["pce", "full", "gd", "adm"]
)
def test_a_run_fills_its_history(objective: Objective, tmp_path: Path) -> None:
    seen: list[float | None] = []
    net = network()
    history = train(
        net, objective, batches(), QUICK, tmp_path / "run", callbacks=[lambda row: seen.append(row["step"])]
    )
    rows = history.rows
    assert seen == [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert history.columns == columns(objective, SeedsOnly(), CLASSES)
    rates = [0.01 * (1 - step / 6) ** 0.9 for step in range(6)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates)
    assert [row["ramp"] for row in rows] == [0, 0, 0.5, 1, 1, 1]
    for row in rows:
        active = ("seeds",) if row["step"] in (1, 2) else objective.names
        terms = {name: row[f"term_{name}"] for name in {"seeds", *objective.names}}
        assert {name for name, value in terms.items() if value is not None} == set(active)
        assert row["loss"] == pytest.approx(sum(value for value in terms.values() if value is not None))
        assert (row["dice"] is not None) == (row["step"] in (3, 6))
        measured = isinstance(objective, SelfLabeling) and row["step"] in (1, 2, 4, 6)
        assert (row["joint"] is not None) == (row["direct"] is not None) == measured
    if isinstance(objective, SelfLabeling):
        assert rows[5]["joint"] == pytest.approx(rows[5]["loss"], rel=1e-5)
    seconds = [row["seconds"] or 0 for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    scores = evaluate(net, batches().validation(), CLASSES)
    assert scores is not None
    assert rows[5]["dice"] == pytest.approx(scores.mean_dice)
    assert rows[5]["iou_1"] == pytest.approx(scores.iou[1])
    again = network(5)
    checkpoint = load_weights(tmp_path / "run" / "last.pt", again)
    assert (checkpoint.step, len(checkpoint.rows)) == (6, 6)
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    assert best.best == max(row["dice"] or 0 for row in rows)
    assert rows[best.step - 1]["dice"] == best.best


def test_training_learns() -> None:
    settings = replace(
        QUICK, steps=60, pretrain_steps=30, learning_rate=0.03, measure_every=0, validate_every=0
    )
    history = train(network(), replace(SOFT, weight=0.3), batches(), settings)
    assert (history.rows[-1]["dice"] or 0) > 0.6
    assert (history.rows[-1]["term_seeds"] or 9) < 0.5 * (history.rows[0]["term_seeds"] or 0)


def test_the_seed_decides_and_nothing_else_does() -> None:
    """Dropout draws from the run's seed; the caller's random numbers are left alone."""

    def losses(seed: int) -> list[float | None]:
        before = torch.get_rng_state()
        net = network(dropout=0.5)
        torch.manual_seed(99 + seed)
        state = torch.get_rng_state()
        history = train(net, SeedsOnly(), batches(), replace(QUICK, seed=seed, steps=3))
        assert torch.equal(torch.get_rng_state(), state)
        torch.set_rng_state(before)
        return [row["loss"] for row in history.rows]

    assert losses(3) == losses(3)
    assert losses(3) != losses(5)


def test_labels_an_epoch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(QUICK, relabel_every=2, steps=8, warm_start=True, measure_every=0)
    rows, solves, label = list[Row](), list[int](), SelfLabeling.label

    def noted(self: SelfLabeling, logits: Tensor, batch: Batch, start: Tensor | None) -> PseudoLabels:
        solves.append(len(rows) + 1)
        return label(self, logits, batch, start)

    monkeypatch.setattr(SelfLabeling, "label", noted)
    history = train(network(), SOFT, batches(4, 2), settings, callbacks=(rows.append,))
    assert sorted(set(solves)) == [3, 5, 7]
    assert all(row["gain"] == 0 for row in history.rows[2:])
    for settings, data, objective, message in (
        (
            replace(QUICK, relabel_every=2),
            replace(batches(), augmentation=Augmentation()),
            SOFT,
            "same geometry",
        ),
        (
            replace(QUICK, warm_start=True),
            replace(batches(), augmentation=Augmentation()),
            SOFT,
            "same geometry",
        ),
        (
            replace(QUICK, warm_start=True),
            batches(),
            GRID,
            "SelfLabeling for relabel_every and warm_start, got Regularized",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(network(), objective, data, settings)


def test_a_warm_start_needs_fewer_improvements() -> None:
    settings = replace(QUICK, steps=8, learning_rate=1e-4)
    data = Constant(batch(2))
    cold, warm = (train(network(), SOFT, data, replace(settings, warm_start=on)) for on in (False, True))
    assert (warm.rows[-1]["gain"] or 0) < 0.5 * (cold.rows[-1]["gain"] or 0)


def test_an_average_of_the_weights_is_validated(tmp_path: Path) -> None:
    net = network(norm=True)
    mean = net.state_dict()["0.weight"].clone()
    weights: list[Tensor] = []
    listeners = [lambda row: weights.append(net.state_dict()["0.weight"].clone())]
    history = train(net, SeedsOnly(), batches(), replace(QUICK, average=0.6), tmp_path, callbacks=listeners)
    for step, weight in enumerate(weights):
        decay = min(0.6, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
    other = network(5, norm=True)
    checkpoint = load_weights(tmp_path / "last.pt", other)
    loaded = other.state_dict()
    torch.testing.assert_close(loaded["0.weight"], mean)
    assert not torch.equal(checkpoint.network["0.weight"], loaded["0.weight"])
    assert torch.equal(checkpoint.network["1.running_var"], loaded["1.running_var"])
    scores = evaluate(other, batches().validation(), CLASSES)
    assert scores is not None
    assert history.rows[-1]["dice"] == pytest.approx(scores.mean_dice)


# --- what goes wrong ---------------------------------------------------------------------------------------------


class Sabotaged(nn.Module):
    """A loss that is nan from its n-th call on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, logits: Tensor, images: Tensor, seeds: Tensor) -> Tensor:
        """The mean of the logits before that call."""
        self.calls -= 1
        return logits.mean() * (1 if self.calls >= 0 else float("nan"))


def test_a_nan_loss_stops_the_run_with_its_last_good_checkpoint(tmp_path: Path) -> None:
    objective = Regularized((WeightedLoss("odd", 1.0, Sabotaged(3)),))
    net = network()
    data = Constant(batch(2))
    kept: dict[str, Tensor] = {}
    copy = [lambda row: kept.update({n: v.clone() for n, v in net.state_dict().items()})]
    with pytest.raises(
        TrainingError, match=r"^step 6: the term 'odd' of the loss is nan .* of im0, im1: .*last\.pt$"
    ):
        train(net, objective, data, replace(QUICK, checkpoint_every=5), tmp_path, callbacks=copy)
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint.step == 5
    for name, value in net.state_dict().items():  # no step was taken
        assert torch.equal(value, kept[name])
        assert torch.equal(value, checkpoint.network[name])
    with pytest.raises(TrainingError, match=r"^step 3: .*No checkpoint was saved before$"):
        train(network(), Regularized((WeightedLoss("odd", 1.0, Sabotaged(0)),)), data, QUICK)


def test_a_nan_image_is_named() -> None:
    data = batch(3)
    data.images[1, 0, 4, 4] = float("nan")
    with pytest.raises(TrainingError, match="prediction is nan or inf for im1: check these images"):
        advance(network(), SOFT, torch.optim.SGD(network().parameters(), 0.1), data)


def test_a_nan_prediction_while_relabeling_is_named() -> None:
    data = batches()
    images = [replace(data.samples[n]) for n in range(len(data.samples))]
    images[4].image[0, 3, 3] = float("nan")
    settings = replace(QUICK, relabel_every=2)
    with pytest.raises(TrainingError, match=r"^step 3: the network's prediction is nan or inf for .*im4"):
        train(network(), SOFT, replace(data, samples=images, batch=1, seed=2), settings)


def test_weights_that_are_nan_are_not_saved(tmp_path: Path) -> None:
    """A finite loss with an infinite gradient, which no loss of this step shows."""

    class Steep(nn.Module):
        def forward(self, logits: Tensor, images: Tensor, seeds: Tensor) -> Tensor:
            return (logits.mean() - logits.mean().detach()).clamp_min(0).sqrt()

    objective = Regularized((WeightedLoss("steep", 1.0, Steep()),))
    settings = replace(QUICK, steps=1, pretrain_steps=0, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"^step 1: the network has weights that are nan or inf"):
        train(network(), objective, replace(batches(), held_out=None), settings, tmp_path)
    assert load_checkpoint(tmp_path / "last.pt").step == 0


def test_a_failed_solve_is_named_after_its_step() -> None:
    class Broken(GradientDescent):
        def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
            yield Step(labels * float("nan"))

    objective = replace(SOFT, solver=Broken(), starter=None)
    with pytest.raises(TrainingError, match=r"^step 3: gradient-descent: images \[0, 1, 2\] of the batch"):
        train(network(), objective, batches(), replace(QUICK, measure_every=0))


def test_seeds_beyond_the_classes_are_an_error() -> None:
    data = batch(2)
    data.seeds[0, 0, 0] = 3
    for objective in (SeedsOnly(), SOFT):
        with pytest.raises(ValueError, match=r"seeds in 0\.\.2 or 255"):
            advance(network(), objective, torch.optim.SGD(network().parameters(), 0.1), data)
