"""Names, classes and lists in the place of solvers, couplings, affinities and tensors."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from selflabel import Energy, GridAffinity, Problem
from selflabel.driver import Solver, check_solver
from selflabel.inputs import size_remedy
from selflabel.kinds import check_arguments, check_count, check_fields, check_kind, check_least
from selflabel.labels import UNLABELED, check_seeds
from selflabel.solvers import GraphCut
from selflabel.solvers.graph_cut import Moves
from selflabel.terms import Coupling
from selflabel.training import Alternator, default_objective

pytestmark = pytest.mark.quick

KINDS: dict[str, tuple[Callable[[], object], str]] = {
    "solver by name": (
        lambda: check_solver("mean-field"),
        r"expected a solver such as GraphCut\(\), got a str 'mean-field': selflabel\.solvers\.SOLVERS",
    ),
    "solver's class": (lambda: check_solver(GraphCut), "got the class GraphCut"),
    "a number": (lambda: check_solver(3), "got an int: "),
    "an energy": (lambda: check_solver(Energy()), "got an Energy: "),
    "coupling by name": (
        lambda: check_kind("collision", Coupling, "a coupling", "a constant of selflabel.terms"),
        "expected a coupling, got a str 'collision': a constant",
    ),
    "list for an array": (
        lambda: check_kind([1], np.ndarray | Tensor, "the image as an array", "numpy.asarray(…)"),
        "expected the image as an array, got a list",
    ),
    "steps with a fraction": (
        lambda: check_count(2.5, "max_steps"),
        "max_steps as a whole number >= 1, got 2.5",
    ),
    "no steps": (lambda: check_count(0, "max_steps"), "whole number >= 1, got 0"),
    "a switch for a number": (lambda: check_count(True, "radius"), "radius as a whole number >= 1, got True"),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_kinds_of_values_come_with_the_right_one(name: str) -> None:
    call, message = KINDS[name]
    with pytest.raises(ValueError, match=message):
        call()


@dataclass(frozen=True)
class Varied:
    """Settings of all kinds of kinds."""

    number: float = 1.0
    count: int = 1
    numbers: tuple[float, ...] | None = None
    pair: tuple[int, int] = (1, 2)
    pairs: tuple[tuple[int, int], ...] = ()
    several: float | Sequence[float] = 1.0
    switch: bool = False
    folder: Path = Path()
    solver: Solver = GraphCut()
    solvers: tuple[Solver, ...] = ()
    moves: Moves = Moves.SWAP
    tensor: Float[Tensor, " k"] | None = None
    call: Callable[[], object] = dict
    anything: Any = None

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"number": np.float32(0.5)}, {"number": 0.5}),
        ({"number": torch.tensor(2.0)}, {"number": 2.0}),
        ({"number": 3}, {"number": 3}),
        ({"count": np.int64(3)}, {"count": 3}),
        ({"numbers": [1, 2.5]}, {"numbers": (1, 2.5)}),
        ({"numbers": np.array([1.0, 2.5])}, {"numbers": (1.0, 2.5)}),
        ({"pairs": [[1, 2], (3, 4)]}, {"pairs": ((1, 2), (3, 4))}),
        ({"several": [1.0, 2.0]}, {"several": (1.0, 2.0)}),
        ({"switch": np.bool_(True)}, {"switch": True}),
        ({"folder": "labels"}, {"folder": Path("labels")}),
        ({"solvers": [GraphCut()]}, {"solvers": (GraphCut(),)}),
    ],
    ids=str,
)
def test_what_means_the_same_becomes_the_same(
    given: dict[str, Any], taken: dict[str, Any], unchecked: None
) -> None:
    found = Varied(**given)
    for name, value in taken.items():
        assert getattr(found, name) == value
        assert type(getattr(found, name)) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"number": True}, "expected number as a number, got True"),
        ({"number": "1e3"}, r"expected number as a number, got '1e3': pass float\('1e3'\)"),
        ({"number": "one"}, "expected number as a number, got 'one'$"),
        ({"count": "3"}, r"expected count as a whole number, got '3': pass int\('3'\)"),
        ({"count": 3.0}, "expected count as a whole number, got 3.0"),
        ({"numbers": "12"}, "expected numbers as a tuple of numbers or None, got '12'"),
        ({"numbers": (1, "x")}, r"expected numbers as a tuple of numbers or None, got \(1, 'x'\)"),
        ({"numbers": ["x" * 99]}, "got a list$"),
        ({"pair": (1, 2, 3)}, r"expected pair as a tuple of 2 whole numbers, got \(1, 2, 3\)"),
        ({"pairs": ((1, 2), (3,))}, "expected pairs as a tuple of tuples of 2 whole numbers, got"),
        ({"several": "12"}, "expected several as a number or a tuple of numbers, got '12'"),
        ({"switch": 1}, "expected switch as True or False, got 1"),
        ({"folder": 1}, "expected folder as a path, got 1"),
        ({"folder": ""}, "expected folder as a path, got ''"),
        ({"solver": "graph-cut"}, r"expected solver as a Solver such as GraphCut\(\), got 'graph-cut'"),
        ({"solver": GraphCut}, r"got the class GraphCut: make one, GraphCut\(…\)"),
        ({"solvers": (1,)}, r"expected solvers as a tuple of Solvers such as GraphCut\(\), got \(1,\)"),
        ({"moves": "swap"}, "expected moves as Moves.EXPANSION or Moves.SWAP, got 'swap'"),
        ({"tensor": [1.0]}, r"expected tensor as a tensor of numbers \[k\] or None, got \[1.0\]"),
        ({"call": 3}, "expected call as a function, got 3"),
    ],
    ids=str,
)
def test_other_kinds_are_refused_in_plain_words(given: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        Varied(**given)


def test_numbers_are_finite_and_large_enough() -> None:
    check_least(0.5, "weight", 0.5)
    for wrong in (0.4, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"expected a finite weight >= 0.5, got {wrong}"):
            check_least(wrong, "weight", 0.5)


def test_arguments_are_held_to_the_annotations_of_their_function() -> None:
    check_arguments(check_least, {"name": "weight", "least": 1})
    with pytest.raises(ValueError, match="expected least as a number, got 'x'"):
        check_arguments(check_least, {"name": "weight", "least": "x"})


def test_steps_take_batches(unchecked: None) -> None:
    """Not what a loader of another project gives."""
    network = nn.Conv2d(3, 2, 1)
    alternator = Alternator(
        network, default_objective(GraphCut()), torch.optim.SGD(network.parameters(), lr=0.1)
    )
    given: Any = (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), UNLABELED))
    for step in (alternator.step, alternator.pretrain):
        with pytest.raises(
            ValueError, match=r"expected batch as a Batch, got a tuple: Batch\(stems, images, seeds\)"
        ):
            step(given)


def test_classes_are_booleans() -> None:
    logits, seeds = torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), UNLABELED)
    energy, affinity = GraphCut.default_energy, GridAffinity.from_image(torch.zeros(1, 3, 4, 4))
    for wrong in (torch.ones(1, 3), torch.ones(1, 2, dtype=torch.bool)):
        with pytest.raises((ValueError, TypeError), match="classes"):
            Problem.from_logits(energy, logits, seeds, affinity, wrong)


def test_entries_refuse_other_kinds() -> None:
    """In a process of its own, without this one's checks of types."""
    script = """
import numpy as np, torch, selflabel
from selflabel import Energy, Problem, solve
from selflabel.solvers import GraphCut, MeanField
seeds = torch.full((1, 4, 4), 255)
image = np.zeros((4, 4, 3), np.uint8)
energy = GraphCut.default_energy
problem = Problem.from_seeds(energy, seeds, 2, GraphCut.default_affinity(torch.zeros(1, 3, 4, 4)))
calls = [
    lambda: selflabel.label(image, seeds[0], "mean-field"),
    lambda: selflabel.label(image, seeds[0], MeanField),
    lambda: selflabel.label(image.tolist(), seeds[0]),
    lambda: selflabel.label(image, seeds[0].tolist()),
    lambda: solve(problem, "graph-cut"),
    lambda: solve(GraphCut(), problem),
    lambda: solve(problem, GraphCut(), max_steps=1.5),
    lambda: solve(problem, GraphCut(), start=problem.probs.numpy()),
    lambda: Energy(coupling="collision"),
    lambda: Energy(relaxation="bilinear"),
    lambda: Problem.from_seeds(energy, seeds, 2, image),
    lambda: Problem.from_logits(energy, {"out": problem.probs}, seeds, problem.affinity),
    lambda: Problem(energy, problem.probs, seeds, problem.affinity, torch.ones(1, 2)),
    lambda: selflabel.WindowAffinity.from_image(torch.zeros(1, 3, 4, 4), 2.5),
    lambda: selflabel.GridAffinity.from_features(image),
    lambda: selflabel.losses.dense_crf_loss({"out": problem.probs}, problem.affinity),
]
import selflabel.losses
for number, call in enumerate(calls):
    try:
        call()
    except ValueError as error:
        assert "expected" in str(error) and ", got " in str(error), (number, error)
    else:
        raise AssertionError(number)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_probabilities_are_no_logits() -> None:
    image, seeds = torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), UNLABELED)
    energy, affinity = GraphCut.default_energy, GridAffinity.from_image(image)
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    Problem.from_logits(energy, logits, seeds, affinity)
    Problem.from_logits(energy, torch.zeros(1, 1, 4, 4) + 1, seeds, affinity)  # one class: any logits will do
    almost = logits.softmax(1)
    almost[0, :, 3, 3] = 2.0  # the first pixels alone look like probabilities
    Problem.from_logits(energy, almost, seeds, affinity)
    with pytest.raises(ValueError, match="expected logits, got probabilities"):
        Problem.from_logits(energy, logits.softmax(1), seeds, affinity)


def test_seeds_of_other_conventions_come_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"seeds\[seeds == -100\] = 255"):
        check_seeds(torch.full((1, 4, 4), -100), 3)
    assert size_remedy((1, 3, 4, 4), (1, 1, 4, 4)) == "they have no axis of channels, `[:, 0]`"


def test_images_are_no_labels_and_arrays_make_batches() -> None:
    """In a process without this one's checks of types, as all entries above; batches take arrays and bytes there."""
    script = (
        "import numpy as np, torch; from selflabel.datasets.samples import Batch\n"
        "batch = Batch(('a',), np.full((1, 3, 4, 4), 51, np.uint8), np.full((1, 4, 4), 255))\n"
        "assert batch.images.dtype == torch.float32 and batch.seeds.dtype == torch.int64\n"
        "assert torch.allclose(batch.images, torch.tensor(0.2))\n"
        "from selflabel.losses import SelfLabelingLoss\n"
        "try: SelfLabelingLoss()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "
        "torch.full((1, 4, 4), 255))\n"
        "except ValueError as error: assert 'labels as probabilities in floating point' in str(error)\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
