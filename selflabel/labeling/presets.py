"""The engine that each solver has by default: the one place where defaults of labeling are set."""

from selflabel.affinity.builders import Contrast, Dense, Grid
from selflabel.annotators import ProductAnnotator
from selflabel.driver import Solver
from selflabel.labeling.labeler import Labeler
from selflabel.problem import Energy
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    STANDARD,
)

NEIGHBORS = Grid(sigma=9.0, neighbors=8, by_distance=True)
DENSE = Dense(sigma=8.0, sigma_xy=40.0, smoothness=1.0, smoothness_xy=3.0, symmetric=True)


def default_labeler(solver: Solver) -> Labeler:
    """The settings with which a solver labels images best, as measured; options change them one by one.

    All start from the product of forest and random walk. A solver without settings of its own minimizes its
    default energy on the grid.
    """
    annotator = ProductAnnotator()
    if isinstance(solver, RandomWalker):
        energy = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.05, pairwise_weight=1.0)
        return Labeler(solver, energy, Contrast(), annotator)
    if isinstance(solver, GraphCut):
        energy = Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=2.0)
        return Labeler(solver, energy, NEIGHBORS, annotator)
    if isinstance(solver, GradientDescent):
        energy = Energy(COLLISION, COLLISION_DIVERGENCE, coupling_weight=1.0, pairwise_weight=2.0)
        return Labeler(solver, energy, NEIGHBORS, annotator, max_steps=30)  # within 1 % of convergence
    if isinstance(solver, MeanField):
        energy = Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=1.0, entropy_weight=1.0)
        return Labeler(solver, energy, DENSE, annotator, max_steps=10)
    return Labeler(solver, solver.default_energy, NEIGHBORS, annotator)
