"""The alternation: the same as a loop by hand, never uphill, hard and soft."""

from dataclasses import replace

import pytest
import torch
from support.cases import alternator, batch, network
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Dense, Grid
from selflabel.datasets.samples import Batch
from selflabel.driver import Solver, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.losses.cross_entropy import partial_cross_entropy
from selflabel.losses.self_labeling import self_labeling_loss
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    NORMALIZED_QUADRATIC,
    QUADRATIC,
    QUADRATIC_POTTS,
    REVERSE,
    STANDARD,
    Relaxation,
)
from selflabel.training import Alternator, SelfLabeling

SOFT = replace(GradientDescent.default_energy, pairwise_weight=1.3)


@pytest.mark.quick
def test_a_step_is_the_loop_of_the_docstring() -> None:
    energy, weight, affinity, solver = SOFT, 0.7, Grid(sigma=20.0), GradientDescent()
    by_hand, made = network(), network()
    data, losses = batch(), []
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
    own = torch.optim.SGD(made.parameters(), 0.1)
    objective = SelfLabeling(energy, solver, affinity, max_steps=200, weight=weight, starter=None)
    automatic = Alternator(made, objective, own)
    for _ in range(3):
        logits = by_hand(data.images)
        problem = Problem.from_logits(energy, logits, data.seeds, affinity(data.images))
        labels = solve(problem, solver).labels
        coupling = self_labeling_loss(logits, labels, data.seeds, energy.coupling)
        loss = partial_cross_entropy(logits, data.seeds) + weight * energy.coupling_weight * coupling
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report = automatic.step(data)
        losses.append(report.terms["seeds"] + report.terms["coupling"])
        assert losses[-1] == pytest.approx(loss.item(), rel=1e-6)
    assert losses[-1] < losses[0]
    for a, b in zip(by_hand.parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def joint(objective: SelfLabeling, logits: Tensor, data: Batch, labels: Tensor) -> float:
    """Equation (8) with the explicit matrix, pair by pair, in the order of the paper."""
    energy, pixels = objective.energy, logits[0, 0].numel()
    assert isinstance(energy.relaxation, Relaxation)
    affinity = objective.affinity(data.images)
    matrix, log_probs = affinity.as_matrix().double(), logits.double().log_softmax(1)
    free = (data.seeds == UNLABELED)[:, None]
    y = labels.double().flatten(2)
    first, second = (y[..., :, None].expand(*y.shape, pixels), y[..., None, :].expand(*y.shape, pixels))
    pairs = (matrix[:, None] * energy.relaxation.pair(first, second)).sum()
    if objective.affinity == Grid():
        pairs = pairs / 2
    coupling = (energy.coupling.value(labels.double(), log_probs.exp()) * free).sum()
    entropy = -(torch.special.xlogy(labels, labels).sum(1, keepdim=True) * free).sum()
    whole = (
        energy.coupling_weight * coupling + energy.pairwise_weight * pairs - energy.entropy_weight * entropy
    )
    known = data.seeds != UNLABELED
    seeds = -log_probs.movedim(1, -1)[known].gather(1, data.seeds[known][:, None]).mean()
    return float(seeds + objective.weight * whole / (len(logits) * pixels))


MF = Energy(STANDARD, BILINEAR, 0.9, 0.02, 0.6)
METHODS: list[tuple[str, Energy, Solver, AffinityBuilder]] = [
    ("soft", SOFT, GradientDescent(), Grid()),
    ("reverse", Energy(REVERSE, QUADRATIC_POTTS, 0.4, 2.0), GradientDescent(), Grid()),
    ("hard", Energy(STANDARD, BILINEAR, 1.0, 2.0), GraphCut(), Grid()),
    ("hard collision", Energy(COLLISION, NORMALIZED_QUADRATIC, 0.5, 1.5), GraphCut(), Grid()),
    ("walker", Energy(QUADRATIC, QUADRATIC_POTTS, 1.0, 2.0), RandomWalker(), Grid()),
    ("dense", MF, MeanField(), Dense(sigma=25.0, sigma_xy=5.0)),
]


@pytest.mark.parametrize(
    ("energy", "solver", "affinity"), [m[1:] for m in METHODS], ids=[m[0] for m in METHODS]
)
def test_neither_half_goes_uphill(energy: Energy, solver: Solver, affinity: AffinityBuilder) -> None:
    """(8) recomputed from its definition after every half-step, on a full batch with small steps."""
    net, data = network(double=True), batch(2, double=True)
    objective = SelfLabeling(energy, solver, affinity, weight=0.8)
    made = Alternator(net, objective, torch.optim.SGD(net.parameters(), 0.02), network_steps=2)
    labels, last, falls = None, float("inf"), []
    for _ in range(4):
        logits = net(data.images).detach()
        if labels is not None:
            before = joint(objective, logits, data, labels)
            falls.append(("network", last - before))
            last = before
        report = made.step(data, start=labels)
        assert report.pseudo_labels is not None
        labels = report.pseudo_labels.labels
        solved = joint(objective, logits, data, labels)
        slack = 2e-6 if affinity != Grid() else 0.0  # the lattice is an approximation of the matrix
        assert report.loss == pytest.approx(solved, rel=1e-9, abs=slack * 1e3)
        assert report.before == pytest.approx(report.loss + report.gain)
        assert report.losses[1] <= report.losses[0]
        falls.append(("solver", report.gain))
        last = solved
    assert min(fall for _, fall in falls) >= -1e-9
    for half in ("network", "solver"):
        assert sum(fall for name, fall in falls if name == half) > 1e-6


def test_pretraining_lowers_the_seeds_term() -> None:
    made, data = alternator(network()), batch()
    losses = [made.pretrain(data).loss for _ in range(10)]
    assert losses[-1] < losses[0]
    assert made.pretrain(data).terms.keys() == {"seeds"}


def test_an_alternator_takes_a_step_of_the_network_at_least() -> None:
    with pytest.raises(ValueError, match="network_steps >= 1"):
        replace(alternator(network()), network_steps=0)
