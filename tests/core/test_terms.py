"""Couplings, relaxations and Potts sums against explicit formulas, autograd and finite differences."""

from dataclasses import replace
from itertools import product
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import (
    DENSE,
    KINDS,
    SPARSE,
    explicit_coupling,
    explicit_potts,
    explicit_relaxation,
    make_case,
    random_labels,
)
from torch import Tensor

from selflabel.affinity import GridAffinity
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Problem
from selflabel.terms import (
    BILINEAR,
    COUPLINGS,
    LOG_QUADRATIC,
    LOG_QUADRATIC_SLACK,
    NORMALIZED_QUADRATIC,
    QUADRATIC_POTTS,
    RELAXATIONS,
    Coupling,
    Relaxation,
    entropy,
    entropy_gradient,
    potts,
    potts_and_grad,
    total,
)

EVERY_COUPLING = pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda c: c.name)
EVERY_RELAXATION = pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
SPARSE_SUMS = [(kind, relaxation) for kind in SPARSE for relaxation in RELAXATIONS]
DENSE_SUMS = [(kind, relaxation) for kind in DENSE for relaxation in (BILINEAR, QUADRATIC_POTTS)]
EVERY_SUM = pytest.mark.parametrize(
    ("kind", "relaxation"), SPARSE_SUMS + DENSE_SUMS, ids=lambda x: x if isinstance(x, str) else x.name
)


def distributions(shape: tuple[int, ...], drawn: int) -> Tensor:
    return random_labels(torch.zeros(shape, dtype=torch.float64), drawn)


def sure(shape: tuple[int, ...], drawn: int) -> Tensor:
    """From logits of ±100, in float32: zeros and ones, and pairs of classes equally probable."""
    generator = torch.Generator().manual_seed(drawn)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (100.0 * signs).softmax(1)


# --- couplings ----------------------------------------------------------------------------------------------


def test_names() -> None:
    assert [c.name for c in COUPLINGS] == ["standard", "reverse", "collision", "quadratic"]
    assert [r.name for r in RELAXATIONS] == [
        "bilinear",
        "quadratic",
        "normalized-quadratic",
        "collision-cross-entropy",
        "log-quadratic",
        "collision-divergence",
    ]


@EVERY_COUPLING
@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_coupling_is_the_formula(coupling: Coupling, size: tuple[int, ...]) -> None:
    y, sigma = distributions((2, 3, *size), 6_113), distributions((2, 3, *size), 771)
    y.requires_grad_()
    expected = explicit_coupling(coupling.name, y, sigma)
    torch.testing.assert_close(coupling.value(y, sigma)[:, 0], expected)
    (gradient,) = torch.autograd.grad(expected.sum(), y)
    torch.testing.assert_close(coupling.gradient(y.detach(), sigma), gradient)


@EVERY_COUPLING
def test_coupling_at_the_vertices(coupling: Coupling) -> None:
    sigma = distributions((1, 3, 2, 2), 9_001)
    if coupling.name == "reverse":
        assert coupling.at_vertices is None
        return
    assert coupling.at_vertices is not None
    costs = coupling.at_vertices(sigma)
    for k in range(3):
        hard = one_hot(torch.full((1, 2, 2), k), 3, torch.float64)
        torch.testing.assert_close(costs[:, k], explicit_coupling(coupling.name, hard, sigma))


@EVERY_COUPLING
def test_couplings_of_sure_predictions_are_finite(coupling: Coupling) -> None:
    y, sigma = sure((1, 3, 6, 6), 31), sure((1, 3, 6, 6), 32)
    for values in (coupling.value(y, sigma), coupling.gradient(y, sigma), coupling.curvature(y, sigma)):
        assert bool(values.isfinite().all())
    assert float(coupling.value(y, sigma).min()) >= 0
    assert float(coupling.value(y, sigma).max()) <= 30.001


@EVERY_COUPLING
def test_curvature_is_bounded(coupling: Coupling) -> None:
    """Along any direction on the simplex: ``d² H <= curvature · Σ d_k² / y_k``, the entropy's curvature."""
    y, sigma = distributions((1, 4, 5, 5), 4_721), distributions((1, 4, 5, 5), 588)
    d = distributions((1, 4, 5, 5), 6_021)
    d = d - d.mean(1, keepdim=True)
    step = 1e-4 * y.amin(1, keepdim=True)
    values = [coupling.value(y + s * step * d, sigma) for s in (-1, 0, 1)]
    curvature = (values[0] - 2 * values[1] + values[2]) / step**2
    entropys = (d.square() / y).sum(1, keepdim=True)
    assert bool((curvature <= coupling.curvature(y, sigma) * entropys + 1e-2).all())


# --- relaxations --------------------------------------------------------------------------------------------


@EVERY_RELAXATION
def test_relaxation_is_the_formula(relaxation: Relaxation) -> None:
    p, q = distributions((2, 4, 3, 3), 2_203), distributions((2, 4, 3, 3), 87)
    torch.testing.assert_close(relaxation.pair(p, q)[:, 0], explicit_relaxation(relaxation.name, p, q))
    torch.testing.assert_close(relaxation.pair(p, q), relaxation.pair(q, p))


@EVERY_RELAXATION
def test_potts_at_hard_labels(relaxation: Relaxation) -> None:
    index = torch.tensor(list(product(range(3), repeat=2)))
    p, q = (one_hot(index[None, None, :, side], 3, torch.float64) for side in (0, 1))
    different = (index[:, 0] != index[:, 1]).double()
    values = relaxation.pair(p, q)[0, 0, 0]
    assert relaxation.is_potts == (relaxation.name in {"bilinear", "quadratic", "normalized-quadratic"})
    if relaxation.is_potts:
        torch.testing.assert_close(values, different)
    else:
        assert bool((values[different == 0] == 0).all())
        assert float(values[different == 1].min()) > 10  # infinite in the paper
        assert bool(values.isfinite().all())


@EVERY_RELAXATION
def test_relaxations_of_sure_labels_are_finite(relaxation: Relaxation) -> None:
    p, q = sure((1, 3, 8, 8), 61), sure((1, 3, 8, 8), 62)
    dot, pp, qq = ((a * b).sum(1) for a, b in ((p, q), (p, p), (q, q)))
    assert bool(relaxation.pair(p, q).isfinite().all())
    assert bool(relaxation.derivative(dot, pp, qq).isfinite().all())
    if relaxation.norm_derivative is not None:
        assert bool(relaxation.norm_derivative(dot, pp, qq).isfinite().all())


def test_log_quadratic_is_bounded_as_documented() -> None:
    p, q = torch.eye(3)[:, :1].T[..., None, None], torch.eye(3)[:, 1:2].T[..., None, None]
    bound = -log(LOG_QUADRATIC_SLACK)
    assert float(LOG_QUADRATIC.pair(p.double(), q.double())) == pytest.approx(bound, rel=1e-9)
    assert float(LOG_QUADRATIC.pair(p, q)) == pytest.approx(bound, rel=0.01)  # float32


@given(st.integers(0, 2**31), st.floats(0.01, 60))
@settings(max_examples=40, deadline=None)
def test_float32_relaxations_are_finite_and_not_negative(drawn: int, sharpness: float) -> None:
    rng = np.random.default_rng(drawn)
    p, q = torch.from_numpy(rng.normal(0, sharpness, (2, 1, 3, 1, 50))).float().softmax(2)
    for relaxation in RELAXATIONS:
        values = relaxation.pair(p, q)
        assert bool(values.isfinite().all())
        assert float(values.min()) >= -1e-6
    assert float(LOG_QUADRATIC.pair(p, q).max()) <= -log(LOG_QUADRATIC_SLACK) + 0.2


# --- Potts sums ---------------------------------------------------------------------------------------------


def sum_of(kind: str, relaxation: Relaxation) -> tuple[Problem, Tensor]:
    problem = make_case(Energy(relaxation=relaxation), kind).to(torch.float64).problem
    return problem, random_labels(problem.probs)


@EVERY_SUM
def test_potts_is_the_formula(kind: str, relaxation: Relaxation) -> None:
    problem, labels = sum_of(kind, relaxation)
    labels.requires_grad_()
    expected = explicit_potts(labels, problem.affinity, relaxation.name)
    torch.testing.assert_close(potts(labels, problem.affinity, relaxation), expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(expected.sum(), labels)
    value, grad = potts_and_grad(labels.detach(), problem.affinity, relaxation)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grad.value, gradient, rtol=1e-8, atol=1e-9)
    assert float(grad.curvature.min()) >= 0


@EVERY_SUM
def test_gradient_is_the_finite_difference(kind: str, relaxation: Relaxation) -> None:
    problem, labels = sum_of(kind, relaxation)
    _, grad = potts_and_grad(labels, problem.affinity, relaxation)
    along = distributions(tuple(labels.shape), 55_501) - 1 / 3
    ahead, behind = (potts(labels + s * 1e-5 * along, problem.affinity, relaxation) for s in (1, -1))
    difference = (ahead - behind) / 2e-5
    torch.testing.assert_close((grad.value * along).flatten(1).sum(1), difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["grid8", "window", "grid26"])
def test_curvature_is_the_reweighted_degree(kind: str) -> None:
    for relaxation in RELAXATIONS:
        problem, labels = sum_of(kind, relaxation)
        _, grad = potts_and_grad(labels, problem.affinity, relaxation)
        y, matrix = labels.flatten(2), problem.affinity.as_matrix()
        dot = y.transpose(1, 2) @ y
        norms = y.square().sum(1)
        pp, qq = norms[:, :, None].expand_as(dot), norms[:, None, :].expand_as(dot)
        expected = -(matrix * relaxation.derivative(dot, pp, qq)).sum(2)
        torch.testing.assert_close(grad.curvature.flatten(1), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_sums_are_near_float64(kind: str) -> None:
    relaxation = NORMALIZED_QUADRATIC if kind in SPARSE else QUADRATIC_POTTS
    case = make_case(Energy(relaxation=relaxation), kind)
    labels = random_labels(case.probs.double())
    exact = potts(labels, case.to(torch.float64).affinity, relaxation)
    single = potts(labels.float(), case.affinity, relaxation)
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, exact, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SPARSE)
def test_sure_labels_have_finite_sums(kind: str) -> None:
    case = make_case(Energy(), kind)
    labels = sure(tuple(case.probs.shape), 733)
    for relaxation in RELAXATIONS:
        value, grad = potts_and_grad(labels, case.affinity, relaxation)
        assert bool(value.isfinite().all())
        assert bool(grad.value.isfinite().all())
        assert bool(grad.curvature.isfinite().all())


@pytest.mark.parametrize("relaxation", [r for r in RELAXATIONS if not r.is_quadratic], ids=lambda r: r.name)
def test_dense_sums_are_of_quadratic_relaxations(relaxation: Relaxation) -> None:
    case = make_case(Energy(), "exact")
    with pytest.raises(
        ValueError, match=f"quadratic in the labels for a dense affinity, got '{relaxation.name}'"
    ):
        potts(case.probs, case.affinity, relaxation)
    with pytest.raises(ValueError, match="grid or window"):
        potts_and_grad(case.probs, case.affinity, relaxation)


def test_totals_are_in_float64() -> None:
    values = torch.full((1, 1, 1000, 100), 0.1)
    assert total(values).dtype == torch.float64
    assert float(total(values)) == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-12)


def test_entropy() -> None:
    labels = distributions((2, 3, 3, 2), 1_777).requires_grad_()
    expected = -(labels * labels.log()).sum(1, keepdim=True)
    torch.testing.assert_close(entropy(labels), expected)
    (gradient,) = torch.autograd.grad(expected.sum(), labels)
    torch.testing.assert_close(entropy_gradient(labels.detach()), gradient + 1)
    assert float(entropy(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))) == 0


# --- tightness ----------------------------------------------------------------------------------------------


def tiny(relaxation: Relaxation, drawn: int, classes: int) -> tuple[Problem, float]:
    """A 2x3 image, and the least energy of all its labelings, from the formula."""
    case = make_case(
        Energy(relaxation=relaxation, pairwise_weight=0.8),
        "grid8",
        size=(2, 3),
        classes=classes,
        batch=1,
        drawn=drawn,
    ).to(torch.float64)
    problem = case.problem
    labelings = np.array(list(product(range(classes), repeat=6)))
    seeds = case.seeds.flatten().numpy()
    labelings = labelings[((labelings == seeds) | (seeds == UNLABELED)).all(1)]
    cost = -case.probs[0].flatten(1).log().numpy() * (seeds == UNLABELED)
    first, second = np.triu_indices(6, 1)
    weight = case.affinity.as_matrix()[0].numpy()[first, second]
    values = cost[labelings, np.arange(6)].sum(1)
    values += 0.8 * ((labelings[:, first] != labelings[:, second]) * weight).sum(1)
    return problem, float(values.min())


@given(st.integers(0, 2**31), st.integers(0, 2**31), st.floats(0.1, 8), st.integers(2, 3))
@settings(max_examples=30, deadline=None)
def test_bilinear_is_tight(drawn: int, start: int, sharpness: float, classes: int) -> None:
    """No soft labels are below the best hard ones, whatever they are, on a tiny image."""
    problem, least = tiny(BILINEAR, drawn, classes)
    logits = torch.randn(100, classes, 2, 3, generator=torch.Generator().manual_seed(start)).double()
    labels = (sharpness * logits).softmax(1)
    affinity = problem.affinity
    assert isinstance(affinity, GridAffinity)
    weights = tuple(weight.expand(100, *weight.shape[1:]) for weight in affinity.weights)
    many = Problem(
        problem.energy,
        problem.probs.expand(100, -1, -1, -1),
        problem.seeds.expand(100, -1, -1),
        replace(affinity, weights=weights),
    )
    assert float(many.value(many.feasible(labels)).min()) >= least - 1e-9
    assert float(problem.value(problem.feasible(problem.probs))) >= least - 1e-9


def test_tightness_is_as_declared() -> None:
    """Uniform labels undercut the best labeling for the relaxation that says it is not tight."""
    assert [r.name for r in RELAXATIONS if r.is_tight] == ["bilinear"]
    affinity = GridAffinity.from_features(torch.zeros(1, 1, 1, 2, dtype=torch.float64))
    probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).t().reshape(1, 2, 1, 2)
    seeds = torch.full((1, 1, 2), UNLABELED)
    soft = torch.full_like(probs, 0.5)
    hard = [one_hot(torch.tensor([[list(index)]]), 2, torch.float64) for index in product((0, 1), repeat=2)]
    problem = Problem(Energy(relaxation=QUADRATIC_POTTS, pairwise_weight=9.0), probs, seeds, affinity)
    assert float(problem.value(soft)) <= min(float(problem.value(labels)) for labels in hard) + 1e-9
    mixed = probs.lerp(soft, 0.9)
    assert float(problem.value(mixed)) < min(float(problem.value(labels)) for labels in hard)
