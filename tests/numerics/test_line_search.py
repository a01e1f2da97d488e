"""Rules of the line search: conjugate directions, lengths of steps, and when a direction is given up."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from selflabel.numerics.descent.line_search import Trial, hestenes_stiefel, secant_factor
from selflabel.solvers.gradient_descent import _conjugate


class AtAnAngle:
    """Its first trials are given: the second one is refused, and its direction was not downhill."""

    def __init__(self) -> None:
        trials = [(5, 0, 0, 2, 0), (4, -2, 1, 2, 1), (6, 0.5, 1, 1, 0), (3, -1, 0, 1, 0), (3, 0, 0, 0, 0)]
        self.trials = iter(torch.tensor(trials, dtype=torch.float64))
        self.accepted: list[bool] = []
        self.turned: list[tuple[bool, float]] = []

    def labels(self) -> Tensor:
        return torch.ones(1, 1, 1, 1)

    def evaluate(self, rate: Tensor, done: Tensor) -> Trial:
        return Trial(*next(self.trials).unsqueeze(1))

    def accept(self, images: Tensor) -> None:
        self.accepted.append(bool(images))

    def turn(self, images: Tensor, beta: Tensor, rate: Tensor) -> None:
        self.turned.append((bool(images), float(beta)))


def test_refused_directions_are_given_up_only_if_they_do_not_go_down() -> None:
    search = AtAnAngle()
    steps = list(islice(_conjugate(search, 0.0, torch.zeros(1, dtype=torch.float64)), 4))
    energies = [float(step.energy) for step in steps if step.energy is not None]
    assert energies == [4, 4, 3, 3]
    assert search.accepted[1:4] == [True, False, True]
    assert search.turned == [(True, 0), (True, pytest.approx(1 / 3)), (True, 0), (True, 1)]


def test_hestenes_stiefel_restarts_where_it_would_not_go_down() -> None:
    def beta(slope_start: float, slope_end: float, gradient_norm: float, gradient_overlap: float) -> float:
        numbers = torch.tensor([[0, slope_start, slope_end, gradient_norm, gradient_overlap]])
        return float(hestenes_stiefel(Trial(*numbers.double().unbind(1))))

    assert beta(-2, 1, 2, 1) == pytest.approx(1 / 3)
    assert beta(-2, 0, 2, -1) == pytest.approx(3 / 2)
    assert beta(-2, 1, 1, 2) == 0  # negative
    assert beta(-2, -3, 2, 1) == 0  # the slope falls
    assert beta(-2, 1, 0.5, -1.5) == 0  # up: β d·g = 2/3 > n·g


def test_the_rate_follows_the_secant() -> None:
    starts, ends = (torch.tensor(x, dtype=torch.float64) for x in ([-2, -1, -4, -2], [2, 2, -3, -3]))
    trial = Trial(starts, starts, ends, starts, starts)
    every = torch.ones(4, dtype=torch.bool)
    assert secant_factor(trial, every).tolist() == pytest.approx([0.5, 1 / 3, 2, 2])
    assert secant_factor(trial, ~every).tolist() == pytest.approx([0.5, 1 / 3, 0.5, 0.5])
    steep = Trial(starts, starts, 99 * ends.abs(), starts, starts)
    assert secant_factor(steep, every).tolist() == [0.3] * 4
    assert secant_factor(steep, ~every).tolist() == [0.1] * 4
