"""The engine that each solver has by default: the one place where defaults of labeling are set."""

from selflabel.annotators import MixtureAnnotator
from selflabel.driver import Solver
from selflabel.labeling.builders import Dense, Grid
from selflabel.labeling.engine import Engine
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker


def default_engine(solver: Solver) -> Engine:
    """The settings with which a solver labels images best, as measured; options change them one by one.

    A solver without settings of its own minimizes its default energy on the grid, or on the dense affinity if
    it does not need edges and takes no other, with the mixture's prediction.
    """
    if isinstance(solver, RandomWalker):
        return Engine(solver, solver.default_energy, Grid(), None)
    if isinstance(solver, MeanField):
        return Engine(solver, solver.default_energy, Dense(), MixtureAnnotator())
    if isinstance(solver, GraphCut | GradientDescent):
        return Engine(solver, solver.default_energy, Grid(), MixtureAnnotator())
    return Engine(solver, solver.default_energy, Grid(), MixtureAnnotator())
