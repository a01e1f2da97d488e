"""Problems for tests: every kind of affinity, in two and three dimensions, and explicit formulas for them.

The formulas are written from the papers, with the full matrix W, and share no code with the library.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from selflabel.affinity import (
    Affinity,
    DenseAffinity,
    Exact,
    GaussianKernel,
    GridAffinity,
    SparseAffinity,
    WindowAffinity,
)
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.problem import Problem

Build = Callable[[Tensor], Affinity]

APPEARANCE = GaussianKernel(0.06, sigma_xy=3.0, sigma_rgb=40.0)
SMOOTHNESS = GaussianKernel(0.04, sigma_xy=1.3, sigma_rgb=None)
KERNELS = (GaussianKernel(0.7, sigma_xy=1.4, sigma_rgb=35.0), GaussianKernel(0.2, None, 60.0))


def gates(image: Tensor) -> tuple[Tensor, Tensor]:
    """A source and a destination gate, different from each other, with zeros."""
    first, last = image[:, :1], image[:, -1:]
    return torch.where(first < 0.3, 0.0, 1 - first).to(image), torch.where(last > 0.7, 0.0, last).to(image)


def _gated(image: Tensor) -> Affinity:
    source, destination = gates(image)
    return WindowAffinity.from_image(image, 2, KERNELS, source=source, destination=destination)


KINDS: dict[str, tuple[int, Build]] = {
    "grid4": (2, lambda image: GridAffinity.from_image(image, 30.0)),
    "grid8": (
        2,
        lambda image: GridAffinity.from_image(image, 30.0, 8, by_distance=True, spacing=(1.5, 0.8)),
    ),
    "window": (2, lambda image: WindowAffinity.from_image(image, 2, KERNELS, spacing=(1.3, 0.9))),
    "gated": (2, _gated),
    "lattice": (2, lambda image: DenseAffinity.from_image(image, (APPEARANCE,))),
    "exact": (
        2,
        lambda image: DenseAffinity.from_image(image, (APPEARANCE, SMOOTHNESS), filtering=Exact()),
    ),
    "grid6": (3, lambda image: GridAffinity.from_image(image, 30.0)),
    "grid26": (
        3,
        lambda image: GridAffinity.from_image(image, 30.0, 26, by_distance=True, spacing=(2.5, 1.0, 0.8)),
    ),
    "window-3d": (3, lambda image: WindowAffinity.from_image(image, 1, KERNELS, spacing=(2.0, 1.0, 0.9))),
    "lattice-3d": (
        3,
        lambda image: DenseAffinity.from_image(image, (APPEARANCE, SMOOTHNESS), spacing=(2.0, 1.0, 0.9)),
    ),
    "exact-3d": (
        3,
        lambda image: DenseAffinity.from_image(
            image, (APPEARANCE,), filtering=Exact(), symmetric=True, spacing=(2.0, 1.0, 0.9)
        ),
    ),
}
"""Name to number of spatial axes and a builder from images ``[b c *s]`` in [0, 1]."""

DENSE = tuple(kind for kind in KINDS if kind.startswith(("lattice", "exact")))
SPARSE = tuple(kind for kind in KINDS if kind not in DENSE)
SIZES = {2: (5, 6), 3: (3, 4, 3)}


@dataclass(frozen=True)
class Case:
    """The parts of a problem: a test replaces one and makes the problem anew."""

    energy: Energy
    kind: str
    image: Tensor
    probs: Tensor
    seeds: Tensor
    classes: Tensor | None = None

    @cached_property
    def affinity(self) -> Affinity:
        return KINDS[self.kind][1](self.image)

    @cached_property
    def problem(self) -> Problem:
        return Problem(self.energy, self.probs, self.seeds, self.affinity, self.classes)

    def alone(self, number: int) -> "Case":
        """One image of the batch."""
        one = slice(number, number + 1)
        classes = None if self.classes is None else self.classes[one]
        return Case(self.energy, self.kind, self.image[one], self.probs[one], self.seeds[one], classes)

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, image=self.image.to(dtype), probs=self.probs.to(dtype))


def make_case(
    energy: Energy,
    kind: str,
    *,
    size: tuple[int, ...] | None = None,
    classes: int = 3,
    batch: int = 2,
    seeded: float = 0.15,
    spread: float = 1.0,
    drawn: int = 83_417,
) -> Case:
    """Noisy images of a few regions, predictions that follow them loosely, and scattered seeds."""
    rng = np.random.default_rng(drawn)
    size = SIZES[KINDS[kind][0]] if size is None else size
    truth = np.stack([_regions(rng, size, classes) for _ in range(batch)])
    colors = rng.random((batch, classes, 3))
    image = np.stack([colors[b][truth[b]] for b in range(batch)]) + rng.normal(0, 0.08, (batch, *size, 3))
    logits = spread * (rng.normal(0, 1, (batch, *size, classes)) + 1.2 * np.eye(classes)[truth])
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    seeds = np.where(rng.random((batch, *size)) < seeded, truth, UNLABELED)
    return Case(
        energy,
        kind,
        torch.from_numpy(np.moveaxis(image.clip(0, 1), -1, 1)).float().contiguous(),
        torch.from_numpy(np.moveaxis(probs, -1, 1)).float().contiguous(),
        torch.from_numpy(seeds),
    )


def _regions(rng: np.random.Generator, size: tuple[int, ...], classes: int) -> np.ndarray:
    """The nearest of a few random sites."""
    places = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
    sites = rng.random((classes + 2, len(size))) * np.array(size)
    nearest = ((places[..., None, :] - sites) ** 2).sum(-1).argmin(-1)
    return np.asarray(rng.permutation(np.arange(classes + 2) % classes)[nearest])


def make_problem(energy: Energy, kind: str, **options: object) -> Problem:
    """The problem of `make_case`."""
    return make_case(energy, kind, **options).problem  # type: ignore[arg-type]


def random_labels(like: Tensor, drawn: int = 40_127) -> Tensor:
    """Labels in the interior of the simplex."""
    generator = torch.Generator().manual_seed(drawn)
    return (1.5 * torch.randn(like.shape, generator=generator, dtype=torch.float64)).softmax(1).to(like)


# --- explicit formulas --------------------------------------------------------------------------------------


def explicit_coupling(name: str, y: Tensor, sigma: Tensor) -> Tensor:
    """``H(y, σ)`` over the axis 1 (Zhang & Boykov 2025, Table 2)."""
    if name == "standard":
        return -(y * sigma.log()).sum(1)
    if name == "reverse":
        return -(sigma * y.log()).sum(1)
    if name == "collision":
        return -(sigma * y).sum(1).log()
    assert name == "quadratic"
    return (y - sigma).square().sum(1)


def explicit_relaxation(name: str, p: Tensor, q: Tensor) -> Tensor:
    """``P(p, q)`` over the axis 1 (Zhang & Boykov 2025, Table 1)."""
    cosine: Tensor = (p * q).sum(1) / (p.square().sum(1) * q.square().sum(1)).sqrt()
    if name == "bilinear":
        return 1 - (p * q).sum(1)
    if name == "quadratic":
        return (p - q).square().sum(1) / 2
    if name == "normalized-quadratic":
        return 1 - cosine
    if name == "collision-cross-entropy":
        return -(p * q).sum(1).log()
    if name == "log-quadratic":
        return -(1 - (1 - 1e-6) * (p - q).square().sum(1) / 2).log()
    if name == "total-variation":
        return (p - q).abs().sum(1) / 2
    assert name == "collision-divergence"
    return -cosine.log()


def explicit_potts(labels: Tensor, affinity: Affinity, name: str) -> Tensor:
    """``Σ W_ij P(y_i, y_j)`` from the full matrix: unordered pairs of a sparse W, all of a dense one."""
    y, matrix = labels.flatten(2), affinity.as_matrix().to(labels.dtype)
    if isinstance(affinity, SparseAffinity):
        matrix = matrix.triu(1)
    n = y.shape[2]
    p, q = y[..., :, None].expand(-1, -1, n, n), y[..., None, :].expand(-1, -1, n, n)
    return (matrix * explicit_relaxation(name, p, q)).sum((1, 2))


def explicit_energy(problem: Problem, labels: Tensor) -> Tensor:
    """The energy of each image."""
    energy, free = problem.energy, problem.seeds == UNLABELED
    sigma = problem.probs.to(labels.dtype)
    unary = energy.coupling_weight * explicit_coupling(energy.coupling.name, labels, sigma)
    unary = unary + energy.entropy_weight * (labels * labels.log()).sum(1)
    pairs = explicit_potts(labels, problem.affinity, energy.relaxation.name)
    return torch.where(free, unary, 0.0).flatten(1).sum(1) + energy.pairwise_weight * pairs


class Dense:
    """An affinity of one image of 2 x 2 pixels without a list of pairs."""

    shape = (1, 2, 2)

    def apply(self, labels: Tensor) -> Tensor:
        return labels

    def degree(self) -> Tensor:
        return torch.ones(1, 1, 2, 2)

    def as_matrix(self) -> Tensor:
        return torch.eye(4)[None]
