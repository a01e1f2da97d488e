"""Settings of the permutohedral lattice, and the choice between its implementations in torch and compiled."""

from dataclasses import dataclass
from functools import lru_cache
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.exact import separable
from selflabel.affinity.filters.lattice_torch import TorchLattice
from selflabel.affinity.filters.protocol import (
    Filter,
    LatticeFilter,
    check_features,
    check_features_shape,
    grid_features,
)
from selflabel.affinity.filters.split import SplitFilter
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_fields

LEAST_SIGMA_PIXELS = 1.0
"""Kernels of place alone with a smaller bandwidth are filtered exactly: a lattice has no pixels to average over."""

PIXELS_OF_A_TABLE = 600_000
"""On a GPU images share a lattice up to so many pixels, two of 513²: enough to keep it busy, in little memory."""


@dataclass(frozen=True)
class Lattice:
    """``K_ij = exp(-½ ‖f_i - f_j‖²)`` within each image, diagonal kept, on the permutohedral lattice.

    - `variance`: of the kernel, in squared steps of the lattice. Larger is finer: more accurate, more vertices.
    - `radius`: steps of the blur to each side.

    Good pairs: (0.8, 2), (1.3, 2), (1.4, 3), (3, 5). With the default, `FINE`, the error on photographs is 2 to 3 % of
    the norm of ``K x``, and the gain 0.98 to 1.02 (tests/benchmarks/lattice_accuracy.py); more where few lattice cells
    hold all pixels (flat, tiny images), as errors of cells then do not average out: use a finer lattice, or `Exact`.
    Symmetric to rounding. The images of a batch do not mix, and one image gives the same answer as alone.

    Adams, Baek and Davis 2010, with the blur, the gain and the vertices of `selflabel.affinity.filters.permutohedral`.
    Raises `ValueError` unless variance > 1/6 and radius >= 1.
    """

    variance: float = 1.3
    radius: int = 2

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 / 6 < self.variance < inf or self.radius < 1:
            raise ValueError(
                f"expected variance > 1/6 and radius >= 1, got {self.variance} and {self.radius}"
            )

    @opaque
    def build(self, features: Float[Tensor, "b n d"]) -> Filter:
        """The filter, by kernels if there are some for the features; no gradient to the features.

        features: already divided by their bandwidths; float32 or float64, values must be of the same type. Cost: a
        sort of n (d + 1) keys an image (compiled: a hashing), and lookups for the vertices of the blur; a filtering is
        O(k n d). On a GPU large images have lattices of their own (`SplitFilter`). Raises `ValueError` if features have
        no ``[b n d]`` shape, are empty, not finite, or reach over so many cells that a vertex has no 64-bit key.
        """
        check_features_shape(features)
        kernels = backend(Routine.LATTICE, features.device, features.dtype)
        if kernels is Backend.GPU:
            from selflabel.affinity.filters.lattice_gpu import TritonLattice

            images = max(1, PIXELS_OF_A_TABLE // features.shape[1])
            parts = torch.split(features.detach(), images)
            built = tuple(TritonLattice.build(part, self.variance, self.radius) for part in parts)
            return built[0] if len(built) == 1 else SplitFilter(built, images, batch=len(features))
        check_features(features)
        if kernels is Backend.CPU:
            from selflabel.affinity.filters.lattice_cpu import CompiledLattice

            return CompiledLattice.build(features.detach(), self.variance, self.radius)
        return TorchLattice.build(features.detach(), self.variance, self.radius)

    @opaque
    def build_grid(
        self, size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
    ) -> Filter:
        """The filter of place alone; `sigmas` in pixels.

        A lattice on every device, as for other features, and as accurate: mean field filters with it and that of the
        colors in one pass, where exact passes over all pixels would add a tenth to its time or more. `Exact` takes
        those, and so do bandwidths below `LEAST_SIGMA_PIXELS`.
        """
        if min(sigmas) < LEAST_SIGMA_PIXELS:
            return separable(size, sigmas, dtype, device)
        kernels = backend(Routine.LATTICE, device, dtype)
        return _lattice_of_place(self, size, sigmas, dtype, device, kernels)


FINE = Lattice()
"""Loss of dense CRFs within 1 % of exact on average, 5.5 % at worst; gradient within 4 %, 8.5 % at worst.

Of 1,488 small photographs and slices, with smooth and noisy predictions (tests/benchmarks/loss_accuracy.py).
"""

COARSE = Lattice(0.8, 1)
"""Half of the vertices or less, and blurs of one step: half the time of mean field.

Its filters lose about a tenth of their mass. Symmetric normalization (`DenseAffinity`) makes up for that, and mean
field's labels are then about as near to exact as with other implementations (tests/benchmarks/speed.py): of 177
photographs, 1.2 to 1.4 % of the pixels have another label than by brute force in the median, 15 % at worst (dusk)
(tests/benchmarks/coarse_accuracy.py).
"""


@lru_cache(maxsize=4)
def _lattice_of_place(
    lattice: Lattice,
    size: tuple[int, ...],
    sigmas: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
    kernels: Backend,
) -> Filter:
    """The same for all images of a size, so the last few are kept."""
    built = lattice.build(grid_features(size, sigmas, dtype, device))
    if kernels is Backend.CPU:
        from selflabel.affinity.filters.lattice_cpu import CompiledLattice

        assert isinstance(built, CompiledLattice)
        return built.for_any_batch()
    assert isinstance(built, LatticeFilter)
    return SplitFilter((built,), images=1, batch=None)
