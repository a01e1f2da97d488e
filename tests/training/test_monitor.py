"""The monitor: the direct and the joint loss, of any prediction and any labels."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.cases import CLASSES, GRID, SOFT, batch, network
from torch import Tensor, nn

from selflabel.affinity.builders import Grid, Window
from selflabel.datasets.samples import Batch
from selflabel.energy import Energy
from selflabel.solvers import GradientDescent
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE, NormalizedCut, normalized_cut
from selflabel.training import Monitor, SelfLabeling, advance
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


def test_further_terms_take_part_on_their_own_affinities() -> None:
    """In the joint loss, of the labels, and in the direct one, of the prediction."""
    data = batch(2, double=True)
    logits = network(double=True)(data.images).detach()
    near, far = Grid(sigma=40.0), Window(30.0, 3.0, 2)
    plain = SelfLabeling(Energy(pairwise_weight=1.3), GradientDescent(), near, weight=0.6)
    energy = replace(plain.energy, regularizers=(NormalizedCut(7.0),))
    objective = replace(plain, energy=energy, affinities=(far,))
    objective.check(CLASSES)
    cut = normalized_cut(logits.softmax(1), far(data.images)).sum() * 7 * 0.6 / (2 * 256)
    measured, without = (sums(values_of(Monitor(one), logits, data)) for one in (objective, plain))
    assert measured["direct"] == pytest.approx(without["direct"] + float(cut), rel=1e-6)
    pseudo_labels = objective.label(logits, data, None)
    own = sum(float(term.value) for term in objective.terms(logits, data, pseudo_labels, 1.0).values())
    assert measured["joint"] == pytest.approx(own, rel=1e-9)
    problem = objective.problem(logits, data, near(data.images))
    seeds = float(objective.seeds.terms(logits, data, None, 1.0)["seeds"].value)
    value = float(problem.value(pseudo_labels.labels).sum()) * 0.6 / (2 * 256)
    assert own == pytest.approx(seeds + value, rel=1e-6)
    with pytest.raises(
        ValueError, match="expected an affinity for each of the 1 regularizers of the energy, got 2"
    ):
        replace(objective, affinities=(near, far))


def values_of(monitor: Monitor, logits: Tensor, data: Batch) -> dict[str, float]:
    return {name: float(term.value) for name, term in monitor.measure(logits, data).items()}


class Fixed(nn.Module):
    """A network with a constant prediction."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        """The prediction, for any images."""
        return self.logits + 0
