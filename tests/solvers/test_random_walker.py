"""RandomWalker against dense algebra and scikit-image."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data, transform
from skimage.segmentation import random_walker
from support.problems import Dense
from support.walks import dense_solution, random_problem
from torch import Tensor

from selflabel.affinity import GridAffinity, WindowAffinity
from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination, factorized
from selflabel.numerics.linear.multigrid import Multigrid
from selflabel.numerics.linear.system import LinearSolver, System
from selflabel.numerics.linear.windows import Windows
from selflabel.problem import Problem
from selflabel.solvers.random_walker import RandomWalker, method_by_size
from selflabel.terms import BILINEAR, QUADRATIC, QUADRATIC_POTTS, STANDARD

METHODS = pytest.mark.parametrize(
    "method",
    [Elimination(), ConjugateGradients(), Multigrid(), None],
    ids=["direct", "cg", "multigrid", "by-size"],
)
WITH_NUMBA = pytest.param("compiled", marks=pytest.mark.needs_numba)
COMPILED = pytest.mark.parametrize("either_elimination", [WITH_NUMBA], indirect=True)
pytestmark = pytest.mark.usefixtures("either_elimination")
SIZES = pytest.mark.parametrize("size", [(5, 7), (3, 4, 5), (1, 6)])


@pytest.fixture(params=[WITH_NUMBA, "scipy"])
def either_elimination(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with Numba's elimination ("compiled") and without ("scipy"); returns which."""
    if request.param == "scipy":
        monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    return str(request.param)


@METHODS
@SIZES
@pytest.mark.parametrize("eta", [0.0, 0.03, 2.0])
def test_is_the_dense_solution(size: tuple[int, ...], eta: float, method: LinearSolver | None) -> None:
    rng = np.random.default_rng(31013)
    for classes in (2, 4):
        problem = random_problem(rng, size, classes, 3, eta=eta)
        solution = solve(problem, RandomWalker(method))
        np.testing.assert_allclose(solution.labels.numpy(), dense_solution(problem), atol=1e-6)
        assert solution.labels.dtype == torch.float32
        assert all(result is Result.CONVERGED for result in solution.results)


@METHODS
def test_is_stationary_and_its_own_bound(method: LinearSolver | None) -> None:
    """The gradient of the energy is the same for all classes: no labels on the simplex have less."""
    rng = np.random.default_rng(8819)
    problem = random_problem(rng, (6, 7), 3, 2, eta=0.2)
    solution = solve(problem, RandomWalker(method))
    labels = solution.labels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.value(labels).sum(), labels)
    gradient = gradient * problem.free
    assert (gradient - gradient.mean(1, keepdim=True)).abs().max() < 1e-5
    assert solution.bound is not None
    assert torch.equal(solution.bound, solution.energy)
    for _ in range(20):
        other = problem.feasible(
            torch.from_numpy(rng.dirichlet(np.ones(3), (2, 6, 7))).float().movedim(-1, 1)
        )
        assert (problem.value(other) > solution.bound).all()


@pytest.mark.parametrize("method", [Elimination(), ConjugateGradients()], ids=["direct", "cg"])
@pytest.mark.parametrize("size", [(5, 6), (3, 3, 4)])
def test_excluded_classes_have_no_mass(size: tuple[int, ...], method: LinearSolver) -> None:
    rng = np.random.default_rng(1213)
    problem = random_problem(rng, size, 5, 2, eta=0.1, seeded=0.0)
    seeds = problem.seeds.clone()
    seeds.view(2, -1)[:, 3], seeds.view(2, -1)[:, 11] = 2, 4
    classes = torch.tensor([[False, True, True, False, True], [True, True, True, True, True]])
    problem = replace(problem, seeds=seeds, classes=classes)
    solution = solve(problem, RandomWalker(method))
    assert solution.labels[0, 0].max() == 0
    assert solution.labels[0, 3].max() == 0
    np.testing.assert_allclose(solution.labels.numpy(), dense_solution(problem), atol=1e-6)


def test_window_affinity() -> None:
    rng = np.random.default_rng(402)
    problem = random_problem(rng, (6, 6), 3, 2, eta=0.05)
    problem = replace(
        problem, affinity=WindowAffinity.from_image(torch.from_numpy(rng.random((2, 3, 6, 6))), 2)
    )
    for method in (Elimination(), ConjugateGradients()):
        np.testing.assert_allclose(
            solve(problem, RandomWalker(method)).labels.numpy(), dense_solution(problem), atol=1e-6
        )


def photograph() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    image = transform.resize(data.astronaut(), (96, 96), anti_aliasing=True)  # type: ignore[no-untyped-call]
    seeds = np.full((96, 96), UNLABELED)
    seeds[8:12, 5:25], seeds[85:90, 10:80], seeds[20:30, 40:48], seeds[5:40, 88:90] = 0, 1, 2, 0
    return image, seeds


@pytest.mark.parametrize("beta", [30, 130])
def test_agrees_with_scikit_image(beta: float) -> None:
    """Their weights are ``w = exp(-beta Σ_c δ_c² / (10 std √C)) + 1e-10`` with the deviation over all channels.

    In 0..255 units, ours has ``2 σ² = 10 std √C 255² / beta``.
    """
    image, seeds = photograph()
    theirs = random_walker(
        image,
        np.where(seeds == UNLABELED, 0, seeds + 1),
        beta=beta,
        mode="bf",
        return_full_prob=True,
        channel_axis=-1,
    )
    sigma = 255 * np.sqrt(5 * image.std() * np.sqrt(3) / beta)
    pixels = torch.from_numpy(image).float().movedim(-1, 0)[None]
    affinity = GridAffinity.from_image(pixels, float(sigma), 4)
    energy = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.0)
    problem = Problem.from_seeds(energy, torch.from_numpy(seeds)[None], 3, affinity)
    for method in (Elimination(), ConjugateGradients()):
        ours = solve(problem, RandomWalker(method)).labels[0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
        assert np.abs(ours - theirs).mean() < 1e-4


def test_conjugate_gradients_agree_with_the_factorization_on_a_photograph() -> None:
    image, seeds = photograph()
    affinity = GridAffinity.from_image(torch.from_numpy(image).float().movedim(-1, 0)[None], 30.0, 8)
    for eta in (0.0, 0.05):
        energy = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=eta, pairwise_weight=2.0)
        problem = Problem.from_seeds(energy, torch.from_numpy(seeds)[None], 3, affinity)
        direct, cg = (solve(problem, RandomWalker(m)) for m in (Elimination(), ConjugateGradients()))
        assert (direct.labels - cg.labels).abs().max() < 1e-5
        assert int(direct.steps) == 1
        assert (direct.labels.sum(1) - 1).abs().max() < 1e-6
        assert direct.labels.min() >= 0


def test_conjugate_gradients_say_when_steps_run_out() -> None:
    problem = random_problem(np.random.default_rng(29), (12, 13), 3, 2, eta=0.0, seeded=0.03)
    solution = solve(problem, RandomWalker(ConjugateGradients(stride=2)), max_steps=2)
    assert set(solution.results) == {Result.MAX_STEPS}
    assert solution.bound is None
    assert (solution.energy <= solution.start_energy).all()
    finished = solve(problem, RandomWalker(ConjugateGradients()))
    resumed = solve(problem, RandomWalker(ConjugateGradients(stride=2)), start=finished.labels)
    assert int(resumed.steps.max()) < int(
        solve(problem, RandomWalker(ConjugateGradients(stride=2))).steps.max()
    )


@METHODS
def test_regions_without_seeds(method: LinearSolver | None) -> None:
    """Without a coupling, regions cut off by weights of zero get their mean prediction, the limit for small ones."""
    rng = np.random.default_rng(5417)
    problem = random_problem(rng, (6, 8), 3, 2, eta=0.0, seeded=0.0)
    features = torch.zeros(2, 1, 6, 8)
    features[..., 4:] = 1e4  # exp(-1e8) is zero
    features[..., 0, 7] = -1e4  # a pixel of its own
    seeds = problem.seeds.clone()
    seeds[:, 2, 1], seeds[:, 4, 3] = 0, 1
    problem = replace(problem, seeds=seeds, affinity=GridAffinity.from_features(features, 1.0, 8))
    labels = solve(problem, RandomWalker(method)).labels
    assert torch.isfinite(labels).all()
    assert (labels.sum(1) - 1).abs().max() < 1e-6
    assert labels[:, 2, :, :4].max() < 1e-9  # reached by seeds of the classes 0 and 1 only
    np.testing.assert_allclose(labels[:, :, 0, 7], problem.probs[:, :, 0, 7], atol=1e-6)
    region = torch.ones(6, 8, dtype=torch.bool)
    region[:, :4] = region[0, 7] = False
    mean = problem.probs[:, :, region].mean(2, keepdim=True).expand(-1, -1, int(region.sum()))
    np.testing.assert_allclose(labels[:, :, region], mean, atol=1e-6)
    small = replace(problem, energy=replace(problem.energy, coupling_weight=1e-5))
    limit = solve(small, RandomWalker(Elimination())).labels
    np.testing.assert_allclose(labels, limit, atol=1e-3)


@METHODS
def test_no_seeds_at_all(method: LinearSolver | None) -> None:
    problem = random_problem(np.random.default_rng(6), (4, 5), 3, 2, eta=0.0, seeded=0.0)
    solution = solve(problem, RandomWalker(method))
    mean = problem.probs.mean((2, 3), keepdim=True).expand_as(problem.probs)
    np.testing.assert_allclose(solution.labels, mean, atol=1e-6)
    assert (solution.energy < 1e-9).all()
    alone = solve(replace(problem, energy=replace(problem.energy, pairwise_weight=0.0)), RandomWalker(method))
    np.testing.assert_allclose(alone.labels, problem.probs, atol=1e-6)


@METHODS
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_degenerate(eta: float, method: LinearSolver | None) -> None:
    rng = np.random.default_rng(71)
    problem = random_problem(rng, (4, 5), 3, 2, eta=eta)
    everything = torch.from_numpy(rng.integers(0, 3, (2, 4, 5)))
    solution = solve(replace(problem, seeds=everything), RandomWalker(method))
    assert torch.equal(solution.labels, one_hot(everything, 3))
    for size, classes in (((1, 1), 3), ((4, 5), 1), ((1, 1), 1)):
        for seeded in (0.0, 0.5):
            problem = random_problem(rng, size, classes, 1, eta=eta, seeded=seeded)
            solution = solve(problem, RandomWalker(method))
            assert (solution.labels.sum(1) - 1).abs().max() < 1e-6
            assert all(result is Result.CONVERGED for result in solution.results)
    constant = GridAffinity.from_features(torch.zeros(1, 1, 4, 5))
    flat = replace(random_problem(rng, (4, 5), 2, 1, eta=eta), affinity=constant)
    np.testing.assert_allclose(
        solve(flat, RandomWalker(method)).labels.numpy(), dense_solution(flat), atol=1e-6
    )


@pytest.mark.parametrize("method", [Elimination(), ConjugateGradients()], ids=["direct", "cg"])
def test_images_do_not_mix(method: LinearSolver) -> None:
    problem = random_problem(np.random.default_rng(3030), (6, 5), 3, 3, eta=0.1)
    whole = solve(problem, RandomWalker(method)).labels
    for b in range(3):
        weights = tuple(w[b : b + 1] for w in problem.affinity.weights)  # type: ignore[attr-defined]
        affinity = replace(problem.affinity, weights=weights)  # type: ignore[type-var]
        alone = Problem(problem.energy, problem.probs[b : b + 1], problem.seeds[b : b + 1], affinity)
        np.testing.assert_allclose(solve(alone, RandomWalker(method)).labels, whole[b : b + 1], atol=1e-7)


def test_a_coupling_without_weight_may_be_any() -> None:
    problem = random_problem(np.random.default_rng(90), (4, 4), 2, 1, eta=0.0)
    other = replace(problem, energy=replace(problem.energy, coupling=STANDARD))
    assert torch.equal(solve(other, RandomWalker()).labels, solve(problem, RandomWalker()).labels)


class SparseLU:
    """As `Elimination` without Numba."""

    def solve(self, system: System, start: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield factorized(system)


@COMPILED
def test_factorizations_agree_on_a_photograph() -> None:
    """Strokes and scattered seeds, three neighborhoods, two images; the reference is sparse LU."""
    image, strokes = photograph()
    rng = np.random.default_rng(50_881)
    scattered = np.where(rng.random((96, 96)) < 0.05, rng.integers(0, 3, (96, 96)), UNLABELED)
    pixels = torch.from_numpy(image).movedim(-1, 0)[None]
    both = torch.cat([pixels, pixels.flip(3)])
    for affinity in (
        GridAffinity.from_image(both, 30.0, 4),
        GridAffinity.from_image(both, 30.0, 8),
        WindowAffinity.from_image(both, 2),
    ):
        seeds = torch.from_numpy(np.stack([strokes, scattered]))
        for eta in (0.0, 0.05):
            energy = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=eta, pairwise_weight=3.0)
            problem = Problem.from_seeds(energy, seeds, 3, affinity)
            solution, reference = (solve(problem, RandomWalker(x)) for x in (Elimination(), SparseLU()))
            assert (solution.labels - reference.labels).abs().max() < 1e-6
            assert solution.labels.is_contiguous()


@METHODS
def test_regions_behind_weak_weights_are_exact(method: LinearSolver | None) -> None:
    """Along a line, labels change in proportion to resistance."""
    features = torch.zeros(1, 1, 1, 40, dtype=torch.float64)
    features[..., 10:30] = 6.0  # exp(-36) twice, and less between
    features[..., 20:30] -= 12.0
    seeds = torch.full((1, 1, 40), UNLABELED)
    seeds[..., 0], seeds[..., -1] = 0, 1
    affinity = GridAffinity.from_features(features, 0.5**0.5, 4)
    resistance = np.concatenate([[0.0], np.cumsum(1 / affinity.edges().weight[0].numpy())])
    problem = Problem.from_seeds(Energy(QUADRATIC, QUADRATIC_POTTS, 0.0), seeds, 2, affinity)
    labels = solve(problem, RandomWalker(method)).labels[0, :, 0].numpy()
    np.testing.assert_allclose(labels[1], resistance / resistance[-1], atol=1e-7)


def test_pairs_that_reach_far() -> None:
    """Pairs too long for nested dissection take sparse LU."""
    problem = random_problem(np.random.default_rng(6203), (2, 9), 2, 1, eta=0.1)
    wide = WindowAffinity.from_features(torch.rand(1, 2, 2, 9), 6)
    problem = replace(problem, affinity=wide)
    np.testing.assert_allclose(
        solve(problem, RandomWalker(Elimination())).labels.numpy(), dense_solution(problem), atol=1e-6
    )


def test_method_by_size() -> None:
    flat = GridAffinity.from_features(torch.zeros(1, 1, 100, 100), neighbors=8)
    assert isinstance(method_by_size(flat, torch.ones(1, 1, 100, 100, dtype=torch.bool)), Elimination)
    deep = GridAffinity.from_features(torch.zeros(1, 1, 4, 50, 50))
    assert isinstance(method_by_size(deep, torch.ones(1, 1, 4, 50, 50, dtype=torch.bool)), ConjugateGradients)
    small = GridAffinity.from_features(torch.zeros(1, 1, 4, 20, 20))
    assert isinstance(method_by_size(small, torch.ones(1, 1, 4, 20, 20, dtype=torch.bool)), Elimination)
    wide = WindowAffinity.from_features(torch.zeros(1, 1, 100, 100), 3)
    assert isinstance(method_by_size(wide, torch.ones(1, 1, 100, 100, dtype=torch.bool)), ConjugateGradients)


def test_method_by_unknown_labels_and_neighbors() -> None:
    largest = (4, 10_000), (12, 9_999)
    features, free = torch.zeros(2, 1, 100, 100), torch.ones(2, 1, 100, 100, dtype=torch.bool)
    near = GridAffinity.from_features(features, neighbors=8)
    far, too_far = (WindowAffinity.from_features(features, radius) for radius in (2, 3))
    assert isinstance(method_by_size(near, free, largest=largest), Elimination)
    assert isinstance(method_by_size(far, free, largest=largest), ConjugateGradients)
    free[0, 0, 3, 4] = False
    assert isinstance(method_by_size(far, free, largest=largest), ConjugateGradients)
    free[1, 0, 5, 6] = False  # now both images have one unknown label less
    assert isinstance(method_by_size(far, free, largest=largest), Elimination)
    assert isinstance(method_by_size(too_far, free, largest=largest), ConjugateGradients)


def test_what_does_not_fit_is_named() -> None:
    problem = random_problem(np.random.default_rng(4), (2, 2), 2, 1, eta=0.1)
    with pytest.raises(ValueError, match=r"coupling 'quadratic', got 'standard'"):
        solve(replace(problem, energy=Energy(STANDARD, QUADRATIC_POTTS)), RandomWalker())
    with pytest.raises(ValueError, match=r"relaxation 'quadratic', got 'bilinear'"):
        solve(replace(problem, energy=Energy(QUADRATIC, BILINEAR)), RandomWalker())
    with pytest.raises(ValueError, match=r"entropy_weight 0, got 0.5"):
        solve(replace(problem, energy=replace(problem.energy, entropy_weight=0.5)), RandomWalker())
    with pytest.raises(ValueError, match=r"lists its pairs, got Dense: use a grid"):
        solve(replace(problem, affinity=Dense()), RandomWalker())
    with pytest.raises(ValueError, match="rtol between 0 and 1, got 0"):
        ConjugateGradients(rtol=0.0)
    with pytest.raises(ValueError, match="stride >= 1, got 0"):
        ConjugateGradients(stride=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@METHODS
def test_cuda_agrees_with_the_cpu(method: LinearSolver | None) -> None:
    for eta in (0.0, 0.1):
        problem = random_problem(np.random.default_rng(88), (16, 17), 3, 2, eta=eta)
        weights = tuple(w.cuda() for w in problem.affinity.weights)  # type: ignore[attr-defined]
        affinity = replace(problem.affinity, weights=weights)  # type: ignore[type-var]
        there = Problem(problem.energy, problem.probs.cuda(), problem.seeds.cuda(), affinity)
        solution = solve(there, RandomWalker(method))
        assert solution.labels.is_cuda
        np.testing.assert_allclose(solution.labels.cpu(), solve(problem, RandomWalker()).labels, atol=1e-5)


@pytest.mark.parametrize("options", [{"large_pixels": 100}, {"windows": Windows(patience=2)}])
def test_options_of_windows_are_refused_with_a_method_for_all_pixels(options: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"large_pixels and windows would change nothing, as Elimination solves"
    ):
        RandomWalker(Elimination(), **options)
    RandomWalker(**options)
