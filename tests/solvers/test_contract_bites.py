"""The contract is tested: broken solvers that the named check must catch, each broken in one way."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from support import contract
from support.contract import CONTRACT, Check
from support.problems import Case, make_case
from support.toys import ToySolver
from torch import Tensor

from selflabel.driver import SolveError, Solver, Step
from selflabel.energy import Energy
from selflabel.problem import Problem
from selflabel.solvers import GraphCut

ENERGY = GraphCut.default_energy


@dataclass(frozen=True)
class Base(ToySolver):
    """Right as it is: one closed form, or one sweep of cuts."""

    name: ClassVar[str] = "broken"
    default_energy: ClassVar[Energy] = ENERGY
    needs_edges: ClassVar[bool] = True

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        for step in GraphCut().iterate(problem, labels):
            yield self.spoil(problem, labels, step)

    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        return step


class HalfTheMass(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        return replace(step, labels=step.labels * 0.5)


class WrongType(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        return Step(step.labels.double(), converged=step.converged)


class NeedsOneType(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        assert problem.affinity.degree().dtype == start.dtype
        return step


class WritesToThePrediction(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        problem.probs.mul_(0.5)
        return step


class WritesToTheAffinity(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        for weight in problem.affinity.weights:  # type: ignore[attr-defined]
            weight.mul_(1.01)
        return step


class WritesToTheSeeds(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        problem.seeds.clamp_(max=2)
        return step


class Draws(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        noisy = (step.labels + 0.01 * torch.rand_like(step.labels)).clamp_min(0)
        return Step(noisy / noisy.sum(1, keepdim=True), converged=step.converged)


class HandsOverAnotherEnergy(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        assert step.energy is not None
        return replace(step, energy=step.energy - 1)


class EndsHigher(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        return Step(step.labels.roll(1, 1), converged=step.converged)


class BoundsTooHigh(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        assert step.energy is not None
        return replace(step, bound=step.energy + 0.1)


class NeverStops(Base):
    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        while True:
            yield Step(labels)


class GoesOnWhenFinished(Base):
    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        finished = torch.arange(len(labels)) == 0
        for _ in range(5):
            yield Step(labels, converged=finished)
            labels = (labels**1.1) / (labels**1.1).sum(1, keepdim=True)


class StopsAtOnce(Base):
    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        yield from ()


class OneTimidStep(Base):
    """A tenth of the way to the solution."""

    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        return Step(0.9 * start + 0.1 * step.labels, converged=torch.ones(len(start), dtype=torch.bool))


class MixesImages(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        mixed = 0.99 * step.labels + 0.01 * step.labels.mean(0, keepdim=True)
        return Step(mixed, converged=step.converged)


class StopsAllTogether(Base):
    """As many steps as the slowest image needs, for all."""

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        for _ in range(2 * len(labels)):
            labels = problem.feasible((labels**1.1) / (labels**1.1).sum(1, keepdim=True))
            yield Step(labels)


class PrefersTheFirstClass(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        labels = step.labels.clone()
        labels[:, 0] += 0.2
        return Step(labels / 1.2, converged=step.converged)


class IgnoresThePrediction(Base):
    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        uniform = torch.full_like(problem.probs, 1 / problem.probs.shape[1])
        yield from GraphCut().iterate(replace(problem, probs=uniform), labels)


class IgnoresTheClasses(Base):
    """Gives pixels of doubt to a class that is excluded; the driver leaves them without any."""

    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        if problem.classes is None:
            return step
        excluded = (~problem.classes).view(*problem.classes.shape, *[1] * (start.ndim - 2)).to(start.dtype)
        doubt = problem.probs.amax(1, keepdim=True) < 0.7
        return Step(torch.where(doubt, excluded.expand_as(start), step.labels), converged=step.converged)


class OneClassListForAllImages(Base):
    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        classes = problem.classes
        common = None if classes is None else classes.all(0, keepdim=True).expand_as(classes)
        for step in GraphCut().iterate(problem, labels):
            if common is not None:
                allowed = common.view(*common.shape, *[1] * (labels.ndim - 2))
                kept = step.labels * allowed + 1e-6 * allowed
                step = Step(kept / kept.sum(1, keepdim=True), converged=step.converged)
            yield step


class TakesBareLogarithms(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        return replace(step, labels=step.labels * (1 - problem.probs * problem.probs.log() * 0), energy=None)


class DividesByTheOtherClasses(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        centered = problem.probs - 1 / problem.probs.shape[1]
        share = centered / centered.abs().sum(1, keepdim=True)
        return replace(step, labels=step.labels + 0 * share, energy=None)


class DividesByTheContrast(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        degree = problem.affinity.degree()
        deviation = degree - degree.flatten(1).amax(1).view(-1, *[1] * (degree.ndim - 1))
        return replace(step, labels=step.labels + 0 * deviation / deviation.abs().amax(), energy=None)


class DividesByTheFreePixels(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        share = problem.free / problem.free.flatten(1).sum(1).view(-1, *[1] * (start.ndim - 1))
        assert step.energy is not None
        return replace(step, labels=step.labels + 0 * share, energy=step.energy + 0 * share.sum())


class DividesByTheSeeds(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        share = problem.seed_labels.sum() / problem.seed_labels.sum()
        return replace(step, labels=step.labels * share, energy=None)


class NeedsTwoPixelsAnAxis(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        assert min(start.shape[2:]) > 1
        return step


class TakesLogarithmsOfClasses(Base):
    def spoil(self, problem: Problem, start: Tensor, step: Step) -> Step:
        normalizer = torch.tensor(float(start.shape[1])).log()
        return replace(step, labels=step.labels * (normalizer / normalizer), energy=None)


CAUGHT: list[tuple[type[Base], Check]] = [
    (WrongType, contract.labels_are_distributions),
    (HalfTheMass, contract.labels_are_distributions),
    (NeedsOneType, contract.affinity_and_prediction_may_differ_in_type),
    (WritesToThePrediction, contract.inputs_are_untouched),
    (WritesToTheAffinity, contract.inputs_are_untouched),
    (WritesToTheSeeds, contract.inputs_are_untouched),
    (Draws, contract.same_bytes_twice),
    (HandsOverAnotherEnergy, contract.energy_is_the_value_of_the_labels),
    (EndsHigher, contract.energy_is_not_above_the_start),
    (BoundsTooHigh, contract.bound_is_below_the_energy),
    (NeverStops, contract.it_converges),
    (StopsAtOnce, contract.it_converges),
    (GoesOnWhenFinished, contract.finished_images_change_no_more),
    (OneTimidStep, contract.a_second_solve_gains_nothing),
    (StopsAtOnce, contract.without_pairs_the_prediction_wins),
    (MixesImages, contract.images_do_not_mix),
    (StopsAllTogether, contract.images_do_not_mix),
    (PrefersTheFirstClass, contract.classes_have_no_order),
    (IgnoresThePrediction, contract.without_pairs_the_prediction_wins),
    (IgnoresTheClasses, contract.excluded_classes_are_as_if_they_were_not_there),
    (OneClassListForAllImages, contract.classes_may_differ_between_images),
    (TakesBareLogarithms, contract.sure_predictions),
    (TakesLogarithmsOfClasses, contract.one_class),
    (NeedsTwoPixelsAnAxis, contract.one_pixel),
    (NeedsTwoPixelsAnAxis, contract.one_line_of_pixels),
    (DividesByTheContrast, contract.one_pixel),
    (DividesByTheOtherClasses, contract.uniform_prediction),
    (DividesByTheFreePixels, contract.everything_seeded),
    (DividesByTheSeeds, contract.nothing_seeded),
]


def strong_case() -> Case:
    """Neither the prediction nor the pairs alone decide."""
    return make_case(replace(ENERGY, pairwise_weight=1.5), "grid8", seeded=0.2)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_a_right_solver_passes(check: Check) -> None:
    check(strong_case(), Base())


@pytest.mark.parametrize(
    ("broken", "check"), CAUGHT, ids=[f"{broken.__name__}-{check.__name__}" for broken, check in CAUGHT]
)
def test_broken_solvers_are_caught(broken: type[Base], check: Check) -> None:
    solver = broken()
    assert isinstance(solver, Solver)
    with pytest.raises((AssertionError, SolveError)):
        check(strong_case(), solver)


def test_constant_images_bite() -> None:
    """All pixels of a constant image of 2x2 have the same degree: there is no contrast to divide by."""
    case = strong_case()
    flat = replace(case, kind="grid4", image=case.image[..., :2, :2])
    flat = replace(flat, probs=case.probs[..., :2, :2], seeds=case.seeds[..., :2, :2])
    with pytest.raises((AssertionError, SolveError)):
        contract.constant_image(flat, DividesByTheContrast())
    contract.constant_image(flat, Base())


def test_seeds_are_seen_by_their_check() -> None:
    """The driver puts seeds back, so no solver can lose them: the check gets a problem that forgets them."""

    class Forgetful(Problem):
        def feasible(self, labels: Tensor) -> Tensor:
            return labels

    class Lossy(Case):
        @property
        def problem(self) -> Problem:
            return Forgetful(self.energy, self.probs, self.seeds, self.affinity)

    case = strong_case()
    lossy = Lossy(case.energy, case.kind, case.image, case.probs, case.seeds)
    with pytest.raises(AssertionError):
        contract.seeds_are_kept(lossy, StopsAtOnce())


def test_every_check_has_a_solver_that_it_catches() -> None:
    elsewhere = {contract.constant_image, contract.seeds_are_kept}
    assert {check for _, check in CAUGHT} | elsewhere == set(CONTRACT)
