"""A step on a batch: one pass of the network, a step of descent; schedules and settings."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.cases import GRID, QUICK, SOFT, batch, network
from torch import Tensor, nn

from selflabel.losses.modules import PottsLoss
from selflabel.training import (
    SGD,
    AdamW,
    Monitor,
    SeedsOnly,
    advance,
)
from selflabel.training.schedule import polynomial, ramp


class Counting(nn.Module):
    """Counts the passes through a network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        """Count, and pass on."""
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
    assert report.pseudo_labels is not None
    assert report.pseudo_labels.labels.dtype == torch.float32
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
        ({"steps": 2.5}, "steps as a whole number, got 2.5"),
        ({"pretrain_steps": -1}, "pretrain_steps >= 0"),
        ({"learning_rate": 0.0}, "learning rate > 0"),
        ({"relabel_every": 0}, "relabel_every >= 1"),
        ({"average": 1.0}, "average in"),
        ({"workers": -1}, "workers >= 0, got -1"),
        ({"read_every": 0}, "read_every >= 1 step, or None, got 0"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **changes)  # type: ignore[arg-type]
