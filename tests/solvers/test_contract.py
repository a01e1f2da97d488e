"""Every solver, on every affinity that it takes, keeps the contract."""

from dataclasses import replace

import pytest
from support.contract import CONTRACT, Check
from support.problems import DENSE, KINDS, make_case

from selflabel.driver import Solver
from selflabel.solvers import SOLVERS
from selflabel.terms import QUADRATIC_POTTS

QUICK = {(name, "grid4") for name in SOLVERS} | {("mean-field", "lattice")}
EVERY = [
    pytest.param(name, kind, marks=[pytest.mark.quick] if (name, kind) in QUICK else [])
    for name, solver in SOLVERS.items()
    for kind in KINDS
    if not (solver.needs_edges and kind in DENSE)
]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_contract(name: str, kind: str, check: Check) -> None:
    energy = SOLVERS[name].default_energy
    if kind in DENSE and not energy.relaxation.is_quadratic:
        energy = replace(energy, relaxation=QUADRATIC_POTTS)
    check(make_case(energy, kind), SOLVERS[name]())


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_frozen_and_known_by_their_protocol(name: str) -> None:
    solver = SOLVERS[name]()
    assert isinstance(solver, Solver)
    assert solver.name == name
    assert solver == SOLVERS[name]()
    assert hash(solver) == hash(SOLVERS[name]())
    with pytest.raises(AttributeError):
        solver.name = "other"  # type: ignore[misc]
