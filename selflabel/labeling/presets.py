"""The settings with which each solver labels images best, as measured: the one place where labeling has defaults."""

from dataclasses import replace

from selflabel.affinity.builders import AffinityBuilder, Contrast, Dense, Grid
from selflabel.annotators import ProductAnnotator
from selflabel.driver import Solver, check_solver
from selflabel.energy import Energy
from selflabel.kinds import check_kind
from selflabel.labeling.labeler import Labeler
from selflabel.solvers import (
    FrankWolfe,
    GradientDescent,
    GraphCut,
    KernelCut,
    MeanField,
    RandomWalker,
    TotalVariation,
)
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    STANDARD,
    TOTAL_VARIATION,
    NormalizedCut,
)

NEIGHBORS = Grid(sigma=9.0, neighbors=8, by_distance=True)
DENSE = Dense(sigma=8.0, sigma_xy=40.0, smoothness=1.0, smoothness_xy=3.0, symmetric=True)
ANNOTATOR = ProductAnnotator()

PRESETS: tuple[Labeler, ...] = (
    Labeler(
        RandomWalker(),
        Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.05, pairwise_weight=1.0),
        Contrast(),
        ANNOTATOR,
    ),
    Labeler(
        GraphCut(),
        Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=2.0),
        NEIGHBORS,
        ANNOTATOR,
    ),
    Labeler(
        GradientDescent(),
        Energy(COLLISION, COLLISION_DIVERGENCE, coupling_weight=1.0, pairwise_weight=2.0),
        NEIGHBORS,
        ANNOTATOR,
        max_steps=30,  # within 1 % of convergence
    ),
    Labeler(
        MeanField(),
        Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=1.0, entropy_weight=1.0),
        DENSE,
        ANNOTATOR,
        max_steps=10,
    ),
    Labeler(
        FrankWolfe(),
        Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=1.0),
        DENSE,
        ANNOTATOR,
        max_steps=20,
    ),
    Labeler(
        TotalVariation(),
        Energy(STANDARD, TOTAL_VARIATION, coupling_weight=1.0, pairwise_weight=2.0),
        NEIGHBORS,
        ANNOTATOR,
        max_steps=20,
    ),
    Labeler(
        KernelCut(),
        Energy(
            STANDARD,
            BILINEAR,
            coupling_weight=1.0,
            pairwise_weight=2.0,
            regularizers=(NormalizedCut(0.03, per_pixel=True),),
        ),
        NEIGHBORS,
        ANNOTATOR,
        max_steps=20,
        affinities=KernelCut.default_affinities,
    ),
)
"""One labeler a solver, for scribbles; options change its parts one by one."""

CLOSE_NEIGHBORS = replace(NEIGHBORS, sigma=5.0)


def _for_predictions(preset: Labeler, affinity: AffinityBuilder, *, pairwise_weight: float) -> Labeler:
    energy = replace(preset.energy, coupling_weight=1.0, pairwise_weight=pairwise_weight)
    return replace(preset, energy=energy, affinity=affinity, annotator=None)


_WALKER, _CUT, _DESCENT, _FIELD, _WOLFE, _VARIATION, _KERNEL = PRESETS

PREDICTED: tuple[Labeler, ...] = (
    _for_predictions(_WALKER, Contrast(), pairwise_weight=1.0),
    _for_predictions(_CUT, CLOSE_NEIGHBORS, pairwise_weight=0.1),
    _for_predictions(_DESCENT, CLOSE_NEIGHBORS, pairwise_weight=0.1),
    _for_predictions(_FIELD, replace(DENSE, sigma=10.0), pairwise_weight=0.05),
    _for_predictions(_WOLFE, replace(DENSE, sigma=10.0), pairwise_weight=0.05),
    _for_predictions(_VARIATION, CLOSE_NEIGHBORS, pairwise_weight=0.1),
    _for_predictions(
        replace(
            _KERNEL, energy=replace(_KERNEL.energy, regularizers=(NormalizedCut(0.003, per_pixel=True),))
        ),
        CLOSE_NEIGHBORS,
        pairwise_weight=0.1,
    ),
)
"""The same for predictions of networks: a network has seen what objects look like, and pairs of pixels as strong as
annotators need them take thin and small objects away. Weak, so that good ones lose next to nothing; worse ones gain by
stronger pairs, which options ask for (docs/benchmarks.md, tests/benchmarks/predictions.py)."""


def default_labeler(solver: Solver, *, predicted: bool = False) -> Labeler:
    """The preset of the solver's class with this solver; without one, the solver's own defaults.

    predicted: for predictions that are given, so without an annotator.
    """
    check_solver(solver)
    check_kind(predicted, bool, "predicted as True or False", "one of both")
    for preset in (*PREDICTED, *PRESETS) if predicted else PRESETS:
        if isinstance(solver, type(preset.solver)):
            return replace(preset, solver=solver, annotator=None if predicted else preset.annotator)
    annotator = None if predicted else ANNOTATOR
    return Labeler(solver, solver.default_energy, solver.default_affinity, annotator)
