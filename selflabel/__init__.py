"""From scribbles and network predictions to dense labels: one explicit energy, interchangeable solvers.

Names are imported when first used, so that the command line can show its help without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selflabel.affinity import (
        Contrast,
        Dense,
        DenseAffinity,
        EdgeStop,
        GaussianKernel,
        Grid,
        GridAffinity,
        SparseNonlocal,
        Window,
        WindowAffinity,
    )
    from selflabel.driver import Result, Solution, SolveError, Solver, Step, solve
    from selflabel.energy import Energy
    from selflabel.labeling.one import Labeled, label
    from selflabel.problem import Problem

__version__ = "0.1.0"

_HOME = {
    "Contrast": "selflabel.affinity",
    "Dense": "selflabel.affinity",
    "DenseAffinity": "selflabel.affinity",
    "GaussianKernel": "selflabel.affinity",
    "EdgeStop": "selflabel.affinity",
    "Energy": "selflabel.energy",
    "Grid": "selflabel.affinity",
    "GridAffinity": "selflabel.affinity",
    "Labeled": "selflabel.labeling.one",
    "Problem": "selflabel.problem",
    "Result": "selflabel.driver",
    "Solution": "selflabel.driver",
    "SolveError": "selflabel.driver",
    "Solver": "selflabel.driver",
    "SparseNonlocal": "selflabel.affinity",
    "Step": "selflabel.driver",
    "Window": "selflabel.affinity",
    "WindowAffinity": "selflabel.affinity",
    "label": "selflabel.labeling.one",
    "solve": "selflabel.driver",
}

__all__ = [
    "Contrast",
    "Dense",
    "DenseAffinity",
    "EdgeStop",
    "Energy",
    "GaussianKernel",
    "Grid",
    "GridAffinity",
    "Labeled",
    "Problem",
    "Result",
    "Solution",
    "SolveError",
    "Solver",
    "SparseNonlocal",
    "Step",
    "Window",
    "WindowAffinity",
    "label",
    "solve",
]


_ROOMS = ("losses", "solvers", "training")
"""Packages that are attributes, too: ``selflabel.losses`` after ``import selflabel``."""


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"selflabel.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'selflabel' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
