"""GraphCut against every labeling of tiny images, every move, and another maximum flow."""

import itertools
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow as scipy_flow
from skimage import data, transform
from support.problems import Dense

from selflabel.affinity import GaussianKernel, GridAffinity, WindowAffinity
from selflabel.affinity.protocol import Edges
from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.numerics import hard_labels
from selflabel.numerics.cuts import maximum_flow
from selflabel.numerics.cuts.moves import MoveSearch
from selflabel.problem import Problem
from selflabel.solvers import graph_cut
from selflabel.solvers.graph_cut import GraphCut, Moves
from selflabel.terms import (
    COLLISION,
    COLLISION_DIVERGENCE,
    NORMALIZED_QUADRATIC,
    QUADRATIC,
    QUADRATIC_POTTS,
    REVERSE,
    Coupling,
    Relaxation,
)

EVERY_MOVE = pytest.mark.parametrize("moves", list(Moves), ids=lambda m: m.value)


def random_problem(
    rng: np.random.Generator, size: tuple[int, ...], classes: int, batch: int, *, seeded: float = 0.2
) -> Problem:
    probs = torch.from_numpy(rng.dirichlet(np.full(classes, 0.7), (batch, *size))).float().movedim(-1, 1)
    drawn = rng.integers(0, classes, (batch, *size))
    seeds = torch.from_numpy(np.where(rng.random((batch, *size)) < seeded, drawn, UNLABELED))
    features = torch.from_numpy(rng.random((batch, 2, *size))).float()
    neighbors = int(rng.choice([4, 8] if len(size) == 2 else [6, 26]))
    affinity = GridAffinity.from_features(features, 0.4, neighbors, by_distance=bool(rng.random() < 0.5))
    energy = Energy(
        coupling_weight=float(rng.uniform(0.3, 1.5)), pairwise_weight=float(rng.uniform(0.1, 2.5))
    )
    return Problem(energy, probs, seeds, affinity)


def energies(problem: Problem, labelings: NDArray[np.int64], number: int) -> NDArray[np.float64]:
    """The energies of labelings ``[m n]`` of one image, from the definition; infinite where seeds change."""
    at_vertices = problem.energy.coupling.at_vertices
    assert at_vertices is not None
    unary = at_vertices(problem.probs.double())[number].flatten(1).numpy() * problem.energy.coupling_weight
    seeds = problem.seeds[number].flatten().numpy()
    unary = np.where(seeds == UNLABELED, unary, 0)
    matrix = np.triu(problem.affinity.as_matrix()[number].double().numpy())
    first, second = matrix.nonzero()
    cut = labelings[:, first] != labelings[:, second]
    total = unary[labelings, np.arange(len(seeds))].sum(1)
    total += problem.energy.pairwise_weight * (cut @ matrix[first, second])
    wrong = (labelings != seeds) & (seeds != UNLABELED)
    return np.where(wrong.any(1), np.inf, total)


def every_labeling(classes: list[int], pixels: int) -> NDArray[np.int64]:
    return np.array(list(itertools.product(classes, repeat=pixels)))


def optimum(problem: Problem, classes: int) -> NDArray[np.float64]:
    labelings = every_labeling(list(range(classes)), problem.seeds[0].numel())
    return np.array([energies(problem, labelings, b).min() for b in range(len(problem.seeds))])


@EVERY_MOVE
@pytest.mark.parametrize("size", [(3, 4), (2, 2, 3), (1, 7), (1, 1)])
def test_two_classes_are_exact(size: tuple[int, ...], moves: Moves) -> None:
    rng = np.random.default_rng(60493)
    for _ in range(15):
        problem = random_problem(rng, size, 2, 20)
        solution = solve(problem, GraphCut(moves))
        best = optimum(problem, 2)
        np.testing.assert_allclose(solution.energy.numpy(), best, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(problem.value(solution.labels).numpy(), best, rtol=1e-6, atol=1e-6)
        assert solution.bound is not None
        np.testing.assert_allclose(solution.bound.numpy(), best, rtol=1e-6, atol=1e-6)


@EVERY_MOVE
def test_three_classes_are_near_the_optimum_and_no_move_improves_them(moves: Moves) -> None:
    rng = np.random.default_rng(90117)
    gaps = []
    for _ in range(8):
        problem = random_problem(rng, (3, 3), 3, 12)
        solution = solve(problem, GraphCut(moves))
        best = optimum(problem, 3)
        energy = solution.energy.numpy()
        assert (energy >= best - 1e-5).all()
        assert solution.bound is not None
        assert (solution.bound.numpy() <= best + 1e-5).all()
        if moves is Moves.EXPANSION:
            assert (energy <= 2 * best + 1e-5).all()
            assert (solution.bound.numpy() >= energy / 2 - 1e-5).all()
        gaps.append(energy / np.maximum(best, 1e-6) - 1)
        for b in range(12):
            index = solution.labels[b].argmax(0).flatten().numpy()
            assert energies(problem, one_move_away(index, 3, moves), b).min() >= energy[b] - 1e-5
    assert np.mean(gaps) < 0.01
    assert np.mean(np.concatenate(gaps) < 1e-6) > 0.8


def one_move_away(index: NDArray[np.int64], classes: int, moves: Moves) -> NDArray[np.int64]:
    subsets = every_labeling([0, 1], len(index)).astype(bool)
    if moves is Moves.EXPANSION:
        return np.concatenate([np.where(subsets, label, index) for label in range(classes)])
    swapped = []
    for one, other in itertools.combinations(range(classes), 2):
        inside = (index == one) | (index == other)
        swapped.append(np.where(inside, np.where(subsets, one, other), index))
    return np.concatenate(swapped)


def test_settled_pixels_do_not_stop_expansions_from_the_bound_of_the_whole_image() -> None:
    """With every class likely and strong pairs, most pixels cannot be settled, and moves do the work."""
    rng = np.random.default_rng(3317)
    problem = random_problem(rng, (3, 3), 3, 30, seeded=0.0)
    problem = replace(problem, energy=Energy(coupling_weight=1.0, pairwise_weight=1.2))
    solution = solve(problem, GraphCut(explore=False))
    best = optimum(problem, 3)
    assert int(solution.steps.max()) > 1
    assert (solution.energy.numpy() <= 1.1 * best).all()


@pytest.mark.parametrize("pairwise_weight", [0.5, 6.0])
def test_photograph_has_the_value_of_another_maximum_flow(pairwise_weight: float) -> None:
    image = transform.resize(data.chelsea(), (75, 113), anti_aliasing=True)  # type: ignore[no-untyped-call]
    pixels = torch.from_numpy(image).float().movedim(-1, 0)[None]
    red = (pixels[:, :1] - pixels.amin()) / (pixels.amax() - pixels.amin())
    affinity = GridAffinity.from_image(pixels, 12.0, 8, by_distance=True)
    seeds = torch.full((1, 75, 113), UNLABELED)
    seeds[0, 30:40, 50:60], seeds[0, :3] = 1, 0
    problem = Problem(Energy(pairwise_weight=pairwise_weight), torch.cat([1 - red, red], 1), seeds, affinity)
    solution = solve(problem, GraphCut())

    scale, nodes = 20_000, seeds.numel()
    at_vertices = problem.energy.coupling.at_vertices
    assert at_vertices is not None
    unary = (at_vertices(problem.probs) * problem.free)[0].flatten(1).double().numpy() * scale
    flat = seeds.flatten().numpy()
    unary[1, flat == 0] = unary[0, flat == 1] = 1e8
    edges = affinity.edges()
    first, second = edges.first.numpy(), edges.second.numpy()
    weight = edges.weight[0].double().numpy() * pairwise_weight * scale
    here = np.arange(nodes)
    source, sink = np.full(nodes, nodes), np.full(nodes, nodes + 1)
    capacity = np.rint(np.concatenate([unary[1], unary[0], weight, weight])).astype(np.int32)
    rows, columns = np.concatenate([source, here, first, second]), np.concatenate([here, sink, second, first])
    graph = csr_array((capacity, (rows, columns)), shape=(nodes + 2, nodes + 2))
    flow = scipy_flow(graph, nodes, nodes + 1).flow_value / scale
    assert float(solution.energy) == pytest.approx(flow, rel=1e-3)
    assert (solution.labels.argmax(1)[seeds != UNLABELED] == seeds[seeds != UNLABELED]).all()


@EVERY_MOVE
def test_labels_are_hard_seeds_stay_and_the_start_is_never_better(moves: Moves) -> None:
    rng = np.random.default_rng(5521)
    for size, classes in (((9, 11), 4), ((4, 5, 6), 3), ((6, 6), 1)):
        problem = random_problem(rng, size, classes, 3)
        start = torch.from_numpy(rng.dirichlet(np.ones(classes), (3, *size))).float().movedim(-1, 1)
        solution = solve(problem, GraphCut(moves), start=start)
        assert ((solution.labels == 0) | (solution.labels == 1)).all()
        assert (solution.labels.sum(1) == 1).all()
        index, seeded = solution.labels.argmax(1), problem.seeds != UNLABELED
        assert (index[seeded] == problem.seeds[seeded]).all()
        assert (solution.energy <= solution.start_energy).all()
        assert all(result is Result.CONVERGED for result in solution.results)
        expected = problem.value(solution.labels).numpy()
        np.testing.assert_allclose(solution.energy.numpy(), expected, rtol=1e-9, atol=1e-9)
        again = solve(problem, GraphCut(moves), start=solution.labels)
        assert (again.energy <= solution.energy + 1e-9).all()


@EVERY_MOVE
def test_a_better_start_is_kept(moves: Moves) -> None:
    """The optimum as start, as hard or as soft labels, is not lost."""
    rng = np.random.default_rng(77101)
    problem = random_problem(rng, (3, 3), 3, 25, seeded=0.0)
    problem = replace(problem, energy=Energy(pairwise_weight=1.5))
    labelings = every_labeling([0, 1, 2], 9)
    best = np.stack([labelings[energies(problem, labelings, b).argmin()] for b in range(25)])
    start = one_hot(torch.from_numpy(best).view(25, 3, 3), 3)
    solution = solve(problem, GraphCut(moves), start=start)
    np.testing.assert_allclose(solution.energy.numpy(), optimum(problem, 3), rtol=1e-6)


def test_rounding_never_raises_the_energy_of_soft_labels() -> None:
    rng = np.random.default_rng(41)
    problem = random_problem(rng, (8, 9), 4, 6)
    soft = problem.feasible(torch.from_numpy(rng.dirichlet(np.ones(4), (6, 8, 9))).float().movedim(-1, 1))
    costs, edges = hard_labels.hard_costs(problem), hard_labels.checked_edges(problem, "graph-cut")
    for b in range(6):
        image = graph_cut._Image(GraphCut(), problem, costs, edges, soft, b, np.inf)
        image.search.restart(image.graph.round(image.start))
        hard = one_hot(torch.from_numpy(image.full_index()).view(1, 8, 9), 4)
        assert float(problem.value(hard.expand(6, -1, -1, -1))[b]) <= float(problem.value(soft)[b]) + 1e-5


def test_a_soft_start_below_the_result_is_rounded_and_improved(monkeypatch: pytest.MonkeyPatch) -> None:
    """If swaps stop above the ceiling, the rounded start is taken, once."""
    rng = np.random.default_rng(911)
    problem = random_problem(rng, (3, 3), 3, 1, seeded=0.0)
    labelings = every_labeling([0, 1, 2], 9)
    best = labelings[energies(problem, labelings, 0).argmin()]
    start = one_hot(torch.from_numpy(best).view(1, 3, 3), 3)
    worst = labelings[energies(problem, labelings, 0).argmax()]
    costs, edges = hard_labels.hard_costs(problem), hard_labels.checked_edges(problem, "graph-cut")
    image = graph_cut._Image(GraphCut(), problem, costs, edges, start, 0, -np.inf)
    monkeypatch.setattr(MoveSearch, "expansions", lambda self: False)
    image.search.restart(worst[image.pixels])
    image.sweep()
    assert not image.converged
    assert image.energy == pytest.approx(energies(problem, best[None], 0)[0], rel=1e-6)
    image.sweep()
    assert image.converged


@pytest.mark.parametrize("coupling", [COLLISION, QUADRATIC], ids=lambda c: c.name)
@pytest.mark.parametrize("relaxation", [QUADRATIC_POTTS, NORMALIZED_QUADRATIC], ids=lambda r: r.name)
def test_other_energies_with_hard_labels(coupling: Coupling, relaxation: Relaxation) -> None:
    problem = random_problem(np.random.default_rng(812), (3, 4), 2, 10)
    energy = replace(problem.energy, coupling=coupling, relaxation=relaxation)
    problem = replace(problem, energy=energy)
    solution = solve(problem, GraphCut())
    np.testing.assert_allclose(solution.energy.numpy(), optimum(problem, 2), rtol=1e-5, atol=1e-5)


def test_window_affinity_is_exact_too() -> None:
    rng = np.random.default_rng(1409)
    problem = random_problem(rng, (3, 4), 2, 20)
    features = torch.from_numpy(rng.random((20, 3, 3, 4))).float()
    kernels = (GaussianKernel(0.6, 1.5, 0.3), GaussianKernel(0.2, 1.0, None))
    window = WindowAffinity.from_features(features, 2, kernels)
    problem = replace(problem, affinity=window)
    np.testing.assert_allclose(
        solve(problem, GraphCut()).energy.numpy(), optimum(problem, 2), rtol=1e-5, atol=1e-5
    )


def test_excluded_classes_do_not_appear() -> None:
    rng = np.random.default_rng(2207)
    problem = random_problem(rng, (3, 3), 4, 3, seeded=0.0)
    classes = torch.tensor(
        [[True, False, True, False], [False, True, True, True], [False, False, False, True]]
    )
    problem = replace(problem, classes=classes)
    solution = solve(problem, GraphCut())
    assert (solution.labels.flatten(2).any(2) & ~classes).sum() == 0
    best = energies(problem, every_labeling([0, 2], 9), 0).min()  # two classes allowed: exact
    assert float(solution.energy[0]) == pytest.approx(best, rel=1e-6)


def test_classes_have_no_order() -> None:
    rng = np.random.default_rng(631)
    for classes in (2, 4):
        problem = random_problem(rng, (8, 9), classes, 4)
        order = torch.from_numpy(rng.permutation(classes))
        place = torch.cat([order.argsort(), torch.full((UNLABELED + 1 - classes,), UNLABELED)])
        permuted = replace(problem, probs=problem.probs[:, order], seeds=place[problem.seeds])
        here, there = solve(problem, GraphCut()), solve(permuted, GraphCut())
        np.testing.assert_allclose(here.energy.numpy(), there.energy.numpy(), rtol=1e-9)


def test_images_do_not_mix() -> None:
    problem = random_problem(np.random.default_rng(118), (7, 6), 3, 4)
    whole = solve(problem, GraphCut())
    for b in range(4):
        weights = tuple(w[b : b + 1] for w in problem.affinity.weights)  # type: ignore[attr-defined]
        affinity = replace(problem.affinity, weights=weights)  # type: ignore[type-var]
        alone = Problem(problem.energy, problem.probs[b : b + 1], problem.seeds[b : b + 1], affinity)
        assert torch.equal(solve(alone, GraphCut()).labels, whole.labels[b : b + 1])


def degenerate() -> dict[str, Problem]:
    problem = random_problem(np.random.default_rng(15), (4, 5), 3, 2)
    flat = GridAffinity.from_features(torch.zeros(2, 1, 4, 5))
    return {
        "all seeded": replace(problem, seeds=torch.full((2, 4, 5), 2)),
        "no pairs": replace(problem, energy=Energy(pairwise_weight=0.0)),
        "no coupling": replace(problem, energy=Energy(coupling_weight=0.0)),
        "nothing": replace(problem, energy=Energy(coupling_weight=0.0, pairwise_weight=0.0)),
        "flat": replace(problem, affinity=flat, probs=torch.full((2, 3, 4, 5), 1 / 3)),
        "certain": replace(problem, probs=one_hot(torch.zeros(2, 4, 5, dtype=torch.long), 3)),
    }


@EVERY_MOVE
@pytest.mark.parametrize("name", degenerate())
def test_degenerate(name: str, moves: Moves) -> None:
    problem = degenerate()[name]
    solution = solve(problem, GraphCut(moves))
    assert (solution.labels.sum(1) == 1).all()
    assert (solution.energy <= solution.start_energy + 1e-9).all()
    assert solution.bound is not None
    assert (solution.bound <= solution.energy + 1e-9).all()
    if name == "no pairs":
        expected = problem.feasible(problem.probs).argmax(1)
        assert torch.equal(solution.labels.argmax(1), expected)


def test_what_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(np.random.default_rng(4), (2, 2), 2, 1)
    with pytest.raises(ValueError, match=r"coupling .* got 'reverse': use 'standard'"):
        solve(replace(problem, energy=Energy(REVERSE)), GraphCut())
    with pytest.raises(ValueError, match=r"relaxation .* 'collision-divergence': use 'bilinear'"):
        solve(replace(problem, energy=Energy(relaxation=COLLISION_DIVERGENCE)), GraphCut())
    with pytest.raises(
        ValueError, match=r"entropy_weight 0, as hard labels have no entropy, got 0.5: use that, or"
    ):
        solve(replace(problem, energy=Energy(entropy_weight=0.5)), GraphCut())
    with pytest.raises(ValueError, match=r"lists its pairs, got Dense: use a grid"):
        solve(replace(problem, affinity=Dense()), GraphCut())
    with pytest.raises(ValueError, match="explore is for expansions"):
        GraphCut(Moves.SWAP, explore=False)
    monkeypatch.setattr(maximum_flow, "ENGINES", ())
    with pytest.raises(ImportError, match=r"pip install PyMaxflow .* pip install ortools"):
        solve(problem, GraphCut())


class Drawn(GridAffinity):
    """A grid with a pair more in its list: from its last pixel to the given one, which may be itself or nowhere."""

    last_to = 0

    def edges(self) -> Edges:
        found, last = super().edges(), prod(self.size) - 1
        first, second = found.first.new_tensor([last]), found.first.new_tensor([self.last_to])
        weight = torch.cat([found.weight, torch.full_like(found.weight[:, :1], 9.0)], 1)
        return Edges(torch.cat([found.first, first]), torch.cat([found.second, second]), weight)


def test_pairs_of_pixels_that_do_not_exist_are_refused_and_pairs_of_one_pixel_count_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = random_problem(np.random.default_rng(4), (3, 4), 3, 2)
    grid = problem.affinity
    assert isinstance(grid, GridAffinity)
    drawn = replace(problem, affinity=Drawn(grid.size, grid.offsets, grid.weights))
    monkeypatch.setattr(Drawn, "last_to", 11)
    assert torch.equal(solve(drawn, GraphCut()).labels, solve(problem, GraphCut()).labels)
    for to in (12, -1, 10**9):
        monkeypatch.setattr(Drawn, "last_to", to)
        with pytest.raises(
            ValueError, match=r"graph-cut: expected pairs of the pixels 0 to 11 .* Drawn, got numbers"
        ):
            solve(drawn, GraphCut())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_labels_come_back() -> None:
    problem = random_problem(np.random.default_rng(88), (6, 7), 3, 2)
    weights = tuple(w.cuda() for w in problem.affinity.weights)  # type: ignore[attr-defined]
    affinity = replace(problem.affinity, weights=weights)  # type: ignore[type-var]
    there = Problem(problem.energy, problem.probs.cuda(), problem.seeds.cuda(), affinity)
    solution = solve(there, GraphCut())
    assert solution.labels.is_cuda
    assert torch.equal(solution.labels.cpu(), solve(problem, GraphCut()).labels)


@pytest.mark.parametrize("moves", ["expansion", "swap", "x", -1, None, 10, Moves])
def test_moves_are_members(moves: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"expected moves as Moves\.EXPANSION or Moves\.SWAP, got"):
        GraphCut(moves)


@pytest.mark.parametrize("value", ["no", 1, None])
def test_explore_is_a_bool(value: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"expected explore as True or False, got"):
        GraphCut(explore=value)
