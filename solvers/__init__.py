"""The solvers: one file a method, one protocol (`selflabel.driver.Solver`) for all.

To add one: write its file, import it here and add it to the tuple; the contract tests, `selflabel solvers`
and `--solver` then know it.
"""

# First of all: without this, `import solvers` from a checkout gives a second copy of every class.
if __name__ != "selflabel.solvers":
    raise ImportError("import selflabel.solvers: this folder is installed under that name")

from selflabel.driver import Solver
from selflabel.solvers.frank_wolfe import FrankWolfe
from selflabel.solvers.gradient_descent import GradientDescent
from selflabel.solvers.graph_cut import GraphCut
from selflabel.solvers.kernel_cut import KernelCut
from selflabel.solvers.mean_field import MeanField
from selflabel.solvers.random_walker import RandomWalker
from selflabel.solvers.total_variation import TotalVariation

_ALL: tuple[type[Solver], ...] = (
    FrankWolfe,
    GradientDescent,
    GraphCut,
    KernelCut,
    MeanField,
    RandomWalker,
    TotalVariation,
)
SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in _ALL}

__all__ = [
    "SOLVERS",
    "FrankWolfe",
    "GradientDescent",
    "GraphCut",
    "KernelCut",
    "MeanField",
    "RandomWalker",
    "TotalVariation",
]
