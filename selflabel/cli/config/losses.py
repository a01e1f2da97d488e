"""The losses of `--method gd` by name, each still to be built with its affinity."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from selflabel.affinity.builders import AffinityBuilder, Dense, Grid, Window
from selflabel.affinity.gaussian import GaussianKernel
from selflabel.cli.config import registry as names
from selflabel.losses import (
    DenseCRFLoss,
    EntropyLoss,
    GatedCRFLoss,
    KernelCutLoss,
    KMeansLoss,
    Loss,
    NonExistLoss,
    NormalizedCutLoss,
    PottsLoss,
)
from selflabel.terms import Relaxation


@runtime_checkable
class LossKind(Protocol):
    """A loss still to be built: a frozen dataclass of its own options."""

    pairwise: ClassVar[bool]
    """Whether its weight is λ (``--pairwise-weight``); η, that of the prediction's entropy, otherwise."""
    affinity: ClassVar[AffinityBuilder | None]
    """What it takes where nothing else is asked for; None if it takes none."""

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """The loss; without an affinity of its own, it looks at neither."""


@dataclass(frozen=True)
class Potts:
    """The Potts relaxation of the prediction."""

    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Grid()

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """With any affinity and relaxation."""
        return PottsLoss(affinity, relaxation)


@dataclass(frozen=True)
class DenseCRF:
    """The dense CRF loss (Tang et al. 2018)."""

    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Dense()

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """With any affinity, always bi-linear."""
        return DenseCRFLoss(affinity)


@dataclass(frozen=True)
class NormalizedCut:
    """The normalized cut loss, seeds clamped."""

    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Dense()

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """With any affinity."""
        return NormalizedCutLoss(affinity)


@dataclass(frozen=True)
class KernelCut:
    """Dense CRF and `gamma` times normalized cut."""

    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Dense()

    gamma: float = 1.0

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """With any affinity."""
        return KernelCutLoss(affinity, self.gamma)


@dataclass(frozen=True)
class GatedCRF:
    """The gated CRF loss; `unlabeled_only`: pixels with a seed are no destinations."""

    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Window()

    unlabeled_only: bool = False

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """With the kernel of a window. Raises `ValueError` for other affinities."""
        if not isinstance(affinity, Window):
            raise ValueError(f"gated-crf takes a window affinity, got {names.name_of(affinity)}")
        kernel = GaussianKernel(1.0, affinity.sigma_xy, affinity.sigma)
        return GatedCRFLoss(affinity.radius, (kernel,), unlabeled_only=self.unlabeled_only)


@dataclass(frozen=True)
class Entropy:
    """Shannon's entropy of the prediction where there is no seed."""

    pairwise: ClassVar[bool] = False
    affinity: ClassVar[AffinityBuilder | None] = None

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """No settings."""
        return EntropyLoss()


@dataclass(frozen=True)
class NonExist:
    """Classes without seeds in an image are not there."""

    pairwise: ClassVar[bool] = False
    affinity: ClassVar[AffinityBuilder | None] = None

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """No settings."""
        return NonExistLoss()


@dataclass(frozen=True)
class KMeans:
    """Every class has one color."""

    pairwise: ClassVar[bool] = False
    affinity: ClassVar[AffinityBuilder | None] = None

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation) -> Loss:
        """No settings."""
        return KMeansLoss()


LOSSES: dict[str, type[LossKind]] = {
    "potts": Potts,
    "dense-crf": DenseCRF,
    "normalized-cut": NormalizedCut,
    "kernel-cut": KernelCut,
    "gated-crf": GatedCRF,
    "entropy": Entropy,
    "non-exist": NonExist,
    "kmeans": KMeans,
}
