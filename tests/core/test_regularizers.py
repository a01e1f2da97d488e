"""Further terms of an energy, and the total variation: against explicit matrices and autograd."""

from dataclasses import replace
from math import nan

import pytest
import torch
from support.problems import explicit_energy, explicit_potts, make_case, random_labels
from torch import Tensor

from selflabel import Energy, Problem, solve
from selflabel.affinity import Affinity
from selflabel.driver import check_fit
from selflabel.solvers import SOLVERS, GradientDescent, GraphCut
from selflabel.terms import (
    BILINEAR,
    COLLISION_DIVERGENCE,
    ISOTROPIC_VARIATION,
    QUADRATIC_POTTS,
    TOTAL_VARIATION,
    NormalizedCut,
    PottsSum,
    Regularizer,
    potts,
    potts_and_grad,
)

pytestmark = pytest.mark.quick

TERMS = (PottsSum(QUADRATIC_POTTS, 0.7), NormalizedCut(40.0))
MANY = Energy(pairwise_weight=1.3, coupling_weight=0.8, entropy_weight=0.1, regularizers=TERMS)


def explicit_cut(labels: Tensor, affinity: Affinity) -> Tensor:
    """``Σ_k S_k' W (1 - S_k) / (d' S_k)`` from the matrix."""
    s, matrix = labels.flatten(2), affinity.as_matrix().to(labels.dtype)
    volume = torch.einsum("bkn,bn->bk", s, matrix.sum(2))
    cut = torch.einsum("bkn,bnm,bkm->bk", s, matrix, 1 - s)
    return (cut / volume).sum(1)


def make_problem(energy: Energy = MANY, *, near: str = "grid4", far: str = "exact") -> Problem:
    case = make_case(energy, near).to(torch.float64)
    other = replace(case, kind=far).problem.affinity
    return replace(case.problem, affinities=(other,) * len(energy.regularizers))


def test_value_and_gradient_are_those_of_the_formulas() -> None:
    problem = make_problem()
    far = problem.affinities[0]
    labels = random_labels(problem.probs).requires_grad_()
    plain = replace(problem, energy=replace(MANY, regularizers=()), affinities=())
    expected = explicit_energy(plain, labels)
    expected = expected + 0.7 * explicit_potts(labels, far, "quadratic") + 40 * explicit_cut(labels, far)
    (slope,) = torch.autograd.grad(expected.sum(), labels)
    value, grad = problem.value_and_grad(labels.detach())
    torch.testing.assert_close(problem.value(labels.detach()), expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-9)
    wanted, got = ((x - x.mean(1, keepdim=True)) * problem.free for x in (slope, grad.value))
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


def test_without_affinities_all_terms_are_on_that_of_the_pairs() -> None:
    problem = make_problem(far="grid4")
    labels = random_labels(problem.probs)
    torch.testing.assert_close(problem.value(labels), replace(problem, affinities=()).value(labels))


def test_gradient_descent_lowers_all_terms() -> None:
    """To a point where no direction on the simplex is downhill, and not where the pairs alone lead."""
    problem = make_problem()
    solution = solve(problem, GradientDescent(rtol=1e-7), max_steps=400, trace=True)
    assert solution.trace is not None
    assert bool((solution.trace.diff(dim=0) <= 1e-7 * solution.trace[:-1].abs()).all())
    _, grad = problem.value_and_grad(solution.labels)
    slack = (grad.value - grad.value.amin(1, keepdim=True)) * solution.labels
    assert float(slack.amax()) < 0.05
    alone = solve(replace(problem, energy=replace(MANY, regularizers=()), affinities=()), GradientDescent())
    assert bool((solution.energy < problem.value(alone.labels)).all())


def test_images_of_a_batch_do_not_mix() -> None:
    def labels(images: slice) -> Tensor:
        case = make_case(MANY, "grid4")
        part = replace(case, image=case.image[images], probs=case.probs[images], seeds=case.seeds[images])
        other = replace(part, kind="exact").problem.affinity
        return solve(replace(part.problem, affinities=(other, other)), GradientDescent()).labels

    torch.testing.assert_close(labels(slice(0, 2))[:1], labels(slice(0, 1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_solvers_minimize_further_terms_or_refuse_them(name: str, term: Regularizer) -> None:
    """None may be left out in silence."""
    solver = SOLVERS[name]()
    energy = replace(solver.default_energy, regularizers=(term,))
    kind = "grid4" if solver.needs_edges or name == "gradient-descent" else "exact"
    affinity = make_case(energy, kind).problem.affinity
    if isinstance(term, solver.regularizers):
        check_fit(solver, energy, affinity)
        return
    others = "kernel-cut or gradient-descent" if term.name == "normalized-cut" else "gradient-descent"
    message = f"{name}: expected an energy without the regularizer '{term.name}', .* use the {others} solver"
    with pytest.raises(ValueError, match=message):
        check_fit(solver, energy, affinity)


# --- total variation ------------------------------------------------------------------------------------------


def explicit_isotropic(labels: Tensor, matrix: Tensor, width: int) -> Tensor:
    """Pixel by pixel: half the length of the weighted differences to the right and below."""
    flat, pixels = labels.flatten(2), labels[0, 0].numel()
    result = torch.zeros(len(labels), dtype=labels.dtype)
    for i in range(pixels):
        nexts = [j for j in (i + 1 if (i + 1) % width else pixels, i + width) if j < pixels]
        squares = [(matrix[:, i, j, None] * (flat[:, :, j] - flat[:, :, i])).square() for j in nexts]
        if squares:
            result += torch.stack(squares).sum(0).sqrt().sum(1) / 2
    return result


def test_anisotropic_variation_is_that_of_the_formula() -> None:
    case = make_case(Energy(), "grid8").to(torch.float64)
    labels = random_labels(case.probs).requires_grad_()
    expected = explicit_potts(labels, case.affinity, "total-variation")
    (slope,) = torch.autograd.grad(expected.sum(), labels)
    value, grad = potts_and_grad(labels.detach(), case.affinity, TOTAL_VARIATION)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(potts(labels.detach(), case.affinity, TOTAL_VARIATION), value)
    torch.testing.assert_close(grad.value, slope)


def test_isotropic_variation_is_that_of_the_formula() -> None:
    case = make_case(Energy(), "grid4").to(torch.float64)
    labels = random_labels(case.probs).requires_grad_()
    expected = explicit_isotropic(labels, case.affinity.as_matrix(), labels.shape[3])
    (slope,) = torch.autograd.grad(expected.sum(), labels)
    value, grad = potts_and_grad(labels.detach(), case.affinity, ISOTROPIC_VARIATION)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad.value, slope)


def test_subgradients_are_finite_where_labels_agree() -> None:
    case = make_case(Energy(), "grid4")
    same = torch.full_like(case.probs, 1 / 3)
    for variation in (TOTAL_VARIATION, ISOTROPIC_VARIATION):
        value, grad = potts_and_grad(same, case.affinity, variation)
        assert float(value.abs().max()) == 0
        assert float(grad.value.abs().max()) == 0


def test_hard_labels_have_the_potts_sum_as_their_variation() -> None:
    case = make_case(Energy(), "grid8")
    hard = torch.nn.functional.one_hot(case.probs.argmax(1), 3).movedim(-1, 1).float()
    torch.testing.assert_close(
        potts(hard, case.affinity, TOTAL_VARIATION), potts(hard, case.affinity, BILINEAR)
    )


def test_graph_cut_minimizes_the_anisotropic_variation_of_hard_labels() -> None:
    case = make_case(Energy(relaxation=TOTAL_VARIATION), "grid4")
    same = make_case(Energy(relaxation=BILINEAR), "grid4")
    assert torch.equal(solve(case.problem, GraphCut()).labels, solve(same.problem, GraphCut()).labels)
    with pytest.raises(ValueError, match="expected a relaxation that is the Potts model at hard labels"):
        solve(make_case(Energy(relaxation=ISOTROPIC_VARIATION), "grid4").problem, GraphCut())


# --- errors ---------------------------------------------------------------------------------------------------


def test_energies_refuse_what_is_no_term(unchecked: None) -> None:
    with pytest.raises(ValueError, match="expected a tuple of regularizers, got a NormalizedCut"):
        Energy(regularizers=NormalizedCut())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a regularizer, got a str 'normalized-cut'"):
        Energy(regularizers=("normalized-cut",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a relaxation, got a str"):
        PottsSum("bilinear")  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [-1.0, nan, 1e300])
def test_weights_of_terms_are_finite(weight: float) -> None:
    with pytest.raises(ValueError, match="expected the weight of the normalized cut from 0 to"):
        NormalizedCut(weight)
    with pytest.raises(ValueError, match="expected the weight of the Potts sum from 0 to"):
        PottsSum(BILINEAR, weight)


def test_problems_refuse_affinities_that_do_not_fit(unchecked: None) -> None:
    problem = make_problem()
    (other, _) = problem.affinities
    with pytest.raises(
        ValueError, match="expected an affinity for each of the 2 regularizers of the energy, got 1"
    ):
        replace(problem, affinities=(other,))
    with pytest.raises(ValueError, match="expected a tuple of affinities, got"):
        replace(problem, affinities=other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a relaxation that is quadratic in the labels"):
        replace(problem, energy=replace(MANY, regularizers=(PottsSum(COLLISION_DIVERGENCE), TERMS[1])))
    small = make_case(MANY, "grid4", size=(3, 3)).to(torch.float64).problem.affinity
    with pytest.raises(ValueError, match="expected an affinity over"):
        replace(problem, affinities=(other, small))


def test_weights_of_further_affinities_are_checked() -> None:
    problem = make_problem(far="grid4")
    near = problem.affinities[0]
    bad = replace(near, weights=tuple(torch.full_like(w, nan) for w in near.weights))  # type: ignore[type-var,attr-defined]
    with pytest.raises(ValueError, match="weight"):
        replace(problem, affinities=(near, bad)).check()


def test_variations_need_pairs() -> None:
    dense, diagonal, near = (make_case(Energy(), kind).problem for kind in ("exact", "grid8", "grid4"))
    with pytest.raises(ValueError, match="expected a grid or window affinity for total-variation"):
        potts(dense.probs, dense.affinity, TOTAL_VARIATION)
    with pytest.raises(ValueError, match="expected the nearest neighbors along the axes, 4 or 6"):
        potts(diagonal.probs, diagonal.affinity, ISOTROPIC_VARIATION)
    for term in (Energy(relaxation=TOTAL_VARIATION), Energy(regularizers=(PottsSum(TOTAL_VARIATION),))):
        with pytest.raises(
            ValueError, match="expected terms with gradients everywhere, got a total variation"
        ):
            check_fit(GradientDescent(), term, near.affinity)


def test_problems_of_logits_and_costs_take_affinities_too() -> None:
    problem = make_problem()
    given = (problem.seeds, problem.affinity, None, problem.affinities)
    labels = random_labels(problem.probs)
    logits = problem.probs.log()
    torch.testing.assert_close(Problem.from_logits(MANY, logits, *given).value(labels), problem.value(labels))
    costs = Problem.from_costs(MANY, -logits, *given)
    torch.testing.assert_close(costs.value(labels), problem.value(labels))
