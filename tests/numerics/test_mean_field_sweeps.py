"""Mean field on compiled lattices against the same updates of all pixels in torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from selflabel import DenseAffinity, Energy, GaussianKernel, Problem, solve
from selflabel.driver import Result, Solution
from selflabel.kernels.cpu.layout import channels_last
from selflabel.labels import UNLABELED
from selflabel.numerics.descent import mean_field as sweeps
from selflabel.solvers import MeanField
from selflabel.terms import BILINEAR, STANDARD

THREADS = pytest.mark.parametrize("threads", [1, 2, 3])
DENSE = Energy(STANDARD, BILINEAR, 1.0, 0.4, entropy_weight=1.0)


def case(
    generator: torch.Generator,
    *,
    batch: int = 2,
    classes: int = 5,
    symmetric: bool = True,
    weight: float = 1.0,
) -> Problem:
    """Two kernels, some seeds, soft predictions."""
    size = (24, 31)
    image = torch.rand(batch, 3, 4, 5, generator=generator)
    image = torch.nn.functional.interpolate(image, size, mode="bilinear").clamp(0, 1)
    logits = torch.randn(batch, classes, *size, generator=generator)
    seeds = torch.full((batch, *size), UNLABELED)
    seeds[:, 3, 4:9] = 1
    seeds[:, 20, 4:19] = 0
    kernels = (GaussianKernel(weight, 10.0, 20.0), GaussianKernel(0.5 * weight, 2.0, None))
    affinity = DenseAffinity.from_image(image, kernels, symmetric=symmetric)
    return Problem(DENSE, logits.softmax(1), seeds, affinity)


def in_torch(monkeypatch: pytest.MonkeyPatch, problem: Problem, steps: int) -> Solution:
    """The same affinity, but updates of all pixels in torch."""
    with monkeypatch.context() as patch:
        patch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
        patch.setattr("selflabel.solvers.mean_field.is_swept", lambda problem: False)
        return solve(problem, MeanField(rtol=0.0), max_steps=steps, trace=True)


@THREADS
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("classes", [2, 5, 21])
def test_sweeps_are_mean_field(
    several: int, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, classes: int, symmetric: bool
) -> None:
    problem = case(generator, classes=classes, symmetric=symmetric, weight=1.0 if symmetric else 0.02)
    found = solve(problem, MeanField(rtol=0.0), max_steps=9, trace=True)
    expected = in_torch(monkeypatch, problem, 9)
    assert found.trace is not None
    assert expected.trace is not None
    torch.testing.assert_close(found.start_energy, expected.start_energy, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(found.trace[1], expected.trace[1], rtol=1e-6, atol=1e-3)  # of all pixels
    both = min(len(found.trace), len(expected.trace))  # either may have nothing left to gain
    assert both > 3
    torch.testing.assert_close(found.trace[:both], expected.trace[:both], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.labels, expected.labels, rtol=0, atol=5e-3)
    torch.testing.assert_close(found.energy, problem.value(found.labels), rtol=1e-6, atol=1e-3)
    assert bool((found.trace.diff(dim=0) <= 1e-6 * found.trace[1:].abs()).all())
    assert found.labels.is_contiguous()


def test_strong_pairs_take_no_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the minimum certain labels flip again: leaving them out would cost steps (here, 5 % of the gain)."""
    draw, size, resize = torch.Generator().manual_seed(2), (24, 31), torch.nn.functional.interpolate
    image = resize(torch.rand(1, 3, 4, 5, generator=draw), size, mode="bilinear").clamp(0, 1)
    logits = resize(torch.randn(1, 5, 6, 7, generator=draw), size, mode="bilinear")
    logits = logits + torch.randn(1, 5, *size, generator=draw)
    kernels = (GaussianKernel(0.5, 10.0, 20.0), GaussianKernel(0.25, 2.0, None))
    affinity = DenseAffinity.from_image(image, kernels)
    problem = Problem(DENSE, logits.softmax(1), torch.full((1, *size), UNLABELED), affinity)
    found, expected = (
        solve(problem, MeanField(rtol=0.0), max_steps=8, trace=True),
        in_torch(monkeypatch, problem, 8),
    )
    assert found.trace is not None
    assert expected.trace is not None
    lost = (found.trace - expected.trace) / (expected.trace[0] - expected.trace[-1])
    assert float(lost.max()) < 0.01


@pytest.mark.quick
def test_sweeps_keep_seeds_and_leave_excluded_classes_empty(generator: torch.Generator) -> None:
    problem = case(generator)
    allowed = torch.ones(2, 5, dtype=torch.bool)
    allowed[1, 3:] = False
    problem = Problem(DENSE, problem.probs, problem.seeds, problem.affinity, allowed)
    found = solve(problem, MeanField(), max_steps=5)
    assert bool((found.labels[1, 3:] == 0).all())
    assert bool((found.labels[0, 3:] > 0).any())
    assert bool((found.labels[:, 1, 3, 4:9] == 1).all())
    torch.testing.assert_close(found.labels.sum(1), torch.ones(2, 24, 31))
    torch.testing.assert_close(found.energy, problem.value(found.labels), rtol=1e-6, atol=1e-3)


def test_images_do_not_mix_and_end_by_themselves(generator: torch.Generator) -> None:
    """The second image is one of certain predictions: it converges first, and stays as it is."""
    problem = case(generator)
    probs = problem.probs.clone()
    probs[1] = torch.nn.functional.one_hot(probs[1].argmax(0), 5).movedim(-1, 0)
    assert isinstance(problem.affinity, DenseAffinity)
    weak = Energy(STANDARD, BILINEAR, 1.0, 1e-3, entropy_weight=1.0)
    together = solve(Problem(weak, probs, problem.seeds, problem.affinity), MeanField(), max_steps=200)
    assert together.results == (Result.CONVERGED, Result.CONVERGED)
    assert together.steps[1] <= together.steps[0]


def test_an_energy_that_would_rise_ends_the_sweeps(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """A large weight makes the few negative eigenvalues of the lattice felt; then steps are halved."""
    problem = case(generator, symmetric=False, weight=5.0)
    undone = []
    undo, energy = sweeps.MeanFieldSweeps.undo, sweeps.MeanFieldSweeps.energy

    def noted(self: sweeps.MeanFieldSweeps) -> None:
        undone.append(self)
        undo(self)

    monkeypatch.setattr(sweeps.MeanFieldSweeps, "undo", noted)
    counts: dict[int, int] = {}

    def rising(self: sweeps.MeanFieldSweeps) -> float:
        """As if the third step of each image went up."""
        counts[id(self)] = counts.get(id(self), 0) + 1
        return energy(self) + 1e9 * (counts[id(self)] == 4)

    monkeypatch.setattr(sweeps.MeanFieldSweeps, "energy", rising)
    found = solve(problem, MeanField(rtol=0.0), max_steps=6, trace=True)
    assert len(undone) == 2
    assert found.trace is not None
    assert bool((found.trace.diff(dim=0) <= 1e-6 * found.trace[:-1].abs()).all())
    torch.testing.assert_close(found.energy, problem.value(found.labels), rtol=1e-6, atol=1e-2)


def descent(
    problem: Problem, factor: float = 0.8, negligible: float = sweeps.NEGLIGIBLE_NATS
) -> sweeps.MeanFieldSweeps:
    """Sweeps of the first image."""
    assert isinstance(problem.affinity, DenseAffinity)
    probs = problem.probs[0].flatten(1).numpy()
    free, allowed = np.ones(problem.probs.shape[2:], bool), np.ones(len(probs))
    return sweeps.MeanFieldSweeps(
        problem.affinity.filters, 0, probs, None, free, allowed, 1.0, factor, 1, negligible
    )


def labels_of(descent: sweeps.MeanFieldSweeps) -> np.ndarray:
    """Labels ``[n k]``."""
    found = np.empty_like(descent.start)
    descent.read(found)
    return found.T


def test_classes_that_cannot_win_are_left_out(generator: torch.Generator) -> None:
    """Each half of the image has its own classes: those left out stay below the bound in sweeps of all classes."""
    problem = case(generator, classes=21)
    probs = problem.probs.clone()
    order = torch.randperm(21, generator=generator)
    probs[:, order[:11], :, :15] *= 1e-20
    probs[:, order[11:], :, 15:] *= 1e-20
    problem = Problem(DENSE, probs / probs.sum(1, keepdim=True), problem.seeds, problem.affinity)
    one, every = descent(problem), descent(problem, negligible=1e9)
    for _ in range(5):
        sweep_all(one, every)
    length = (one.rows.spans[:, 1] - one.rows.spans[:, 0]).mean()
    assert length < 17  # not all 24
    assert (every.rows.spans == (0, 24)).all()
    found, expected = labels_of(one), labels_of(every)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.count_nonzero(found == 0) > 6 * found.shape[0]
    assert expected[found == 0].max() < 1e-6
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-6)


def sweep_all(*images: sweeps.MeanFieldSweeps) -> None:
    """A sweep over all pixels of each."""
    for each in images:
        each.energy()
        each.sweep()
        each.revisit()


def test_classes_that_only_pairs_make_win_are_not_left_out(generator: torch.Generator) -> None:
    """Single pixels that disagree by eighteen nats with all around, where pairs weigh thirty."""
    problem = case(generator, batch=1, classes=21)
    probs = torch.full((1, 21, 24, 31), 1e-8)
    probs[:, 0, :, :15], probs[:, 20, :, 15:] = 1, 1
    probs[:, 0, ::5, 2:14:5], probs[:, 20, ::5, 2:14:5] = 1e-8, 1
    problem = Problem(DENSE, probs / probs.sum(1, keepdim=True), problem.seeds, problem.affinity)
    one, every = descent(problem, factor=20.0), descent(problem, factor=20.0, negligible=1e9)
    for _ in range(4):
        sweep_all(one, every)
    np.testing.assert_allclose(labels_of(one), labels_of(every), rtol=0, atol=1e-4)
    assert labels_of(one).reshape(24, 31, 21)[5, 7, 0] > 0.9  # it does


def test_late_steps_can_be_replaced(generator: torch.Generator) -> None:
    problem = case(generator)
    step = next(MeanField().iterate(problem, problem.probs))
    changed = replace(step, bound=torch.zeros(2))
    assert torch.equal(changed.labels, step.labels)
    assert changed.bound is not None
    assert step.energy is changed.energy


def test_huge_unaries_take_the_other_path(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    problem = case(generator)
    certain = Energy(STANDARD, BILINEAR, 1e28, 0.4, entropy_weight=1e-3)
    monkeypatch.setattr(
        "selflabel.numerics.descent.mean_field.MeanFieldSweeps.sweep",
        lambda self: pytest.fail("it is compiled"),
    )
    found = solve(Problem(certain, problem.probs, problem.seeds, problem.affinity), MeanField(), max_steps=2)
    assert torch.equal(found.labels.argmax(1)[0, 0], problem.probs.argmax(1)[0, 0])


def test_tiles_are_all_pixels_once() -> None:
    for size in ((24, 31), (5, 16), (3, 40, 33), (1, 1)):
        found = sweeps.tiles(size)
        np.testing.assert_array_equal(np.sort(found), np.arange(np.prod(size)))
    rows, columns = np.divmod(sweeps.tiles((48, 33))[:256], 33)
    assert rows.max() == 15
    assert columns.max() == 15


def test_competing_classes_are_neighbors(rng: np.random.Generator) -> None:
    """Three groups of classes that share no pixels, numbered at random."""
    group = rng.permutation(np.arange(21) % 3)
    probs = np.where(group[:, None] == np.arange(600) % 3, rng.random((21, 600)), 1e-13).astype(np.float32)
    order = sweeps.competitors(probs, np.ones(21), 1.0)
    np.testing.assert_array_equal(np.sort(order), np.arange(21))
    assert np.count_nonzero(np.diff(group[order])) == 2


@THREADS
def test_tables_follow_the_labels(several: int, generator: torch.Generator) -> None:
    """The tables kept between sweeps give the energy of the labels, at seeds and elsewhere."""
    problem = case(generator, classes=21)
    assert isinstance(problem.affinity, DenseAffinity)
    start, probs = (x[0].flatten(1).contiguous() for x in (problem.feasible(problem.probs), problem.probs))
    free = problem.free[0, 0].numpy()
    given = 0, probs.numpy(), start.numpy(), free, np.ones(21), 1.0, 0.8, several
    one = sweeps.MeanFieldSweeps(problem.affinity.filters, *given)
    for _ in range(5):
        energy = one.energy()
        labels = torch.from_numpy(labels_of(one).T.copy()).view(problem.probs[:1].shape)
        expected = problem.value(torch.cat([labels, problem.probs[1:]]))
        assert energy == pytest.approx(float(expected[0]), rel=1e-5)
        one.sweep()


def test_energies_stay_those_of_the_labels(generator: torch.Generator) -> None:
    """On a flat image, where a vertex sums thousands of pixels, next to which small changes would be lost."""
    affinity = DenseAffinity.from_image(torch.full((1, 3, 150, 200), 0.5), symmetric=True)
    logits = torch.randn(1, 3, 150, 200, generator=generator)
    logits[:, 0] += 2
    seeds = torch.full((1, 150, 200), UNLABELED)
    problem = Problem(replace(DENSE, pairwise_weight=1.0), logits.softmax(1), seeds, affinity)
    found = solve(problem, MeanField(rtol=0.0), max_steps=7, trace=True)
    torch.testing.assert_close(found.energy, problem.value(found.labels), rtol=1e-6, atol=0)
    assert found.trace is not None
    assert bool((found.trace.diff(dim=0) <= 3e-7 * found.trace[0]).all())


def test_a_start_that_turns_to_guarded_steps_keeps_its_energy(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    problem = case(generator)
    energy, of_second = sweeps.MeanFieldSweeps.energy, []

    def rising(self: sweeps.MeanFieldSweeps) -> float:
        """As if the first step of the second image went up."""
        of_second.append(np.shares_memory(self.start, problem.probs[1].numpy()))
        return energy(self) + 1e9 * (of_second[-1] and sum(of_second) == 2)

    monkeypatch.setattr(sweeps.MeanFieldSweeps, "energy", rising)
    shared = Problem(DENSE, problem.probs, torch.full_like(problem.seeds, UNLABELED), problem.affinity)
    found = solve(shared, MeanField(rtol=0.0), max_steps=3, trace=True)
    assert sum(of_second) == 2
    torch.testing.assert_close(found.start_energy, shared.value(shared.probs), rtol=1e-6, atol=1e-3)


def test_a_start_may_lie_across_the_prediction(generator: torch.Generator) -> None:
    problem = case(generator, batch=1, classes=2)
    numbers = torch.cat([problem.probs, problem.probs[:, :1]], 1)
    across, seeds = numbers[:, 1:], torch.full_like(problem.seeds, UNLABELED)
    assert across.is_contiguous()
    same = Problem(DENSE, numbers[:, :2], seeds, problem.affinity)
    found, expected = (
        solve(same, MeanField(), start=start, max_steps=1) for start in (across, across.clone())
    )
    torch.testing.assert_close(found.start_energy, expected.start_energy)
    torch.testing.assert_close(found.labels, expected.labels)


@pytest.mark.parametrize("changed", [0, 1, 24 * 31])
def test_a_start_near_the_prediction_is_not_taken_for_it(generator: torch.Generator, changed: int) -> None:
    """Starts with other labels at no pixel, at the last one, at all."""
    problem = case(generator)
    problem = replace(problem, seeds=torch.full_like(problem.seeds, UNLABELED))
    start = problem.probs.clone()
    pixels = start.flatten(2)[:, :, 24 * 31 - changed :]
    pixels.copy_(torch.nn.functional.one_hot(pixels.argmin(1), 5).movedim(-1, 1))
    found = solve(problem, MeanField(), start=start, max_steps=2)
    torch.testing.assert_close(found.start_energy, problem.value(start), rtol=1e-5, atol=1e-3)
    same = torch.equal(found.start_energy, solve(problem, MeanField(), max_steps=2).start_energy)
    assert same == (changed == 0)


def test_a_sweep_is_undone(generator: torch.Generator) -> None:
    one = descent(case(generator))
    for _ in range(3):
        one.energy()
        before = labels_of(one)
        one.sweep()
        after = labels_of(one)
        assert np.abs(after - before).max() > 1e-6
        one.undo()
        np.testing.assert_array_equal(labels_of(one), before)
        one.undo()  # there and back
        one.sweeps += 2
        np.testing.assert_array_equal(labels_of(one), after)


def test_all_pixels_are_visited_now_and_then(generator: torch.Generator) -> None:
    one = descent(case(generator))
    visits = []
    for _ in range(6):
        one.energy()
        everywhere = one.sweep()
        assert len(one.pixels) == len(one.free) or not everywhere
        visits.append(everywhere)
    assert visits == [True, False, False, False, True, False]
    assert len(one.pixels) < len(one.free)
    one.revisit()
    one.energy()
    assert one.sweep()


def test_a_start_that_lies_pixel_by_pixel_is_left_alone(generator: torch.Generator) -> None:
    problem = case(generator)
    problem = Problem(DENSE, problem.probs, torch.full_like(problem.seeds, UNLABELED), problem.affinity)
    start = channels_last(problem.probs)
    kept = start.clone()
    solve(problem, MeanField(), start=start, max_steps=3)
    assert torch.equal(start, kept)


def test_double_precision_and_narrow_kernels_take_the_other_path(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    problem = case(generator)
    narrow = DenseAffinity.from_image(torch.rand(2, 3, 24, 31), (GaussianKernel(1.0, 0.6, None),))
    image = torch.rand(2, 3, 24, 31, dtype=torch.float64)
    for affinity, probs in (
        (narrow, problem.probs),
        (DenseAffinity.from_image(image), problem.probs.double()),
    ):
        monkeypatch.setattr(
            "selflabel.numerics.descent.mean_field.MeanFieldSweeps.sweep",
            lambda self: pytest.fail("it is compiled"),
        )
        solve(Problem(DENSE, probs, problem.seeds, affinity), MeanField(), max_steps=2)
