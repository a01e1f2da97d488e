"""The energy of a problem against its formula; masks; every error."""

from dataclasses import replace

import pytest
import torch
from support.problems import DENSE, KINDS, SPARSE, explicit_energy, make_case, random_labels

from selflabel.affinity import GridAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent, GraphCut
from selflabel.terms import (
    COLLISION,
    COUPLINGS,
    LOG_QUADRATIC,
    QUADRATIC,
    QUADRATIC_POTTS,
    RELAXATIONS,
    REVERSE,
    STANDARD,
)

MIXED = Energy(COLLISION, QUADRATIC_POTTS, coupling_weight=0.7, pairwise_weight=1.9, entropy_weight=0.4)
EVERY_ENERGY = [
    Energy(coupling, relaxation, coupling_weight=0.7, pairwise_weight=1.9, entropy_weight=0.4)
    for coupling in COUPLINGS
    for relaxation in RELAXATIONS
]


@pytest.mark.parametrize(
    ("kind", "energy"),
    [
        (kind, energy)
        for kind in ("grid8", "window-3d", "exact")
        for energy in EVERY_ENERGY
        if kind in SPARSE or energy.relaxation.is_quadratic
    ],
    ids=lambda x: x if isinstance(x, str) else f"{x.coupling.name}-{x.relaxation.name}",
)
def test_value_and_slope_are_those_of_the_formula(kind: str, energy: Energy) -> None:
    problem = make_case(energy, kind).to(torch.float64).problem
    labels = random_labels(problem.probs).requires_grad_()
    expected = explicit_energy(problem, labels)
    (gradient,) = torch.autograd.grad(expected.sum(), labels)
    labels = labels.detach()
    value, grad = problem.value_and_grad(labels)
    torch.testing.assert_close(problem.value(labels), expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-9)
    wanted = (gradient - gradient.mean(1, keepdim=True)) * problem.free  # up to a constant; seeds are fixed
    got = grad.value - grad.value.mean(1, keepdim=True)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)
    seeded = ~problem.free.expand_as(labels)
    assert bool(seeded.any())
    assert float(grad.value[seeded].abs().max()) == 0


def without(name: str) -> Energy:
    return replace(MIXED, **{name: 0.0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["coupling_weight", "pairwise_weight", "entropy_weight"])
def test_a_weight_of_zero_leaves_its_term_out(name: str) -> None:
    problem = make_case(without(name), "grid4").to(torch.float64).problem
    labels = random_labels(problem.probs)
    expected = explicit_energy(problem, labels)
    torch.testing.assert_close(problem.value(labels), expected)
    value, grad = problem.value_and_grad(labels)
    torch.testing.assert_close(value, expected)
    only = make_case(Energy(coupling_weight=0.0, pairwise_weight=0.0), "grid4").problem
    value, grad = only.value_and_grad(random_labels(only.probs))
    assert value.tolist() == [0, 0]
    assert float(grad.value.abs().max()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_float64_and_of_each_image(kind: str) -> None:
    case = make_case(replace(MIXED, relaxation=QUADRATIC_POTTS), kind)
    labels = random_labels(case.probs)
    value = case.problem.value(labels)
    assert value.dtype == torch.float64
    alone = torch.cat([case.alone(n).problem.value(labels[n : n + 1]) for n in range(2)])
    torch.testing.assert_close(value, alone, rtol=1e-6, atol=1e-6)


def test_values_of_sure_predictions_are_finite() -> None:
    for coupling in COUPLINGS:
        for relaxation in RELAXATIONS:
            case = make_case(replace(MIXED, coupling=coupling, relaxation=relaxation), "grid8", seeded=0.0)
            index = case.probs.argmax(1, keepdim=True)
            logits = torch.full_like(case.probs, -100.0).scatter_(1, index, 100.0)
            problem = Problem.from_logits(case.energy, logits, case.seeds, case.affinity)
            for labels in (problem.probs, problem.probs.roll(1, 1)):
                value, grad = problem.value_and_grad(labels)
                assert bool(value.isfinite().all())
                assert bool(grad.value.isfinite().all())
                assert bool(grad.curvature.isfinite().all())


def test_from_logits_keeps_no_graph() -> None:
    case = make_case(MIXED, "grid4")
    logits = case.probs.log().requires_grad_()
    problem = Problem.from_logits(MIXED, logits, case.seeds, case.affinity)
    assert not problem.probs.requires_grad
    torch.testing.assert_close(problem.probs, case.probs)


def test_from_seeds_is_uniform() -> None:
    case = make_case(MIXED, "grid4")
    problem = Problem.from_seeds(MIXED, case.seeds, 4, case.affinity)
    assert problem.probs.shape == (2, 4, 5, 6)
    assert bool((problem.probs == 0.25).all())
    problem.check()


@pytest.mark.parametrize("kind", ["grid4", "grid6"])
def test_classes_mask_the_prediction_and_all_labels(kind: str) -> None:
    case = make_case(MIXED, kind, seeded=0.0)
    classes = torch.tensor([[True, False, True], [True, True, True]])
    before = case.probs.clone()
    problem = replace(case, classes=classes).problem
    assert torch.equal(case.probs, before)
    assert float(problem.probs[0, 1].abs().max()) == 0
    torch.testing.assert_close(problem.probs.sum(1), torch.ones_like(problem.probs[:, 0]))
    torch.testing.assert_close(problem.probs[1], case.probs[1])
    torch.testing.assert_close(problem.probs[0, 0] / problem.probs[0, 2], case.probs[0, 0] / case.probs[0, 2])
    feasible = problem.feasible(random_labels(case.probs))
    assert float(feasible[0, 1].abs().max()) == 0
    problem.check()


def test_feasible_puts_seeds_back() -> None:
    problem = make_case(MIXED, "grid4").problem
    labels = problem.feasible(random_labels(problem.probs))
    seeded = problem.seeds != UNLABELED
    assert torch.equal(labels.argmax(1)[seeded], problem.seeds[seeded])
    assert bool((labels.amax(1)[seeded] == 1).all())
    assert torch.equal(problem.free[:, 0], ~seeded)
    assert torch.equal(problem.seed_labels.sum(1) == 1, seeded)


@pytest.mark.parametrize("name", ["coupling_weight", "pairwise_weight", "entropy_weight"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_weights_are_not_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected a finite {name} >= 0, got {value}"):
        Energy(**{name: value})  # type: ignore[arg-type]


def test_weights_are_not_so_large_that_sums_overflow() -> None:
    with pytest.raises(ValueError, match=r"expected a pairwise_weight up to 1e\+100, got 1e\+101"):
        Energy(pairwise_weight=1e101)


@pytest.mark.parametrize("kind", ["grid4", "window", "grid26"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-3, -float("inf"), 1e101])
def test_weights_of_pairs_are_checked(kind: str, value: float) -> None:
    case = make_case(MIXED, kind).to(torch.float64)
    affinity = case.problem.affinity
    assert isinstance(affinity, Stencil)
    weights = [weight.clone() for weight in affinity.weights]
    weights[-1][-1].flatten()[-1] = value
    problem = replace(case.problem, affinity=Stencil(affinity.size, affinity.offsets, tuple(weights)))
    for solver in (GraphCut(), GradientDescent()):
        with pytest.raises(
            ValueError, match=r"weights of pairs from 0 to 1e\+100, got .* of the Stencil; for must"
        ):
            solve(replace(problem, energy=solver.default_energy), solver)
    replace(problem, energy=Energy(pairwise_weight=0.0)).check()  # there they do not matter


def test_an_infinite_weight_of_the_only_offset_is_refused() -> None:
    """In float32 the largest weight would be infinite, too."""
    weights = torch.ones(1, 1, 1, 5)
    weights[..., 2] = torch.inf
    affinity = Stencil((1, 6), ((0, 1),), (weights,))
    seeds = torch.full((1, 1, 6), UNLABELED)
    problem = Problem(GraphCut.default_energy, torch.full((1, 2, 1, 6), 0.5), seeds, affinity)
    with pytest.raises(ValueError, match=r"weights of pairs from 0 to 1e\+100, got some from 1 to inf"):
        solve(problem, GraphCut())


@pytest.mark.usefixtures("unchecked")
def test_shapes_are_checked() -> None:
    case = make_case(MIXED, "grid4")
    with pytest.raises(ValueError, match=r"seeds of shape \(2, 5, 6\).*got \(2, 6, 5\)"):
        Problem(MIXED, case.probs, case.seeds.transpose(1, 2), case.affinity)
    with pytest.raises(ValueError, match=r"seeds of shape \(2, 5, 6\).*got \(1, 5, 6\)"):
        Problem(MIXED, case.probs, case.seeds[:1], case.affinity)
    with pytest.raises(ValueError, match=r"an affinity over \(2, 5, 6\).*got \(1, 5, 6\)"):
        Problem(MIXED, case.probs, case.seeds, case.alone(0).affinity)
    with pytest.raises(ValueError, match=r"`classes` as booleans of shape \(2, 3\), got torch.bool \(2, 4\)"):
        Problem(MIXED, case.probs, case.seeds, case.affinity, torch.ones(2, 4, dtype=torch.bool))


def test_values_are_checked() -> None:
    case = make_case(MIXED, "grid4")
    case.problem.check()
    nothing = torch.tensor([[False] * 3, [True] * 3])
    seeds = torch.full_like(case.seeds, UNLABELED)
    with pytest.raises(ValueError, match="at least one allowed class in each image"):
        replace(case, classes=nothing, seeds=seeds).problem.check()
    with pytest.raises(ValueError, match=r"seeds in 0..2 or 255.*got \[7\]"):
        replace(case, seeds=seeds.index_fill(2, torch.tensor([1]), 7)).problem.check()
    with pytest.raises(ValueError, match="every class that has seeds"):
        replace(case, classes=torch.tensor([[True, False, False]] * 2)).problem.check()
    for bad in (float("nan"), float("inf")):
        probs = case.probs.clone()
        probs[1, 0, 2, 3] = bad
        with pytest.raises(ValueError, match="expected finite probabilities"):
            replace(case, probs=probs).problem.check()
    with pytest.raises(ValueError, match=r"sum to one over the classes.*from_logits"):
        replace(case, probs=case.probs.log()).problem.check()
    with pytest.raises(ValueError, match=r"off by up to 0\.5"):
        replace(case, probs=case.probs * 1.5).problem.check()
    negative = case.probs.clone()
    negative[:, 0] -= 1
    negative[:, 1] += 1
    with pytest.raises(ValueError, match="expected probabilities >= 0"):
        replace(case, probs=negative).problem.check()
    replace(case, probs=case.probs * (1 + 5e-4)).problem.check()  # as from half precision


def test_defaults() -> None:
    energy = Energy()
    assert energy.coupling is STANDARD
    assert (energy.coupling_weight, energy.pairwise_weight, energy.entropy_weight) == (1, 1, 0)
    assert Energy(REVERSE, LOG_QUADRATIC) != Energy(QUADRATIC, LOG_QUADRATIC)
    assert isinstance(make_case(energy, "grid4").affinity, GridAffinity)
    assert len(SPARSE) + len(DENSE) == len(KINDS)


@pytest.mark.usefixtures("unchecked")
def test_seeds_are_whole_numbers_that_can_hold_255() -> None:
    case = make_case(MIXED, "grid4")
    for dtype in (torch.bool, torch.int8, torch.float32):
        with pytest.raises(ValueError, match="whole numbers that can hold 255"):
            Problem(MIXED, case.probs, case.seeds.to(dtype), case.affinity)
    with pytest.raises(ValueError, match="seeds as a torch tensor, got ndarray"):
        Problem(MIXED, case.probs, case.seeds.numpy(), case.affinity)  # type: ignore[arg-type]
    expected = case.problem.value(case.probs)
    kept = Problem(MIXED, case.probs, case.seeds.to(torch.uint8), case.affinity)
    assert torch.equal(kept.value(case.probs), expected)


@pytest.mark.usefixtures("unchecked")
def test_predictions_are_tensors_of_floats() -> None:
    case = make_case(MIXED, "grid4")
    with pytest.raises(ValueError, match="a torch tensor, got ndarray"):
        Problem(MIXED, case.probs.numpy(), case.seeds, case.affinity)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"floating point, got torch\.int64: one-hot labels as \.float"):
        Problem(MIXED, case.probs.long(), case.seeds, case.affinity)
    with pytest.raises(ValueError, match="at least one image, class and pixel"):
        Problem(MIXED, case.probs[:, :0], case.seeds, case.affinity)
    many = torch.full((2, 256, *case.probs.shape[2:]), 1 / 256)
    with pytest.raises(ValueError, match="at most 255 classes, got 256"):
        Problem(MIXED, many, case.seeds, case.affinity)
    with pytest.raises(ValueError, match="at least one class, got num_classes = 0"):
        Problem.from_seeds(MIXED, case.seeds, 0, case.affinity)


def test_logits_of_half_precision_become_float32() -> None:
    case = make_case(MIXED, "grid4")
    logits = case.probs.log()
    for dtype in (torch.float16, torch.bfloat16):
        problem = Problem.from_logits(MIXED, logits.to(dtype), case.seeds, case.affinity)
        assert problem.probs.dtype == torch.float32
        problem.check()
        torch.testing.assert_close(problem.probs, case.probs, rtol=0.05, atol=0.02)


def test_class_masks_do_not_hide_bad_predictions() -> None:
    case = make_case(MIXED, "grid4")
    every = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="finite probabilities"):
        replace(case, probs=case.probs * torch.nan, classes=every).problem.check()
    with pytest.raises(ValueError, match="sum to one"):
        replace(case, probs=case.probs * 7, classes=every).problem.check()
