"""Self-labeling: its terms, the robust trust region, which classes and which start a solve has."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from support.cases import batch, network, sample

from selflabel.affinity import GridAffinity
from selflabel.affinity.builders import Dense, Grid
from selflabel.datasets.samples import Batch, collate
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.terms import (
    BILINEAR,
    QUADRATIC,
    QUADRATIC_POTTS,
    STANDARD,
)
from selflabel.training import InitialLabels, SelfLabeling
from selflabel.training.self_labeling import with_errors

SOFT = replace(GradientDescent.default_energy, pairwise_weight=1.3)
MF = Energy(STANDARD, BILINEAR, 0.9, 0.02, 0.6)


def test_terms_add_up_and_the_warm_up_scales_all_but_the_seeds() -> None:
    objective = SelfLabeling(MF, MeanField(), Dense(sigma=25.0, sigma_xy=5.0), weight=0.8)
    data = batch(2, double=True)
    logits = network(double=True)(data.images).detach()
    pseudo_labels = objective.label(logits, data, None)
    whole, half = (objective.terms(logits, data, pseudo_labels, ramp) for ramp in (1.0, 0.5))
    assert tuple(whole) == objective.names == ("seeds", "coupling", "pairwise", "entropy")
    assert float(whole["entropy"].value) < 0 < float(whole["pairwise"].value)
    for name, factor in (("seeds", 1.0), ("coupling", 0.5), ("pairwise", 0.5), ("entropy", 0.5)):
        assert float(half[name].value) == pytest.approx(factor * float(whole[name].value), rel=1e-12)


# --- robust trust region ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [0.05, 0.4])
def test_the_error_probability_is_the_cross_entropy_of_the_paper(error: float) -> None:
    logits = 6 * torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    index = torch.randint(4, (2, 3, 5), generator=torch.Generator().manual_seed(13))
    data = Batch(("a", "b"), torch.rand(2, 1, 3, 5).double(), torch.full((2, 3, 5), UNLABELED))
    energy = Energy(STANDARD, BILINEAR, 0.6, 1.5)
    objective = SelfLabeling(energy, GraphCut(), weight=0.7, error_probability=error)
    pseudo_labels = replace(objective.label(logits, data, None), labels=one_hot(index, 4, torch.float64))
    found = objective.terms(logits, data, pseudo_labels, 1.0)["coupling"].value
    z = np.exp(logits.numpy())
    sigma = np.take_along_axis(z / z.sum(1, keepdims=True), index.numpy()[:, None], 1)
    expected = 0.7 * 0.6 * -np.log((1 - error) * sigma + error / 3 * (1 - sigma)).mean()
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_the_solver_sees_the_same_distance() -> None:
    """The cut is the best of all labelings by the robust cross-entropy, pixel by pixel."""
    generator = torch.Generator().manual_seed(17)
    logits = 0.5 * torch.randn(1, 2, 2, 4, generator=generator, dtype=torch.float64)
    logits[0, 0, 0, 2] += 12  # certain, and unlike its neighbors
    logits[0, 1] += 0.8
    data = Batch(
        ("a",), torch.rand(1, 1, 2, 4, generator=generator).double(), torch.full((1, 2, 4), UNLABELED)
    )
    data.seeds[0, 0, 0] = 1
    energy = Energy(STANDARD, BILINEAR, 0.9, 0.8)
    objective = SelfLabeling(energy, GraphCut(), Grid(sigma=300.0), error_probability=0.2)
    pseudo_labels = objective.label(logits, data, None)
    edges = GridAffinity.from_image(data.images, sigma=300.0).edges()
    sigma = logits.softmax(1)[0].flatten(1)
    cost = -torch.log(0.8 * sigma + 0.2 * (1 - sigma))
    cost[:, 0] = 0
    best, energies = None, []
    for values in product((0, 1), repeat=8):
        y = torch.tensor(values)
        if y[0] != 1:
            continue
        unary = 0.9 * cost.gather(0, y[None]).sum()
        pairs = 0.8 * (edges.weight[0] * (y[edges.first] != y[edges.second])).sum()
        energies.append(float(unary + pairs))
        best = y if energies[-1] == min(energies) else best
    assert best is not None
    assert torch.equal(pseudo_labels.labels.argmax(1).flatten(), best)
    plain = replace(objective, error_probability=0.0).label(logits, data, None)
    assert not torch.equal(plain.labels, pseudo_labels.labels)  # robustness changes labels here


def test_errors_leave_distributions_and_gradients() -> None:
    logits = torch.tensor([[30.0, -90.0, 0.0]]).view(1, 3, 1, 1).double().requires_grad_()
    assert torch.equal(with_errors(logits, 0.0), logits)
    robust = with_errors(logits, 0.1)
    torch.testing.assert_close(robust.exp().sum(1), torch.ones(1, 1, 1).double())
    assert robust.min().item() == pytest.approx(np.log(0.05))
    assert torch.autograd.gradcheck(lambda x: with_errors(x, 0.1), logits)


def test_an_error_probability_that_says_nothing_is_an_error() -> None:
    data = batch(1)
    logits = torch.zeros(1, 3, 16, 16)
    objective = SelfLabeling(SOFT, GradientDescent(), error_probability=0.67)
    with pytest.raises(ValueError, match=r"below 1 - 1/K = 0\.666667 for 3 classes, got 0\.67"):
        objective.label(logits, data, None)
    with pytest.raises(ValueError, match="for 1 classes"):
        objective.label(logits[:, :1], data, None)
    with pytest.raises(ValueError, match=r"error probability in \[0, 1\), got 1"):
        SelfLabeling(SOFT, GradientDescent(), error_probability=1.0)


# --- classes and starts ----------------------------------------------------------------------------------------


def test_present_only_allows_the_classes_of_the_seeds() -> None:
    data = collate([sample(0), sample(1)])
    data.seeds[0][data.seeds[0] == 2] = UNLABELED
    data.seeds[1][:] = UNLABELED
    logits = torch.zeros(2, 3, 16, 16)
    logits[:, 2] = 3.0
    for present_only, missing in ((True, True), (False, False)):
        objective = SelfLabeling(SOFT, GradientDescent(), present_only=present_only)
        labels = objective.label(logits, data, None).labels
        assert (float(labels[0, 2].sum()) == 0) is missing
        assert float(labels[1, 2].sum()) > 0  # without seeds any class is possible


def test_a_starter_makes_the_labels_that_a_solve_starts_from() -> None:
    data, affinity = batch(), Grid(sigma=20.0)
    logits = 5 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(13))  # a poor prediction
    objective = SelfLabeling(SOFT, GradientDescent(), affinity, starter=InitialLabels(affinity=affinity))
    walk = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.0)
    start = solve(Problem.from_seeds(walk, data.seeds, 3, affinity(data.images)), RandomWalker()).labels
    problem = Problem.from_logits(SOFT, logits, data.seeds, affinity(data.images))
    expected = solve(problem, GradientDescent(), start=start).labels
    torch.testing.assert_close(objective.label(logits, data, None).labels, expected)
    assert not torch.allclose(replace(objective, starter=None).label(logits, data, None).labels, expected)
    stored = one_hot(torch.ones(3, 16, 16, dtype=torch.int64), 3)  # a given start goes first
    without = replace(objective, starter=None).label(logits, data, stored).labels
    torch.testing.assert_close(objective.label(logits, data, stored).labels, without)


def test_a_starter_leaves_images_without_seeds_to_the_prediction() -> None:
    data = batch()
    logits = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(13))
    objective = SelfLabeling(SOFT, GradientDescent())
    seeded = objective.default_start(logits, data)
    for unseeded in ([1], [0, 1, 2]):
        seeds = data.seeds.clone()
        seeds[unseeded] = UNLABELED
        found = objective.default_start(logits, replace(data, seeds=seeds))
        for i in range(3):
            torch.testing.assert_close(found[i], logits[i].softmax(0) if i in unseeded else seeded[i])


def test_volumes_have_the_same_defaults() -> None:
    images = torch.rand(1, 1, 4, 6, 5, generator=torch.Generator().manual_seed(3))
    seeds = torch.full((1, 4, 6, 5), UNLABELED)
    seeds[0, 0, 0], seeds[0, 3, 5] = 0, 1
    data = Batch(("volume",), images, seeds)
    found = SelfLabeling(SOFT, GradientDescent()).label(torch.zeros(1, 2, 4, 6, 5), data, None)
    assert found.labels.shape == (1, 2, 4, 6, 5)
    for few, many in ((4, 6), (8, 26)):
        flat, deep = (Grid(neighbors=n)(images).as_matrix() for n in (few, many))
        assert torch.equal(flat, deep)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight >= 0"),
        ({"error_probability": 1.0}, "error probability in"),
        ({"max_steps": 0}, "max_steps >= 1"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SelfLabeling(SOFT, GradientDescent()), **changes)  # type: ignore[arg-type]
