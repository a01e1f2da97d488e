"""Defaults of self-labeling, as far as the papers say: one objective per method and per solver."""

from dataclasses import replace

from selflabel.affinity.builders import Contrast, Dense
from selflabel.driver import Solver, check_solver
from selflabel.energy import Energy
from selflabel.solvers import GradientDescent, GraphCut, KernelCut, MeanField, RandomWalker
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    STANDARD,
    NormalizedCut,
)
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.starters import InitialLabels

ETA, LAMBDA = 0.3, 6.0
"""Weights of the best results of Zhang & Boykov 2025 (section 3)."""

SOFT = SelfLabeling(Energy(COLLISION, COLLISION_DIVERGENCE, ETA, LAMBDA), GradientDescent())
HARD = SelfLabeling(Energy(STANDARD, BILINEAR, ETA, LAMBDA), GraphCut())
FIELD = SelfLabeling(Energy(STANDARD, BILINEAR, entropy_weight=1.0), MeanField(), Dense(), max_steps=10)
WALK = SelfLabeling(  # no starter: there is one minimum
    Energy(QUADRATIC, QUADRATIC_POTTS, 0.05, 1.0), RandomWalker(), Contrast(), max_steps=200, starter=None
)
CLUSTERS = SelfLabeling(
    replace(HARD.energy, regularizers=(NormalizedCut(0.03, per_pixel=True),)),
    KernelCut(),
    affinities=KernelCut.default_affinities,
)
PRESETS = (SOFT, HARD, FIELD, WALK, CLUSTERS)

ADM = SOFT
TRUST_REGION = replace(HARD, error_probability=0.1)


def default_objective(solver: Solver) -> SelfLabeling:
    """The preset of the solver's class with this solver; without one, the solver's own defaults."""
    check_solver(solver)
    for preset in PRESETS:
        if isinstance(solver, type(preset.solver)):
            return replace(preset, solver=solver)
    return SelfLabeling(solver.default_energy, solver, solver.default_affinity)


def default_starter(solver: Solver) -> InitialLabels:
    """The solver as a starter, with the affinity that suits it."""
    check_solver(solver)
    own = solver.default_affinity
    return InitialLabels(solver, own if isinstance(own, Dense) else Contrast())
