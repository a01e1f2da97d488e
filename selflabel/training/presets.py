"""Defaults of self-labeling: those of each method and of each solver, as far as the papers say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from selflabel.affinity.builders import AffinityBuilder, Contrast, Dense
from selflabel.driver import Solver
from selflabel.problem import Energy
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.terms import BILINEAR, COLLISION, COLLISION_DIVERGENCE, QUADRATIC, QUADRATIC_POTTS, STANDARD
from selflabel.training.self_labeling import InitialLabels, SelfLabeling


@dataclass(frozen=True)
class Method:
    """A method of self-labeling: its solver, and the error probability ε of its labels."""

    solver: Solver
    error_probability: float = 0.0


ADM = Method(GradientDescent())
TRUST_REGION = Method(GraphCut(), error_probability=0.1)


@dataclass(frozen=True)
class Preset:
    """What self-labeling with a solver minimizes, and where its solves start and end."""

    energy: Energy
    affinity: AffinityBuilder = SelfLabeling.affinity
    max_steps: int = SelfLabeling.max_steps
    starter: InitialLabels | None = SelfLabeling.starter


SOFT = Energy(COLLISION, COLLISION_DIVERGENCE, coupling_weight=0.3, pairwise_weight=6.0)
"""η and λ of the best results of Zhang & Boykov 2025 (section 3)."""

PRESETS: Mapping[type[Solver], Preset] = {
    GradientDescent: Preset(SOFT),
    GraphCut: Preset(replace(SOFT, coupling=STANDARD, relaxation=BILINEAR)),
    MeanField: Preset(Energy(STANDARD, BILINEAR, entropy_weight=1.0), Dense(), max_steps=10),
    RandomWalker: Preset(  # one minimum, wherever it starts
        Energy(QUADRATIC, QUADRATIC_POTTS, 0.05, 1.0), Contrast(), max_steps=200, starter=None
    ),
}


def preset(solver: Solver) -> Preset:
    """The preset of a solver; one that is not in the table minimizes its default energy."""
    found = PRESETS.get(type(solver))
    return Preset(solver.default_energy) if found is None else found


def starter(solver: Solver) -> InitialLabels:
    """The solver as a starter, with the affinity that it is at its best with."""
    return InitialLabels(solver, Dense() if isinstance(solver, MeanField) else Contrast())
