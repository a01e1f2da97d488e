"""Couplings, relaxations and all that holds them are values: a copy is as good as the original."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.copies import COPIES
from support.problems import make_case

from selflabel import Energy, Problem, solve
from selflabel.affinity import Affinity
from selflabel.solvers import SOLVERS
from selflabel.terms import BILINEAR, COUPLINGS, RELAXATIONS, Coupling, Relaxation

CONSTANTS = pytest.mark.parametrize(
    "constant", [*COUPLINGS, *RELAXATIONS], ids=lambda constant: constant.name
)


@COPIES
@CONSTANTS
def test_constants(constant: Coupling | Relaxation, copied: Callable[[Any], Any]) -> None:
    assert copied(constant) == constant
    energy = Energy(constant) if isinstance(constant, Coupling) else Energy(relaxation=constant)
    assert copied(energy) == energy
    assert copied({"energy": (energy,)}) == {"energy": (energy,)}


def _one_minus(dot: torch.Tensor, pp: torch.Tensor, qq: torch.Tensor) -> torch.Tensor:
    return 1 - dot


@COPIES
def test_relaxations_of_a_user(copied: Callable[[Any], Any]) -> None:
    """Their functions belong to a module; a name that the library uses, too, does not make them its constant."""
    own = Relaxation("bilinear", _one_minus, _one_minus, is_potts=True)
    assert copied(own) == own
    assert own != BILINEAR


@COPIES
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", ["grid4", "window", "exact", "lattice"])
def test_problems(kind: str, name: str, copied: Callable[[Any], Any]) -> None:
    """A copy of the problem has the solution of the original, bound included; so has a copy of the solver."""
    solver = SOLVERS[name]()
    if kind in ("exact", "lattice") and (solver.needs_edges or name == "gradient-descent"):
        pytest.skip("a sparse energy")
    problem = make_case(solver.default_energy, kind).problem
    other: Problem = copied(problem)
    assert other.energy == problem.energy
    assert isinstance(other.affinity, Affinity)
    assert copied(solver) == solver
    one, two = solve(problem, solver, max_steps=5), solve(other, copied(solver), max_steps=5)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.energy, two.energy)
    assert (one.bound is None) == (two.bound is None)


def test_they_show_their_names() -> None:
    assert repr(Energy()) == (
        "Energy(coupling=Coupling('standard'), relaxation=Relaxation('bilinear'), coupling_weight=1.0, "
        "pairwise_weight=1.0, entropy_weight=0.0, regularizers=())"
    )
