"""Builders of affinities: frozen settings that make the affinity of an image."""

from dataclasses import dataclass
from math import inf
from typing import Protocol, runtime_checkable

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.lattice import COARSE, FINE
from selflabel.affinity.gaussian import GaussianKernel
from selflabel.affinity.grid import GridAffinity
from selflabel.affinity.image import ImageLike, as_image
from selflabel.affinity.protocol import Affinity
from selflabel.affinity.sparse_nonlocal import SparseNonlocalAffinity
from selflabel.affinity.stencil import check_positive
from selflabel.affinity.window import WindowAffinity
from selflabel.kinds import check_count, check_fields, check_number


@runtime_checkable
class AffinityBuilder(Protocol):
    """Makes the affinity of a batch of images; a frozen dataclass of its settings."""

    def __call__(self, image: ImageLike) -> Affinity:
        """The affinity of the image."""


@dataclass(frozen=True)
class Grid:
    """Nearest neighbors weighted by contrast (`GridAffinity`).

    sigma: color bandwidth in 0..255 units. neighbors: 4 or 8, in volumes 6 or 26 (which 4 and 8 mean there, too); None:
    4 or 6.
    """

    sigma: float = 9.0
    neighbors: int | None = None
    by_distance: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive("sigma", self.sigma)
        _check_neighbors(self.neighbors)

    def __call__(self, image: ImageLike) -> Affinity:
        """The grid affinity of the image."""
        neighbors = _in_space(self.neighbors, len(image.shape) - 2)
        return GridAffinity.from_image(image, self.sigma, neighbors, by_distance=self.by_distance)


@dataclass(frozen=True)
class Window:
    """All neighbors within a radius, one Gaussian kernel (`WindowAffinity`).

    sigma: color bandwidth in 0..255 units; sigma_xy: spatial bandwidth in pixels.
    """

    sigma: float = 15.0
    sigma_xy: float = 6.0
    radius: int = 5

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("sigma", "sigma_xy", "radius"):
            check_positive(name, getattr(self, name))

    def __call__(self, image: ImageLike) -> Affinity:
        """The window affinity of the image."""
        return WindowAffinity.from_image(
            image, self.radius, (GaussianKernel(1.0, self.sigma_xy, self.sigma),)
        )


@dataclass(frozen=True)
class Contrast:
    """Nearest neighbors weighted by contrast relative to the image's, in Lab color.

    `GridAffinity.from_contrast` of the image blurred by `blur` pixels.
    """

    strength: float = 7.0
    blur: float = 0.7
    neighbors: int | None = 8
    by_distance: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive("strength", self.strength)
        _check_weight("blur", self.blur)
        _check_neighbors(self.neighbors)

    def __call__(self, image: ImageLike) -> Affinity:
        """The contrast affinity of the image."""
        features = as_image(image).lab(self.blur)
        neighbors = _in_space(self.neighbors, len(image.shape) - 2)
        return GridAffinity.from_contrast(features, self.strength, neighbors, by_distance=self.by_distance)


@dataclass(frozen=True)
class EdgeStop:
    """Nearest neighbors along the axes, weighted by the image's gradient (`GridAffinity.from_gradient`).

    strength: by 1 / 0..255 units. For total variation; published with 0.01.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        check_positive("strength", self.strength)

    def __call__(self, image: ImageLike) -> Affinity:
        """The edge-stop affinity of the image."""
        return GridAffinity.from_gradient(as_image(image).colors, self.strength)


@dataclass(frozen=True)
class SparseNonlocal:
    """Nearest neighbors and far ones drawn at random (`SparseNonlocalAffinity`).

    sigma: color bandwidth in 0..255 units; sigma_xy: spatial bandwidth in pixels. samples: far neighbors in each of two
    opposite directions, drawn by random_state. neighbors: as of `Grid`.
    """

    sigma: float = 15.0
    sigma_xy: float = 40.0
    samples: int = 16
    neighbors: int | None = None
    random_state: int = 0
    symmetric: bool = True

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)
        check_positive("sigma_xy", self.sigma_xy)
        check_count(self.samples, "samples")
        check_count(self.random_state, "random_state", 0)
        _check_neighbors(self.neighbors)
        check_fields(self)

    def __call__(self, image: ImageLike) -> Affinity:
        """The sparse non-local affinity of the image."""
        neighbors = _in_space(self.neighbors, len(image.shape) - 2)
        return SparseNonlocalAffinity.from_image(
            image, self.sigma, self.sigma_xy, self.samples, neighbors, self.random_state, self.symmetric
        )


@dataclass(frozen=True)
class Dense:
    """Every pair of pixels, Gaussian in place and color (`DenseAffinity`).

    sigma: color bandwidth in 0..255 units; sigma_xy: spatial bandwidth in pixels. smoothness: weight of a
    second kernel of place alone, of bandwidth smoothness_xy; 0 leaves it out. symmetric: normalized on both
    sides. coarse: on the lattice `COARSE`, which is for symmetric ones.
    """

    sigma: float = 15.0
    sigma_xy: float = 100.0
    smoothness: float = 0.0
    smoothness_xy: float = 2.0
    symmetric: bool = False
    coarse: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.coarse and not self.symmetric:
            raise ValueError(
                "a coarse lattice loses a tenth of the mass: expected symmetric as well, or not coarse"
            )
        for name in ("sigma", "sigma_xy", "smoothness_xy"):
            check_positive(name, getattr(self, name))
        _check_weight("smoothness", self.smoothness)

    def __call__(self, image: ImageLike) -> Affinity:
        """The dense affinity of the image, by the permutohedral lattice."""
        kernels: tuple[GaussianKernel, ...] = (GaussianKernel(1.0, self.sigma_xy, self.sigma),)
        if self.smoothness > 0:
            kernels += (GaussianKernel(self.smoothness, self.smoothness_xy, None),)
        filtering = COARSE if self.coarse else FINE
        return DenseAffinity.from_image(image, kernels, filtering=filtering, symmetric=self.symmetric)


def _check_weight(name: str, value: float) -> None:
    check_number(value, name)
    if not 0 <= value < inf:
        raise ValueError(f"expected a finite {name} >= 0, got {value}")


def _in_space(neighbors: int | None, axes: int) -> int | None:
    """In 3-D, 4 (across edges) means 6 (across faces), and 8 (all) means 26."""
    return {4: 6, 8: 26}.get(neighbors, neighbors) if axes == 3 and neighbors is not None else neighbors


def _check_neighbors(neighbors: int | None) -> None:
    if neighbors not in (None, 4, 8, 6, 26):
        raise ValueError(f"expected 4 or 8 neighbors (6 or 26 in 3-D), got {neighbors}")
