"""Large images in overlapping windows, against elimination of the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import data

from selflabel.affinity import GridAffinity, WindowAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.numerics.linear import windows
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.system import Box, RandomWalk
from selflabel.numerics.linear.windows import LEAK, KnownLabels, Windows, around, at, solve_windows, whole
from selflabel.problem import Problem
from selflabel.solvers.random_walker import RandomWalker
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS

SMALL = Windows(sizes=((16, 8),))
WINDOWED = RandomWalker(large_pixels=0, windows=SMALL)
WHOLE = RandomWalker(Elimination())
Size = tuple[int, ...]


def photographs() -> torch.Tensor:
    """Two of 61x83 pixels, ``[b c h w]``."""
    image = torch.from_numpy(data.astronaut()[::6, ::6][:61, :83].copy()).movedim(2, 0)  # type: ignore[no-untyped-call]
    return torch.stack([image, image.flip(2)])


def seeds_of(size: Size, share: float, classes: int = 3, images: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(72_019)
    drawn = rng.random((images, *size)) < share
    return torch.from_numpy(np.where(drawn, rng.integers(0, classes, drawn.shape), UNLABELED))


def probs_of(size: Size, classes: int = 3, images: int = 1) -> torch.Tensor:
    drawn = np.random.default_rng(3_343).dirichlet(np.full(classes, 0.7), (images, *size))
    return torch.from_numpy(drawn).float().movedim(-1, 1)


def posed(affinity: Stencil, seeds: torch.Tensor, eta: float) -> Problem:
    probs = probs_of(affinity.size, images=len(seeds))
    return Problem(Energy(QUADRATIC, QUADRATIC_POTTS, eta, 1.7), probs, seeds, affinity)


def known_of(problem: Problem, *sizes: tuple[int, int], share: int = 2) -> KnownLabels:
    affinity, energy = problem.affinity, problem.energy
    assert isinstance(affinity, Stencil)
    walk = RandomWalk(affinity, energy.pairwise_weight, energy.coupling_weight, problem.probs)
    given = KnownLabels(problem.feasible(problem.probs), problem.free)
    return solve_windows(walk, given, Windows(sizes, share))


def affinities(images: torch.Tensor) -> dict[int, Stencil]:
    """Affinities by their number of neighbors."""
    return {
        4: GridAffinity.from_image(images, 20.0, 4),
        8: GridAffinity.from_image(images, 20.0, 8),
        24: WindowAffinity.from_image(images, 2),
    }


@pytest.mark.parametrize("neighbors", [4, 8, 24])
@pytest.mark.parametrize(("share", "eta"), [(0.2, 0.0), (0.01, 0.0), (0.01, 0.3), (0.0, 3.0)])
def test_labels_are_those_of_the_whole(neighbors: int, share: float, eta: float) -> None:
    """Where windows tell the labels of all pixels, some, or none."""
    affinity = affinities(photographs())[neighbors]
    problem = posed(affinity, seeds_of((61, 83), share, images=2), eta)
    solution, whole_ = solve(problem, WINDOWED), solve(problem, WHOLE)
    assert (solution.labels - whole_.labels).abs().max() < 1e-6
    torch.testing.assert_close(solution.energy, whole_.energy, rtol=1e-6, atol=1e-6)
    assert solution.bound is not None
    assert torch.equal(solution.bound, solution.energy)
    assert set(solution.results) == {Result.CONVERGED}
    assert torch.equal(solution.labels.argmax(1)[problem.seeds < 255], problem.seeds[problem.seeds < 255])


def test_known_labels_are_right_to_the_leak() -> None:
    """In double precision, where rounding does not hide it."""
    affinity = GridAffinity.from_features(photographs()[:1].double(), 40.0, 8)
    problem = posed(affinity, seeds_of((61, 83), 0.4), 0.0)
    problem = replace(problem, probs=problem.probs.double() / problem.probs.double().sum(1, keepdim=True))
    exact = solve(problem, WHOLE).labels
    found = known_of(problem, (30, 4))
    known = problem.free & ~found.free
    error = (found.labels - exact).abs().amax(1, keepdim=True)[known].max()
    assert 1e-10 < error < 2 * LEAK
    assert (found.labels.sum(1, keepdim=True)[known] - 1).abs().max() < 1e-14
    assert 0.5 < known.sum() / problem.free.sum() < 1
    assert torch.equal(found.labels * ~known, problem.feasible(problem.probs) * ~known)


def test_far_from_seeds_nothing_becomes_known() -> None:
    """A window knows what it does not know: walkers cross a flat image."""
    flat = GridAffinity.from_features(torch.zeros(1, 1, 40, 40))
    seeds = torch.full((1, 40, 40), UNLABELED)
    seeds[..., 0], seeds[..., -1] = 0, 1
    found = known_of(posed(flat, seeds, 0.0), (20, 2))
    assert torch.equal(found.free, (seeds == UNLABELED)[:, None])


@pytest.mark.parametrize(("seeded", "count"), [(slice(0, 30), 8), (slice(60, 90), 2), (slice(0, 90), 9)])
def test_windows_end_when_they_fail(monkeypatch: pytest.MonkeyPatch, seeded: slice, count: int) -> None:
    """There are nine. If the first three succeed and the next three fail, one more may fail, but not two."""
    regions = []
    solve_window = windows._solve_window

    def counted(walk: RandomWalk, image: int, window: Box, known: KnownLabels) -> None:
        regions.append(window)
        solve_window(walk, image, window, known)

    monkeypatch.setattr(windows, "_solve_window", counted)
    flat = GridAffinity.from_features(torch.zeros(1, 1, 90, 90))
    seeds = torch.full((1, 90, 90), UNLABELED)
    seeds[:, seeded] = seeds_of((90, 90), 0.8)[:, seeded]
    found = known_of(posed(flat, seeds, 0.0), (30, 2), share=0)
    assert len(regions) == count
    assert bool(found.free[:, :, :10].any()) == (count == 2)
    known_of(posed(flat, seeds_of((90, 90), 1.0), 0.0), (30, 2), share=0)
    assert len(regions) == count  # nothing to do


def test_large_windows_know_what_small_ones_do_not() -> None:
    """If they hold at most half of the free pixels: 42 by 42 do, 60 by 60 do not."""
    flat = GridAffinity.from_features(torch.zeros(1, 1, 90, 90))
    problem = posed(flat, seeds_of((90, 90), 0.4), 0.0)
    small, both, too_large = (
        int(known_of(problem, *sizes).free.count_nonzero())
        for sizes in (((16, 2),), ((16, 2), (20, 11)), ((16, 2), (20, 20)))
    )
    assert 2 * both < small == too_large
    assert known_of(problem, (20, 20)).free.equal(problem.free)


def test_errors_do_not_add_up_along_many_windows() -> None:
    affinity = GridAffinity.from_features(
        torch.rand(1, 1, 3, 1000, generator=torch.Generator().manual_seed(8))
    )
    problem = posed(affinity, seeds_of((3, 1000), 0.3), 0.0)
    assert known_of(problem, *SMALL.sizes).free.float().mean() < 0.2
    solution, whole_ = solve(problem, WINDOWED), solve(problem, WHOLE)
    assert (solution.labels - whole_.labels).abs().max() < 1e-6


def test_regions_behind_weak_weights_are_exact() -> None:
    """Islands behind weights of 1e-14 to 1e-35, within a window and across several."""
    rng = np.random.default_rng(64)
    features = 0.3 * torch.from_numpy(rng.random((1, 1, 48, 48)))
    features[..., 3:9, 2:8] += 8.0
    features[..., 10:40, 12:37] += 12.0
    affinity = GridAffinity.from_features(features, 1.0, 4)
    assert 0 < float(affinity.edges().weight.min()) < 1e-30
    seeds = seeds_of((48, 48), 0.2)
    seeds[0, 3:9, 2:8] = seeds[0, 10:40, 12:37] = UNLABELED
    problem = posed(affinity, seeds, 0.0)
    labels = solve(problem, WINDOWED).labels
    np.testing.assert_allclose(labels, solve(problem, WHOLE).labels, atol=1e-6)
    assert labels[0, :, 3:9, 2:8].amax() < 0.9  # of what surrounds it, not the prediction


def test_regions_without_seeds_have_their_mean_prediction() -> None:
    features = torch.zeros(1, 1, 48, 48)
    features[..., 3:9, 2:8] = 1e4  # in a window
    features[..., 10:40, 12:37] = -1e4  # in several
    affinity = GridAffinity.from_features(features, 1.0, 8)
    seeds = seeds_of((48, 48), 0.2)
    seeds[0, 3:9, 2:8] = seeds[0, 10:40, 12:37] = UNLABELED
    problem = posed(affinity, seeds, 0.0)
    labels = solve(problem, WINDOWED).labels
    np.testing.assert_allclose(labels, solve(problem, WHOLE).labels, atol=1e-6)
    mean = problem.probs[..., 3:9, 2:8].mean((2, 3))
    np.testing.assert_allclose(labels[..., 5, 5], mean, atol=1e-6)


@pytest.mark.quick
def test_images_do_not_mix() -> None:
    affinity = GridAffinity.from_image(photographs(), 20.0, 8)
    seeds = seeds_of((61, 83), 0.2, images=2)
    seeds[1, :, 40:] = UNLABELED  # the other half of the second image takes all its windows
    problem = posed(affinity, seeds, 0.0)
    together = solve(problem, WINDOWED).labels
    for b in range(2):
        own = affinity.window((slice(b, b + 1), slice(0, 61), slice(0, 83)))
        alone = Problem(problem.energy, problem.probs[b : b + 1], seeds[b : b + 1], own)
        np.testing.assert_allclose(solve(alone, WINDOWED).labels, together[b : b + 1], atol=1e-7)


def test_inputs_stay_and_all_or_nothing_may_be_seeded() -> None:
    affinity = GridAffinity.from_image(photographs(), 20.0, 8)
    seeds = seeds_of((61, 83), 1.0, images=2)
    solution = solve(posed(affinity, seeds, 0.0), WINDOWED)
    assert torch.equal(solution.labels.argmax(1), seeds)
    problem = posed(affinity, seeds_of((61, 83), 0.0, images=2), 0.0)
    start = problem.probs.clone()
    labels = solve(problem, WINDOWED).labels
    mean = problem.probs.mean((2, 3), keepdim=True).expand_as(labels)
    np.testing.assert_allclose(labels, mean, atol=1e-6)
    solve(posed(affinity, seeds_of((61, 83), 0.2, images=2), 0.0), WINDOWED)
    assert torch.equal(problem.probs, start)


@pytest.mark.needs_numba
def test_only_large_flat_images_have_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError

    monkeypatch.setattr("selflabel.solvers.random_walker.solve_windows", refuse)
    flat = posed(GridAffinity.from_features(torch.zeros(1, 1, 20, 20)), seeds_of((20, 20), 0.2), 0.1)
    solve(flat, RandomWalker(large_pixels=400))
    with pytest.raises(AssertionError):
        solve(flat, RandomWalker(large_pixels=399))
    whole_image = RandomWalker(Elimination())
    # the constructor refuses both, as one would change nothing
    object.__setattr__(whole_image, "large_pixels", 399)
    solve(flat, whole_image)
    deep = posed(GridAffinity.from_features(torch.zeros(1, 1, 10, 9, 8)), seeds_of((10, 9, 8), 0.2), 0.1)
    solve(deep, RandomWalker(large_pixels=399))
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    solve(flat, RandomWalker(large_pixels=399))


@pytest.mark.parametrize("size", [(7, 9), (4, 5, 6)])
def test_the_affinity_of_a_box_is_a_block_of_the_matrix(size: Size) -> None:
    features = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(77))
    neighbors = 3 ** len(size) - 1
    for affinity, reach in (
        (GridAffinity.from_features(features, neighbors=neighbors), 1),
        (WindowAffinity.from_features(features, 2), 2),
    ):
        assert affinity.reach == reach
        matrix = affinity.as_matrix().view(2, *size, *size)
        for start, stop in ((1, 4), (0, 1), (3, 4)):
            cut = (slice(start, stop),) * len(size)
            pixels = (stop - start) ** len(size)
            found = affinity.window((slice(1, 2), *cut))
            assert found.shape == (1, *[stop - start] * len(size))
            assert torch.equal(
                found.as_matrix(), matrix[(slice(1, 2), *cut, *cut)].reshape(1, pixels, pixels)
            )


def test_the_box_around_what_is_free() -> None:
    free = torch.zeros(2, 1, 9, 11, dtype=torch.bool)
    assert around(free, 1) == whole((9, 11)) == (slice(0, 9), slice(0, 11))
    free[0, 0, 3, 4] = free[1, 0, 5, 9] = True
    assert around(free, 2) == (slice(1, 8), slice(2, 11))
    assert torch.equal(free[at(around(free, 0), 1)], free[1:2, :, 3:6, 4:10])
    known = KnownLabels(torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(1)), free)
    box = (slice(1, 3), slice(2, 4))
    labels = known.put(box, torch.zeros(2, 3, 2, 2))
    assert not labels[at(box)].any()
    assert int((labels != known.labels).sum()) == 2 * 3 * 4
