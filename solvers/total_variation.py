"""Total variation: soft labels with a certificate, by primal-dual steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.affinity.protocol import Affinity
from selflabel.affinity.stencil import Stencil
from selflabel.driver import Step
from selflabel.energy import Energy
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kinds import check_count, check_fields
from selflabel.numerics.descent.line_search import select
from selflabel.numerics.descent.primal_dual import PrimalDual, TorchPrimalDual
from selflabel.problem import Problem
from selflabel.terms import STANDARD, TOTAL_VARIATION, Regularizer, Variation


@dataclass(frozen=True)
class TotalVariation:
    """Minimize ``η Σ_i H(y_i, σ_i) + λ TV(y)``, the convex Potts model (Mayer et al., eq. 3).

    TV is half the total variation of the classes, anisotropic or isotropic (`terms.Variation`). The energy is convex,
    so that primal-dual steps (`PrimalDual`: Chambolle & Pock 2011) reach the global minimum of soft labels, and the
    duals give `Solution.bound`. The bound holds for hard labels too, and so certifies those of graph cut: their Potts
    energy is the anisotropic one. With two classes the labels of the larger probability have the energy of the minimum
    cut; with more, a few pixels stay soft.

    - `rtol`: an image has converged when its energy is within this fraction of its bound.
    - `sweep`: primal-dual steps in a step of the solver, after which the energy and its bound are computed.

    The labels of the least energy so far are kept, as the steps are no descent. Takes the coupling "standard", or costs
    of any size, and sparse affinities. Cost: two passes over labels and pairs for each primal-dual step, compiled
    with Numba (without it, and on a GPU, some ten passes and four a pair); memory: 32 K bytes a pixel and 8 K a pair.
    """

    rtol: float = 1e-3
    sweep: int = 10

    name: ClassVar[str] = "total-variation"
    default_energy: ClassVar[Energy] = Energy(
        STANDARD, TOTAL_VARIATION, coupling_weight=1.0, pairwise_weight=8.0
    )
    default_affinity: ClassVar[AffinityBuilder] = Grid()
    needs_edges: ClassVar[bool] = True
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.rtol < inf:
            raise ValueError(f"expected rtol >= 0, got {self.rtol}")
        check_count(self.sweep, "sweep")

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` unless the coupling is linear, the relaxation a total variation, the entropy left out."""
        if energy.coupling != STANDARD:
            raise ValueError(
                f"total-variation: expected the coupling 'standard', which is linear in the labels, got "
                f"{energy.coupling.name!r}: use that, or the gradient-descent solver"
            )
        if not isinstance(energy.relaxation, Variation):
            raise ValueError(
                f"total-variation: expected the relaxation 'total-variation' or 'isotropic-total-variation', got "
                f"{energy.relaxation.name!r}: use one of these, or the gradient-descent solver"
            )
        if energy.entropy_weight:
            raise ValueError(
                f"total-variation: expected entropy_weight 0, got {energy.entropy_weight}: use that, or the "
                f"gradient-descent solver with the quadratic relaxation"
            )
        energy.relaxation.check(affinity)

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """Yield after every sweep the best labels so far, with the best bound."""
        energy = start_energy = problem.value(labels)
        search, best = _search(problem, labels), labels
        bound = torch.full_like(energy, -torch.inf)
        done = torch.zeros_like(energy, dtype=torch.bool)
        while True:
            for _ in range(self.sweep):
                search.step()
            found = search.labels
            value = problem.value(found)
            is_better = (value < energy) & ~done
            best = select(is_better, found, best)
            energy = torch.where(is_better, value, energy)
            bound = torch.where(done, bound, torch.maximum(bound, search.bound()))
            done = done | (energy - bound <= self.rtol * energy.abs())
            yield Step(best, energy, bound, done, start_energy)


def _search(problem: Problem, labels: Float[Tensor, "b k *s"]) -> PrimalDual:
    kernels = backend(Routine.PRIMAL_DUAL, labels.device, labels.dtype)
    if kernels is not Backend.CPU or not isinstance(problem.affinity, Stencil):
        return TorchPrimalDual(problem, labels)
    from selflabel.numerics.descent.compiled_primal_dual import CompiledPrimalDual

    return CompiledPrimalDual(problem, labels)
