"""The losses of `--method gd` by name, each still to be built with its affinity."""

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from selflabel.affinity.builders import AffinityBuilder, Dense, Grid, Window
from selflabel.affinity.gaussian import GaussianKernel
from selflabel.losses import (
    ConstrainToBoundaryLoss,
    DenseCRFLoss,
    EntropyLoss,
    ExpansionLoss,
    GatedCRFLoss,
    KernelCutLoss,
    KMeansLoss,
    Loss,
    NonExistLoss,
    NormalizedCutLoss,
    PottsLoss,
)
from selflabel.losses.image_tags import CRF
from selflabel.terms import Relaxation, Variation, check_relaxation


class Part(enum.Enum):
    """Which part of an `Energy` a loss is."""

    PAIRWISE = "Potts"
    ENTROPY = "the standard coupling, at labels that are the prediction"


class LossKind(ABC):
    """A loss still to be built: a frozen dataclass of its own options.

    name: as on the command line. factor: on its weight, where none is given. pairwise: its weight is λ
    (``--pairwise-weight``), else η. affinity: the default one; None for losses without. any_affinity: others of another
    kind fit, too. relaxed: it takes a relaxation. part: None if it is no energy's.
    """

    name: ClassVar[str]
    factor: ClassVar[float] = 1.0
    pairwise: ClassVar[bool] = False
    affinity: ClassVar[AffinityBuilder | None] = None
    any_affinity: ClassVar[bool] = True
    relaxed: ClassVar[bool] = False
    part: ClassVar[Part | None] = None

    @abstractmethod
    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """The loss; those without an affinity look at neither. Raises `ValueError` for what does not fit."""

    def orders(self, affinity: AffinityBuilder) -> int:
        """How often it counts a pair that the energy with this affinity counts once."""
        return 1


@dataclass(frozen=True)
class Potts(LossKind):
    """The Potts relaxation of the prediction."""

    name: ClassVar[str] = "potts"
    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Grid()
    relaxed: ClassVar[bool] = True
    part: ClassVar[Part | None] = Part.PAIRWISE

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """With any affinity, and any relaxation that it takes: tried on an image of 4 x 4 pixels."""
        check_relaxation(relaxation, affinity(torch.full((1, 3, 4, 4), 0.5)))
        return PottsLoss(affinity, relaxation)


@dataclass(frozen=True)
class DenseCRF(LossKind):
    """The dense CRF loss (Tang et al. 2018)."""

    name: ClassVar[str] = "dense-crf"
    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Dense()
    part: ClassVar[Part | None] = Part.PAIRWISE

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """With any affinity, always bi-linear."""
        return DenseCRFLoss(affinity)

    def orders(self, affinity: AffinityBuilder) -> int:
        """Both orders of each pair, which an energy counts with dense affinities only."""
        return 1 if isinstance(affinity, Dense) else 2


@dataclass(frozen=True)
class NormalizedCutKind(LossKind):
    """The normalized cut loss, seeds clamped."""

    name: ClassVar[str] = "normalized-cut"
    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Dense()

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """With any affinity."""
        return NormalizedCutLoss(affinity)


@dataclass(frozen=True)
class KernelCutKind(LossKind):
    """Dense CRF and `gamma` times normalized cut."""

    name: ClassVar[str] = "kernel-cut"
    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Dense()

    gamma: float = 1.0

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """With any affinity."""
        return KernelCutLoss(affinity, self.gamma)


@dataclass(frozen=True)
class GatedCRF(LossKind):
    """The gated CRF loss; `unlabeled_only`: pixels with a seed are no destinations."""

    name: ClassVar[str] = "gated-crf"
    pairwise: ClassVar[bool] = True
    affinity: ClassVar[AffinityBuilder | None] = Window()
    any_affinity: ClassVar[bool] = False

    unlabeled_only: bool = False

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """With the kernel of a window."""
        assert isinstance(affinity, Window), "any_affinity is False"
        kernel = GaussianKernel(1.0, affinity.sigma_xy, affinity.sigma)
        return GatedCRFLoss(affinity.radius, (kernel,), unlabeled_only=self.unlabeled_only)


@dataclass(frozen=True)
class Entropy(LossKind):
    """Shannon's entropy of the prediction where there is no seed."""

    name: ClassVar[str] = "entropy"
    part: ClassVar[Part | None] = Part.ENTROPY

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """No settings."""
        return EntropyLoss()


@dataclass(frozen=True)
class NonExist(LossKind):
    """Classes without seeds in an image are not there."""

    name: ClassVar[str] = "non-exist"

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """No settings."""
        return NonExistLoss()


@dataclass(frozen=True)
class KMeans(LossKind):
    """Every class has one color; in squared 0..255 units, so its factor is 1e-4 where none is given: `kmeans=1e-4`."""

    name: ClassVar[str] = "kmeans"
    factor: ClassVar[float] = 1e-4

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """No settings."""
        return KMeansLoss()


@dataclass(frozen=True)
class Expansion(LossKind):
    """Classes with seeds in an image cover a part of it, others are nowhere; `background`: its class, or none."""

    name: ClassVar[str] = "expansion"

    background: int | None = 0

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """No affinity."""
        return ExpansionLoss(self.background)


@dataclass(frozen=True)
class ConstrainToBoundary(LossKind):
    """The prediction is like its own mean field after some `iterations`."""

    name: ClassVar[str] = "constrain-to-boundary"
    affinity: ClassVar[AffinityBuilder | None] = CRF

    iterations: int = 10

    def build(self, affinity: AffinityBuilder, relaxation: Relaxation | Variation) -> Loss:
        """With any affinity."""
        return ConstrainToBoundaryLoss(affinity, self.iterations)


_ALL: tuple[type[LossKind], ...] = (
    Potts,
    DenseCRF,
    NormalizedCutKind,
    KernelCutKind,
    GatedCRF,
    Entropy,
    NonExist,
    KMeans,
    Expansion,
    ConstrainToBoundary,
)
LOSSES: dict[str, type[LossKind]] = {kind.name: kind for kind in _ALL}
