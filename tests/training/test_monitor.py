"""The monitor: the direct and the joint loss, of any prediction and any labels."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.cases import CLASSES, GRID, SOFT, batch, network
from torch import Tensor, nn

from selflabel.affinity.builders import Grid, Window
from selflabel.energy import Energy
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE
from selflabel.training import (
    Monitor,
    advance,
)
from selflabel.training.monitor import sums


def test_the_monitor_measures_both_objectives() -> None:
    """The direct loss is that of the explicit matrix, the joint loss that of the objective."""
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
    pseudo_labels = objective.label(logits, data, None)
    own = sum(float(term.value) for term in objective.terms(logits, data, pseudo_labels, 1.0).values())
    assert report.measured["joint"] == pytest.approx(own, rel=1e-9)
    cheap = Monitor(objective, solve=False)
    assert "labels" not in cheap.measure(logits, data)
    assert "labels" in cheap.measure(logits, data, pseudo_labels)
    other = replace(pseudo_labels, energy=Energy(COLLISION))
    assert "labels" not in cheap.measure(logits, data, other)
    # neither do labels of another affinity count, nor that affinity
    other = replace(objective, affinity=Grid(sigma=60.0)).label(logits, data, None)
    assert "labels" not in cheap.measure(logits, data, other)
    measured = sums(
        {name: float(t.value) for name, t in Monitor(objective).measure(logits, data, other).items()}
    )
    assert measured["direct"] == pytest.approx(report.measured["direct"], rel=1e-9)
    assert measured["joint"] == pytest.approx(own, rel=1e-9)


class Fixed(nn.Module):
    """A network with a constant prediction."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        """The prediction, for any images."""
        return self.logits + 0
