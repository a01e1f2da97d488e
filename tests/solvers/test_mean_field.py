"""MeanField against its update written with the full matrix."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from support.problems import DENSE, SPARSE, Case, make_case, random_labels
from torch import Tensor

from selflabel.affinity import DenseAffinity, Exact, GaussianKernel, Lattice
from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import MeanField
from selflabel.terms import COLLISION, QUADRATIC_POTTS

pytestmark = pytest.mark.usefixtures("either_path")

Array = NDArray[np.float64]

ENERGY = replace(MeanField.default_energy, coupling_weight=0.8, pairwise_weight=1.7, entropy_weight=0.6)


def update(case: Case, labels: Tensor) -> Tensor:
    """``y ← softmax((η ln σ + c λ W y) / τ)``, seeds kept; c is 2 for dense affinities, 1 for sparse ones."""
    both = 2 if case.kind in DENSE else 1
    matrix, energy = case.affinity.as_matrix().double().numpy(), case.energy
    y = labels.flatten(2).double().numpy()
    logits = energy.coupling_weight * np.log(case.probs.flatten(2).double().numpy())
    logits = logits + both * energy.pairwise_weight * np.einsum("bij,bkj->bki", matrix, y)
    following = torch.from_numpy(softmax(logits / energy.entropy_weight, axis=1)).view(labels.shape)
    return torch.where((case.seeds == UNLABELED)[:, None], following.to(labels), case.problem.seed_labels)


def steps(problem: Problem, solver: MeanField, count: int, start: Tensor | None = None) -> list[Tensor]:
    seen: list[Tensor] = []
    solve(problem, solver, start=start, max_steps=count, callback=lambda _, step: seen.append(step.labels))
    return seen


@pytest.mark.parametrize("kind", [kind for kind in DENSE if "exact" in kind])
@pytest.mark.parametrize("random_start", [False, True])
def test_every_step_is_the_full_update_if_the_affinity_is_positive(kind: str, random_start: bool) -> None:
    """No step is halved, and the energy never rises: the theorem for positive semidefinite W."""
    case = make_case(ENERGY, kind).to(torch.float64)
    start = case.problem.feasible(random_labels(case.probs) if random_start else case.probs)
    values, labels = [case.problem.value(start)], start
    for following in steps(case.problem, MeanField(rtol=0.0), 12, start):
        torch.testing.assert_close(following, update(case, labels), rtol=1e-6, atol=1e-7)
        values.append(case.problem.value(following))
        labels = following
    assert len(values) > 3
    changes = torch.stack(values).diff(dim=0)
    assert float(changes.max()) <= 1e-9 * float(values[0].abs().max())


@pytest.mark.parametrize("kind", SPARSE)
def test_first_step_on_sparse_affinities(kind: str) -> None:
    """Weak pairs: the full step lowers the energy and is taken."""
    case = make_case(replace(ENERGY, pairwise_weight=0.2), kind).to(torch.float64)
    start = case.problem.feasible(case.probs)
    (first,) = steps(case.problem, MeanField(), 1)
    torch.testing.assert_close(first, update(case, start), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [*SPARSE, *DENSE])
def test_energy_never_rises_and_the_end_is_a_fixed_point(kind: str) -> None:
    case = make_case(ENERGY, kind).to(torch.float64)
    solution = solve(case.problem, MeanField(rtol=1e-12), max_steps=400, trace=True)
    assert solution.trace is not None
    assert float(solution.trace.diff(dim=0).max()) <= 2e-7 * float(solution.trace.abs().max())
    assert solution.results == (Result.CONVERGED,) * 2
    tolerance = 1e-3 if "lattice" in kind else 1e-4
    torch.testing.assert_close(solution.labels, update(case, solution.labels), rtol=0, atol=tolerance)


def checkerboard() -> Case:
    """Labels that the full update turns over and over: all neighbors say the opposite."""
    case = make_case(replace(ENERGY, pairwise_weight=3.0), "grid4", size=(6, 6), classes=2, seeded=0.0)
    odd = torch.from_numpy(np.indices((6, 6)).sum(0) % 2).bool()
    first = torch.where(odd, 0.9, 0.1).expand(2, 1, 6, 6)
    image = torch.full_like(case.image, 0.5)
    return replace(case, image=image, probs=torch.cat([first, 1 - first], 1)).to(torch.float64)


def test_steps_are_halved_where_the_full_one_would_raise_the_energy() -> None:
    case = checkerboard()
    start = case.probs
    turned = update(case, start)
    assert torch.equal(turned.argmax(1), 1 - start.argmax(1))
    back = update(case, turned)
    assert torch.equal(back.argmax(1), start.argmax(1))  # without halving: for ever
    solution = solve(case.problem, MeanField(), trace=True)
    assert solution.results == (Result.CONVERGED,) * 2
    assert solution.trace is not None
    assert float(solution.trace.diff(dim=0).max()) <= 1e-6
    assert bool((solution.energy < solution.start_energy).all())


@pytest.mark.parametrize("axes", [2, 3])
def test_symmetric_normalization(axes: int) -> None:
    kind = "exact" if axes == 2 else "exact-3d"
    case = make_case(ENERGY, kind).to(torch.float64)
    bare, symmetric = (
        DenseAffinity.from_image(
            case.image, (GaussianKernel(1.3, 2.0, 60.0),), filtering=Exact(), symmetric=s
        )
        for s in (False, True)
    )
    problem = Problem(ENERGY, case.probs, case.seeds, symmetric)
    matrix = bare.as_matrix().numpy() / 1.3
    scale = 1 / np.sqrt(matrix.sum(2))
    normalized = 1.3 * scale[:, :, None] * matrix * scale[:, None, :]
    np.testing.assert_allclose(symmetric.as_matrix().numpy(), normalized, rtol=1e-9, atol=1e-12)
    start = problem.feasible(problem.probs)
    (labels,) = steps(problem, MeanField(), 1)
    logits = 0.8 * np.log(case.probs.flatten(2).numpy())
    logits += 2 * 1.7 * np.einsum("bij,bkj->bki", normalized, start.flatten(2).numpy())
    expected = softmax(logits / 0.6, axis=1).reshape(labels.shape)
    free = problem.free.expand_as(labels).numpy()
    np.testing.assert_allclose(labels.numpy()[free], expected[free], rtol=1e-6, atol=1e-9)
    assert torch.equal(labels[~problem.free.expand_as(labels)], start[~problem.free.expand_as(labels)])


def test_lattice_and_exact_filter_agree() -> None:
    case = make_case(MeanField.default_energy, "exact", size=(64, 64), classes=4, batch=1, seeded=0.005)
    kernels = (GaussianKernel(0.02, 12.0, 30.0), GaussianKernel(0.3, 2.0, None))
    labels = [
        solve(
            Problem(
                case.energy,
                case.probs,
                case.seeds,
                DenseAffinity.from_image(case.image, kernels, filtering=filtering),
            ),
            MeanField(),
            max_steps=10,
        ).labels.argmax(1)
        for filtering in (Lattice(), Exact())
    ]
    assert float((labels[0] == labels[1]).double().mean()) >= 0.99
    changed = (labels[1] != case.probs.argmax(1)).double().mean()
    assert float(changed) > 0.05  # the pairs had a say


@pytest.mark.parametrize("kind", ["lattice", "exact", "grid4"])
def test_energies_it_hands_over_are_the_values(kind: str) -> None:
    problem = make_case(ENERGY, kind).problem
    solution = solve(problem, MeanField(), trace=True)
    torch.testing.assert_close(solution.energy, problem.value(solution.labels), rtol=1e-6, atol=1e-6)


def test_a_looser_tolerance_stops_earlier() -> None:
    problem = make_case(ENERGY, "exact").problem
    loose, tight = (solve(problem, MeanField(rtol)) for rtol in (1e-2, 1e-7))
    assert bool((loose.steps < tight.steps).all())
    assert bool((tight.energy <= loose.energy).all())


def test_what_does_not_fit_is_named() -> None:
    for rtol in (-1e-3, float("nan")):
        with pytest.raises(ValueError, match="expected rtol >= 0, got"):
            MeanField(rtol)
    problem = make_case(ENERGY, "grid4").problem
    for wrong in (replace(ENERGY, coupling=COLLISION), replace(ENERGY, relaxation=QUADRATIC_POTTS)):
        with pytest.raises(ValueError, match=r"'standard' coupling with the 'bilinear' .*gradient descent"):
            solve(replace(problem, energy=wrong), MeanField())
    with pytest.raises(ValueError, match="needs entropy_weight > 0"):
        solve(replace(problem, energy=Energy()), MeanField())


def test_images_of_a_batch_do_not_notice_that_the_energy_of_others_would_rise() -> None:
    """Images of two halves: at the end a sweep would raise the energy of one, by rounding, and is halved."""
    random = torch.Generator().manual_seed(6_143)
    halves = torch.zeros(1, 3, 12, 16)
    halves[..., 8:] = 1
    image = (0.3 + 0.4 * halves + 0.15 * torch.randn(7, 3, 12, 16, generator=random)).clamp(0, 1)
    likely = torch.stack([1 - halves[0, 0], halves[0, 0]]).expand(7, -1, -1, -1)
    probs = (6 * likely + 2 * torch.randn(7, 2, 12, 16, generator=random)).softmax(1)
    kernels = (GaussianKernel(1.0, 40.0, 8.0), GaussianKernel(1.0, 3.0, None))

    def solved(chosen: list[int]) -> list[tuple[Tensor, float, int]]:
        affinity = DenseAffinity.from_image(image[chosen], kernels, symmetric=True)
        seeds = torch.full((len(chosen), 12, 16), UNLABELED)
        found = solve(Problem(MeanField.default_energy, probs[chosen], seeds, affinity), MeanField(rtol=1e-7))
        return list(zip(found.labels, found.energy.tolist(), found.steps.tolist(), strict=True))

    for number, (labels, energy, count) in enumerate(solved(list(range(7)))):
        ((alone, *others),) = solved([number])
        assert torch.equal(labels, alone)
        assert [energy, count] == others
