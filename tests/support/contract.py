"""What every solver promises, as plain functions: each takes a case and a solver, and asserts.

Tolerances: labels of float32 are compared to 1e-4 where the order of sums differs, energies to 1e-5 of the
energy. A second solve may gain what the stopping rule leaves, 2 % of what the first one gained at most.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from selflabel.driver import Result, Solution, Solver, Step, solve
from selflabel.labels import UNLABELED, one_hot
from support.problems import Case, random_labels

Check = Callable[[Case, Solver], None]

EXTREME = 100.0


def assert_distributions(labels: Tensor, like: Tensor) -> None:
    assert labels.shape == like.shape
    assert labels.dtype == like.dtype
    assert bool(labels.isfinite().all())
    assert float(labels.min()) >= 0
    assert float((labels.sum(1) - 1).abs().max()) <= 1e-5


def scale(solution: Solution) -> Tensor:
    """The scale of an energy's tolerance: its own size, or the start's if larger."""
    return torch.maximum(solution.energy.abs(), solution.start_energy.abs()) + 1e-3


def uniform(case: Case) -> Tensor:
    return torch.full_like(case.probs, 1 / case.probs.shape[1])


def labels_are_distributions(case: Case, solver: Solver) -> None:
    for dtype in (torch.float32, torch.float64):
        given = case.to(dtype)
        assert_distributions(solve(given.problem, solver).labels, given.probs)


def affinity_and_prediction_may_differ_in_type(case: Case, solver: Solver) -> None:
    for given in (
        replace(case, probs=case.probs.double()),
        replace(case, image=case.image.double()),
    ):
        assert_distributions(solve(given.problem, solver).labels, given.probs)


def inputs_are_untouched(case: Case, solver: Solver) -> None:
    start, degree = random_labels(case.probs), case.affinity.degree().clone()
    before = [x.clone() for x in (case.image, case.probs, case.seeds, start)]
    solve(case.problem, solver, start=start, max_steps=5)
    for was, now in zip(before, (case.image, case.problem.probs, case.problem.seeds, start), strict=True):
        assert torch.equal(was, now)
    assert torch.equal(case.affinity.degree(), degree)


def same_bytes_twice(case: Case, solver: Solver) -> None:
    first, second = (solve(replace(case).problem, solver) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.energy, second.energy)


def energy_is_the_value_of_the_labels(case: Case, solver: Solver) -> None:
    solution = solve(case.problem, solver)
    value = case.problem.value(solution.labels)
    assert bool(((solution.energy - value).abs() <= 1e-5 * scale(solution)).all())


def energy_is_not_above_the_start(case: Case, solver: Solver) -> None:
    for start in (None, random_labels(case.probs), uniform(case)):
        solution = solve(case.problem, solver, start=start)
        assert bool((solution.energy <= solution.start_energy + 1e-6 * scale(solution)).all())


def bound_is_below_the_energy(case: Case, solver: Solver) -> None:
    solution = solve(case.problem, solver)
    if solution.bound is not None:
        assert bool((solution.bound <= solution.energy + 1e-5 * scale(solution)).all())


def it_converges(case: Case, solver: Solver) -> None:
    solution = solve(case.problem, solver, max_steps=200)
    assert solution.results == (Result.CONVERGED,) * len(case.probs)
    assert bool((solution.steps >= 1).all())


def finished_images_change_no_more(case: Case, solver: Solver) -> None:
    seeds = case.seeds.clone()
    seeds[0] = case.probs[0].argmax(0)  # this image has nothing to do
    finished: dict[int, Tensor] = {}

    def look(_: int, step: Step) -> None:
        for number, labels in finished.items():
            assert torch.equal(step.labels[number], labels)
        if step.converged is not None:
            finished.update({n: step.labels[n] for n in range(len(seeds)) if bool(step.converged[n])})

    solve(replace(case, seeds=seeds).problem, solver, callback=look)
    finished.clear()
    solve(case.problem, solver, callback=look)


def a_second_solve_gains_nothing(case: Case, solver: Solver) -> None:
    first = solve(case.problem, solver, start=uniform(case))
    second = solve(case.problem, solver, start=first.labels)
    gained, left = first.start_energy - first.energy, first.energy - second.energy
    assert bool((left <= 0.02 * gained + 1e-5 * scale(first)).all()), (gained, left)


def seeds_are_kept(case: Case, solver: Solver) -> None:
    start = random_labels(case.probs)  # wrong at the seeds
    labels = solve(case.problem, solver, start=start, max_steps=3).labels
    seeded = (case.seeds != UNLABELED)[:, None].expand_as(labels)
    assert bool(seeded.any())
    assert torch.equal(labels[seeded], one_hot(case.seeds, labels.shape[1], labels.dtype)[seeded])


def images_do_not_mix(case: Case, solver: Solver) -> None:
    together = solve(case.problem, solver).labels
    for number in range(len(case.probs)):
        alone = solve(case.alone(number).problem, solver).labels
        torch.testing.assert_close(together[number : number + 1], alone, rtol=0, atol=1e-5)


def classes_have_no_order(case: Case, solver: Solver) -> None:
    order = torch.tensor([2, 0, 1])
    place = order.argsort()
    seeds = torch.where(case.seeds == UNLABELED, case.seeds, place[case.seeds.clamp_max(2)])
    other = replace(case, probs=case.probs[:, order], seeds=seeds)
    labels, permuted = solve(case.problem, solver).labels, solve(other.problem, solver).labels
    torch.testing.assert_close(permuted, labels[:, order], rtol=0, atol=1e-4)


def without_pairs_the_prediction_wins(case: Case, solver: Solver) -> None:
    given = replace(case, energy=replace(case.energy, pairwise_weight=0.0, regularizers=()))
    index = solve(given.problem, solver, start=uniform(case)).labels.argmax(1)
    free = case.seeds == UNLABELED
    assert torch.equal(index[free], case.probs.argmax(1)[free])


def excluded_classes_are_as_if_they_were_not_there(case: Case, solver: Solver) -> None:
    kept = torch.tensor([0, 2])
    seeds = torch.where(case.seeds == 1, UNLABELED, case.seeds)
    allowed = torch.tensor([True, False, True]).expand(len(seeds), 3)
    masked = replace(case, seeds=seeds, classes=allowed)
    # after few steps: the ends of two descents that differ by rounding may differ by more
    labels = solve(masked.problem, solver, max_steps=8).labels
    assert float(labels[:, 1].abs().max()) == 0
    probs = case.probs[:, kept] / case.probs[:, kept].sum(1, keepdim=True)
    without = replace(case, seeds=torch.where(seeds == 2, 1, seeds), probs=probs)
    expected = solve(without.problem, solver, max_steps=8).labels
    torch.testing.assert_close(labels[:, kept], expected, rtol=0, atol=2e-3)


def classes_may_differ_between_images(case: Case, solver: Solver) -> None:
    seeds = case.seeds.clone()
    seeds[0][seeds[0] == 2] = UNLABELED
    allowed = torch.tensor([[True, True, False]] + [[True] * 3] * (len(seeds) - 1))
    given = replace(case, seeds=seeds, classes=allowed)
    solution = solve(given.problem, solver)
    assert_distributions(solution.labels, given.probs)
    assert float(solution.labels[0, 2].abs().max()) == 0
    assert bool((solution.energy <= solution.start_energy + 1e-6 * scale(solution)).all())
    alone = solve(case.alone(1).problem, solver).labels  # with all classes
    torch.testing.assert_close(solution.labels[1:2], alone, rtol=0, atol=1e-4)


def sure_predictions(case: Case, solver: Solver) -> None:
    """Logits of ±100: probabilities are 0 and 1 in float32."""
    logits = torch.where(case.probs == case.probs.amax(1, keepdim=True), EXTREME, -EXTREME)
    given = replace(case, probs=logits.softmax(1))
    solution = solve(given.problem, solver)
    assert_distributions(solution.labels, given.probs)
    assert bool(solution.energy.isfinite().all())
    # and with two classes equally sure, the third excluded by its logit
    logits[:, 0] = logits[:, 1] = EXTREME
    assert_distributions(solve(replace(case, probs=logits.softmax(1)).problem, solver).labels, case.probs)


def one_class(case: Case, solver: Solver) -> None:
    seeds = torch.where(case.seeds == UNLABELED, UNLABELED, 0)
    given = replace(case, probs=torch.ones_like(case.probs[:, :1]), seeds=seeds)
    solution = solve(given.problem, solver)
    assert torch.equal(solution.labels, given.probs)
    assert solution.results == (Result.CONVERGED,) * len(seeds)


def one_pixel(case: Case, solver: Solver) -> None:
    corner = (slice(None), slice(None), *[slice(0, 1)] * (case.image.ndim - 2))
    seeds = torch.full_like(case.seeds[corner[1:]], UNLABELED)
    seeds[-1] = 1
    given = replace(case, image=case.image[corner], probs=case.probs[corner].contiguous(), seeds=seeds)
    solution = solve(given.problem, solver)
    assert_distributions(solution.labels, given.probs)
    assert torch.equal(solution.labels[0].argmax(0), given.probs[0].argmax(0))
    assert torch.equal(solution.labels[-1].flatten(), torch.tensor([0.0, 1.0, 0.0]))


def one_line_of_pixels(case: Case, solver: Solver) -> None:
    line = (slice(None), slice(None), *[slice(0, 1)] * (case.image.ndim - 3), slice(None))
    given = replace(case, image=case.image[line], probs=case.probs[line], seeds=case.seeds[line[1:]])
    assert_distributions(solve(given.problem, solver).labels, given.probs)


def constant_image(case: Case, solver: Solver) -> None:
    for gray in (0.0, 0.5, 1.0):
        given = replace(case, image=torch.full_like(case.image, gray))
        assert_distributions(solve(given.problem, solver).labels, given.probs)


def uniform_prediction(case: Case, solver: Solver) -> None:
    given = replace(case, probs=uniform(case))
    assert_distributions(solve(given.problem, solver).labels, given.probs)


def everything_seeded(case: Case, solver: Solver) -> None:
    given = replace(case, seeds=case.probs.argmax(1))
    solution = solve(given.problem, solver)
    assert torch.equal(solution.labels, one_hot(given.seeds, case.probs.shape[1]))
    torch.testing.assert_close(solution.energy, given.problem.value(solution.labels))
    assert solution.results == (Result.CONVERGED,) * len(case.probs)


def nothing_seeded(case: Case, solver: Solver) -> None:
    given = replace(case, seeds=torch.full_like(case.seeds, UNLABELED))
    solution = solve(given.problem, solver)
    assert_distributions(solution.labels, given.probs)
    assert bool((solution.energy <= solution.start_energy + 1e-6 * scale(solution)).all())


CONTRACT: tuple[Check, ...] = (
    labels_are_distributions,
    affinity_and_prediction_may_differ_in_type,
    inputs_are_untouched,
    same_bytes_twice,
    energy_is_the_value_of_the_labels,
    energy_is_not_above_the_start,
    bound_is_below_the_energy,
    it_converges,
    finished_images_change_no_more,
    a_second_solve_gains_nothing,
    seeds_are_kept,
    images_do_not_mix,
    classes_have_no_order,
    without_pairs_the_prediction_wins,
    excluded_classes_are_as_if_they_were_not_there,
    classes_may_differ_between_images,
    sure_predictions,
    one_class,
    one_pixel,
    one_line_of_pixels,
    constant_image,
    uniform_prediction,
    everything_seeded,
    nothing_seeded,
)
