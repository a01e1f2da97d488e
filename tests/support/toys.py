"""What solvers that tests make up have in common: all but their steps."""

from dataclasses import dataclass
from typing import ClassVar

from selflabel.affinity import Affinity
from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.energy import Energy
from selflabel.terms import Regularizer


@dataclass(frozen=True)
class ToySolver:
    """Takes any energy; a subclass has `iterate`."""

    name: ClassVar[str] = "toy"
    default_energy: ClassVar[Energy] = Energy()
    default_affinity: ClassVar[AffinityBuilder] = Grid()
    needs_edges: ClassVar[bool] = False
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Anything fits."""
