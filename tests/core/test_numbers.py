"""Values that are no numbers, and energies, solvers and affinities that are none, are refused when they are given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from selflabel.affinity import DenseAffinity, GaussianKernel, GridAffinity
from selflabel.affinity.builders import Contrast, Dense, Grid
from selflabel.energy import Energy
from selflabel.problem import Problem
from selflabel.solvers import FrankWolfe, GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.solvers.frank_wolfe import Entropic

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("unchecked")]

IMAGE = torch.zeros(1, 3, 4, 4)
PROBS = torch.full((1, 2, 4, 4), 0.5)
SEEDS = torch.full((1, 4, 4), 255)


def made(kind: Any, **options: Any) -> Callable[[], object]:
    return lambda: kind(**options)


NO_NUMBERS = [
    (made(Energy, pairwise_weight="1"), r"pairwise_weight as a number, got '1': pass float\('1'\)"),
    (made(Energy, coupling_weight=None), "coupling_weight as a number, got None"),
    (made(Energy, entropy_weight=[1]), r"entropy_weight as a number, got \[1\]"),
    (made(GridAffinity.from_image, image=IMAGE, sigma="9"), "sigma as a number, got '9'"),
    (
        made(GaussianKernel, weight="1", sigma_xy=1.0, sigma_rgb=None),
        "weight as a number, got '1'",
    ),
    (made(Grid, sigma="9"), "sigma as a number, got '9'"),
    (made(Contrast, blur=None), "blur as a number, got None"),
    (made(Dense, smoothness="0"), "smoothness as a number, got '0'"),
    (made(GradientDescent, rate="x"), "rate as a number or None, got 'x'"),
    (made(GradientDescent, rtol=None), "rtol as a number, got None"),
    (made(GradientDescent, coarse_levels=float("nan")), "coarse_levels as a whole number, got nan"),
    (made(GradientDescent, coarse_levels="3"), r"coarse_levels as a whole number, got '3': pass int\('3'\)"),
    (made(GradientDescent, coarse_steps=None), "coarse_steps as a whole number, got None"),
    (made(GradientDescent, coarse_steps=1.5), "coarse_steps as a whole number, got 1.5"),
    (made(FrankWolfe, decay="x"), "decay as a number, got 'x'"),
    (made(FrankWolfe, step="x"), "step as a number, got 'x'"),
    (made(Entropic, share=None), "share as a number, got None"),
    (made(MeanField, rtol=None), "rtol as a number, got None"),
    (made(RandomWalker, large_pixels="x"), "large_pixels as a whole number, got 'x'"),
    (made(RandomWalker, large_pixels=-1), "large_pixels as a whole number >= 0, got -1"),
    (made(RandomWalker, large_pixels=float("nan")), "large_pixels as a whole number, got nan"),
]

OTHER_KINDS = [
    (
        made(RandomWalker, method="x"),
        r"expected method as a LinearSolver such as Elimination\(\) or None, got 'x'",
    ),
    (
        made(RandomWalker, method=10),
        r"expected method as a LinearSolver such as Elimination\(\) or None, got 10",
    ),
    (made(RandomWalker, windows="x"), r"expected windows as a Windows such as Windows\(\), got 'x'"),
    (made(RandomWalker, windows=-1), r"expected windows as a Windows such as Windows\(\), got -1"),
    (
        made(DenseAffinity.from_image, image=IMAGE, filtering="exact"),
        "expected a filtering .* got a str 'exact'",
    ),
]


@pytest.mark.parametrize(("call", "message"), NO_NUMBERS + OTHER_KINDS, ids=lambda value: str(value)[:40])
def test_values_of_other_kinds_are_refused_when_given(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("energy", ["standard", None, Energy, GraphCut()], ids=str)
def test_problems_need_an_energy(energy: Any) -> None:
    affinity = GridAffinity.from_image(IMAGE)
    for call in (Problem, Problem.from_logits, Problem.from_costs):
        with pytest.raises(ValueError, match=r"expected an Energy, got .*: build it, as in Energy\(\)"):
            call(energy, PROBS if call is Problem else PROBS * 9, SEEDS, affinity)


def test_numbers_of_other_types_stay_numbers() -> None:
    one: Any
    for one in (1, np.float32(1), np.int64(1), torch.tensor(1.0)):
        assert Energy(pairwise_weight=one).pairwise_weight == 1
