"""Objectives, rounds, the monitor, schedules, data, scores and histories."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.cases import CLASSES, GRID, QUICK, SOFT, batch, network, sample, samples
from torch import Tensor, nn

from selflabel.affinity.builders import Grid, Window
from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import collate
from selflabel.losses.gated_crf import GatedCRFLoss
from selflabel.losses.modules import EntropyLoss, NonExistLoss, PottsLoss
from selflabel.problem import Energy
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE
from selflabel.training import (
    SGD,
    AdamW,
    Batches,
    FullMasks,
    History,
    Monitor,
    Process,
    Regularized,
    Regularizer,
    SeedsOnly,
    TensorBoard,
    advance,
    evaluate,
    read_history,
)
from selflabel.training.evaluate import evaluating
from selflabel.training.monitor import sums
from selflabel.training.schedule import polynomial, ramp

# --- objectives --------------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_the_objectives_are_their_formulas() -> None:
    data, weights = batch(), (1.0, 3.0, 0.5)
    logits = network()(data.images).detach()
    log_probs = logits.log_softmax(1).double().numpy()
    assert data.masks is not None
    for objective, index, name in (
        (SeedsOnly(), data.seeds, "seeds"),
        (SeedsOnly(weights), data.seeds, "seeds"),
        (FullMasks(weights), data.masks, "masks"),
    ):
        factor = np.array(objective.class_weights or (1.0, 1.0, 1.0))
        known = index.numpy() != 255
        classes = index.numpy()[known]
        picked = np.moveaxis(log_probs, 1, -1)[known][np.arange(len(classes)), classes]
        expected = -(factor[classes] * picked).sum() / factor[classes].sum()
        terms = objective.terms(logits, data, objective.label(logits, data, None), 0.3)
        assert tuple(terms) == objective.names == (name,)
        assert float(terms[name].value) == pytest.approx(expected, rel=1e-5)
        assert float(terms[name].mass) == pytest.approx(factor[classes].sum())


def test_direct_losses_have_their_weights_and_the_warm_up() -> None:
    data = batch()
    logits = network()(data.images).detach()
    losses: dict[str, tuple[float, nn.Module]] = {
        "potts": (0.5, PottsLoss()),
        "sure": (2.0, EntropyLoss()),
        "gated": (0.1, GatedCRFLoss(2, unlabeled_only=True)),
    }
    objective = Regularized(tuple(Regularizer(name, weight, loss) for name, (weight, loss) in losses.items()))
    assert objective.label(logits, data, None) is None
    terms = objective.terms(logits, data, None, 0.25)
    assert tuple(terms) == objective.names == ("seeds", "potts", "sure", "gated")
    for name, (weight, loss) in losses.items():
        expected = 0.25 * weight * float(loss(logits, data.images, data.seeds))
        assert float(terms[name].value) == pytest.approx(expected, rel=1e-6)
        pixels = (data.seeds == 255).sum() if name == "gated" else data.seeds.numel()
        assert float(terms[name].mass) == float(pixels)
    assert float(terms["seeds"].value) == float(SeedsOnly().terms(logits, data, None, 1.0)["seeds"].value)


def test_objectives_that_cannot_be() -> None:
    data = collate(samples(2, mask=False))
    logits = torch.zeros(2, CLASSES, 16, 16)
    with pytest.raises(ValueError, match="full masks to train with, got none for im0, im1"):
        FullMasks().terms(logits, data, None, 1.0)
    with pytest.raises(ValueError, match="pseudo-labels to fit, got none"):
        SOFT.terms(logits, data, None, 1.0)
    with pytest.raises(ValueError, match="weight >= 0 of 'potts', got -1"):
        Regularizer("potts", -1.0, PottsLoss())
    for name in ("potts", "seeds"):
        with pytest.raises(ValueError, match="a name of its own"):
            Regularized((Regularizer("potts", 1.0, PottsLoss()), Regularizer(name, 1.0, NonExistLoss())))


# --- rounds ------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts the passes through a network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        """One more."""
        self.passes += 1
        logits: Tensor = self.inner(images)
        return logits


@pytest.mark.parametrize("steps", [1, 3])
def test_one_pass_a_network_step_serves_all(steps: int) -> None:
    net = Counting(network())
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    report = advance(net, SOFT, optimizer, batch(), network_steps=steps, monitor=Monitor(SOFT))
    assert net.passes == steps == len(report.losses)
    assert report.losses[-1] <= report.losses[0]
    assert report.loss == pytest.approx(sum(report.terms.values()))
    assert report.network_seconds > 0 < report.solver_seconds


def test_a_step_is_gradient_descent_on_the_loss() -> None:
    net, data, rate = network(double=True), batch(double=True), 0.1
    before = [parameter.detach().clone() for parameter in net.parameters()]
    loss = F.cross_entropy(net(data.images), data.seeds, ignore_index=255)
    loss = loss + 0.5 * PottsLoss()(net(data.images), data.images, data.seeds)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    advance(net, GRID, torch.optim.SGD(net.parameters(), rate), data)
    for parameter, old, gradient in zip(net.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), old - rate * gradient, rtol=1e-9, atol=1e-12)


def test_half_precision_reaches_the_losses_as_logits_only() -> None:
    net = network()
    report = advance(net, SOFT, torch.optim.SGD(net.parameters(), 0.05), batch(), bfloat16=True)
    exact = advance(network(), SOFT, torch.optim.SGD(net.parameters(), 0.0), batch())
    assert report.labeling is not None
    assert report.labeling.labels.dtype == torch.float32
    assert report.loss == pytest.approx(exact.loss, rel=0.02)
    assert report.loss != exact.loss


def test_predictions_of_another_shape_are_an_error() -> None:
    for bad, got in ((nn.Conv2d(1, 3, 3), r"\(1, 3, 14, 14\)"), (nn.Flatten(), r"\(1, 256\)")):
        with pytest.raises(
            ValueError, match=rf"over \(1, 16, 16\) \(images, axes\) from the network, got {got}"
        ):
            advance(bad, SeedsOnly(), torch.optim.SGD(network().parameters(), 0.1), batch(1))


def test_rounds_that_cannot_be() -> None:
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    with pytest.raises(ValueError, match="network_steps >= 1, got 0"):
        advance(network(), SeedsOnly(), optimizer, batch(1), network_steps=0)


# --- the monitor -----------------------------------------------------------------------------------------------


def test_the_yardstick_measures_both_objectives() -> None:
    """The direct loss from the explicit matrix; the joint loss as the method itself counts it."""
    data = batch(2, double=True)
    logits = network(double=True)(data.images).detach()
    objective = replace(SOFT, weight=0.6, affinity=Window(sigma=40.0, sigma_xy=3.0, radius=2), max_steps=200)
    objective = replace(objective, energy=replace(objective.energy, entropy_weight=0.1))
    energy = objective.energy
    sigma = logits.softmax(1)
    y = sigma.flatten(2)
    matrix = objective.affinity(data.images).as_matrix()
    a, b = y[..., :, None].expand(*y.shape, 256), y[..., None, :].expand(*y.shape, 256)
    potts = (matrix[:, None] * COLLISION_DIVERGENCE.pair(a, b)).sum() / 2
    entropy = -((sigma * sigma.log()).sum(1) * (data.seeds == 255)).sum()
    pce = F.cross_entropy(logits, data.seeds, ignore_index=255)
    inner = (energy.coupling_weight - 0.1) * entropy + energy.pairwise_weight * potts
    net = nn.Conv2d(1, CLASSES, 1)
    report = advance(
        Fixed(logits), GRID, torch.optim.SGD(net.parameters(), 0.1), data, monitor=Monitor(objective)
    )
    assert report.measured is not None
    assert report.measured["direct"] == pytest.approx(float(pce + 0.6 * inner / (2 * 256)), rel=1e-9)
    labeling = objective.label(logits, data, None)
    own = sum(float(term.value) for term in objective.terms(logits, data, labeling, 1.0).values())
    assert report.measured["joint"] == pytest.approx(own, rel=1e-9)
    cheap = Monitor(objective, solve=False)
    assert "labels" not in cheap.measure(logits, data)
    assert "labels" in cheap.measure(logits, data, labeling)
    other = replace(labeling, energy=Energy(COLLISION))
    assert "labels" not in cheap.measure(logits, data, other)
    # labels of another affinity, and that affinity, are no measure either
    other = replace(objective, affinity=Grid(sigma=60.0)).label(logits, data, None)
    assert "labels" not in cheap.measure(logits, data, other)
    measured = sums(
        {name: float(t.value) for name, t in Monitor(objective).measure(logits, data, other).items()}
    )
    assert measured["direct"] == pytest.approx(report.measured["direct"], rel=1e-9)
    assert measured["joint"] == pytest.approx(own, rel=1e-9)


class Fixed(nn.Module):
    """Always the same prediction."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        """Whatever the images."""
        return self.logits + 0


# --- schedules ---------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    assert [polynomial(step, 4, 0.9) for step in range(4)] == pytest.approx(
        [1, 0.75**0.9, 0.5**0.9, 0.25**0.9]
    )
    assert [ramp(step, 2, 4) for step in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [ramp(step, 1, 0) for step in range(3)] == [0, 1, 1]


def test_factories() -> None:
    parameters = list(network().parameters())
    adam, sgd = AdamW(0.03, (0.8, 0.95))(parameters, 0.2), SGD(0.7, 0.05)(parameters, 0.1)
    assert isinstance(adam, torch.optim.AdamW)
    assert (adam.defaults["lr"], adam.defaults["weight_decay"], adam.defaults["betas"]) == (
        0.2,
        0.03,
        (0.8, 0.95),
    )
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.1, 0.7, 0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps >= 1, got 0"),
        ({"steps": 2.5}, "a whole number steps >= 1, got 2.5"),
        ({"pretrain_steps": -1}, "pretrain_steps >= 0"),
        ({"learning_rate": 0.0}, "learning rate > 0"),
        ({"relabel_every": 0}, "relabel_every >= 1"),
        ({"average": 1.0}, "average in"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **changes)  # type: ignore[arg-type]


# --- the feed ----------------------------------------------------------------------------------------------------


def test_parts_of_a_feed_are_the_batch() -> None:
    """Augmented, too: what a sample draws does not depend on the process that loads it."""
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


def test_all_images_of_a_feed() -> None:
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


# --- scores ------------------------------------------------------------------------------------------------------


class Threshold(nn.Module):
    """Class 1 above 0.4, class 2 nowhere."""

    def forward(self, images: Tensor) -> Tensor:
        """In evaluation mode only."""
        assert not self.training
        return torch.cat([0.4 - images, images - 0.4, images - 2], 1)


def test_scores_are_counted_over_all_images() -> None:
    net = Threshold().train()
    found = evaluate(net, iter([batch(2), batch(1)]), CLASSES, first=1, distances=True)
    assert net.training
    assert found is not None
    both, true, labeled = np.zeros(3), np.zeros(3), np.zeros(3)
    for one in [sample(0), sample(1), sample(0)]:
        assert one.mask is not None
        index = (one.image[0] > 0.4).long()
        for k in range(3):
            both[k] += float(((one.mask == k) & (index == k)).sum())
            true[k] += float((one.mask == k).sum())
            labeled[k] += float((index == k).sum())
    assert found.dice == pytest.approx(2 * both / (true + labeled))
    assert found.iou == pytest.approx(both / (true + labeled - both))
    assert found.mean_dice == pytest.approx(np.mean(found.dice[1:]))
    assert found.mean_iou == pytest.approx(np.mean(found.iou[1:]))
    assert found.hd95 is not None
    assert found.hd95[1] > 0
    assert np.isnan(found.hd95[2])
    assert found.mean_hd95 == pytest.approx(found.hd95[1])
    plain = evaluate(net, [batch(1)], CLASSES)
    assert plain is not None
    assert plain.mean_hd95 is None
    assert evaluate(net, [], CLASSES) is None
    with pytest.raises(ValueError, match="full masks to score against, got none for im0"):
        evaluate(net, [collate(samples(1, mask=False))], CLASSES)


# --- the history -------------------------------------------------------------------------------------------------


def test_a_history_is_two_files(tmp_path: Path) -> None:
    history = History.resume(("step", "loss"), tmp_path, 0)
    for step, loss in ((1, 0.1 + 0.2), (2, float("nan")), (3, 1e-300)):
        history.append({"step": step, "loss": loss})
    history.flush()
    assert read_history(tmp_path / "history.jsonl") == history.rows
    with open(tmp_path / "history.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table == [["step", "loss"], ["1", "0.30000000000000004"], ["2", ""], ["3", "1e-300"]]
    assert history.column("loss") == ([1.0, 3.0], [0.30000000000000004, 1e-300])
    with pytest.raises(ValueError, match="the columns step, loss, got also speed"):
        history.append({"step": 4, "speed": 1.0})


def test_a_history_of_other_steps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 1}\n{"step": 3}\n')
    with pytest.raises(ValueError, match="the rows of steps 1 to 2"):
        History.resume(("step",), tmp_path, 2)


def test_evaluation_mode_leaves_frozen_layers_frozen() -> None:
    net = network(norm=True)
    net[1].eval()
    modes = [module.training for module in net.modules()]
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == modes


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "lo', b'{"step": 3}garbage\n{"step": 4}\n'])
def test_a_torn_history_is_cut_back(tmp_path: Path, torn: bytes) -> None:
    history = History.resume(("step",), tmp_path, 0)
    history.append({"step": 1})
    history.append({"step": 2})
    for name in ("history.jsonl", "history.csv"):
        with open(tmp_path / name, "ab") as file:
            file.write(torn)
    again = History.resume(("step",), tmp_path, 1)
    again.append({"step": 2})
    assert (tmp_path / "history.csv").read_text() == "step\n1\n2\n"
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == again.rows
    with pytest.raises(
        ValueError, match=r"the rows of steps 1 to 3 in .*history\.jsonl, as the checkpoint says, got 2"
    ):
        History.resume(("step",), tmp_path, 3)


def test_tensorboard_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            written.append(("flush", 0.0, 0))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", module)
    TensorBoard(tmp_path)({"step": 7, "loss": 0.5, "dice": None})
    assert written == [("loss", 0.5, 7), ("flush", 0.0, 0)]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'selflabel\[tensorboard\]'"):
        TensorBoard(tmp_path)
