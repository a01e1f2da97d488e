"""Gaussian filtering in time linear in the number of pixels: the permutohedral lattice.

The lattice is written as Z^d. Take the d + 1 vectors e_1, ..., e_d and -(1, ..., 1), which sum to zero.
Under the linear map t = A f with A A' = v (I + 11'), they are the shortest vectors of the permutohedral
lattice A*_d, its simplices are those of the Kuhn triangulation (sort the fractional parts of t), and a
Gaussian of unit covariance in f has variance v along each of the d + 1 vectors.

    W = g A S B_1 B_2 ... B_{d+1} S' A

* S, barycentric interpolation, spreads a pixel over the d + 1 vertices of its simplex. It is the box spline
  of the d + 1 vectors: along each of them it has the Fourier transform sinc(w / 2).
* B_j blurs along the j-th vector. Two interpolations and the blur must make a Gaussian, so the blur is the
  Gaussian divided by sinc^2 ("taps" below), and not a binomial: this is what makes the shape right.
* g = (2 pi v)^(d/2) sqrt(d + 1), the integral of exp(-r^2 / 2) over the volume of a cell: the gain.
* A, diagonal, is close to 1. Interpolation is sharp at a vertex and blunt in the middle of a simplex, so the
  kernel depends on where a pixel lies in its simplex ("evenness" below).

The blur visits vertices without pixels on the way between vertices with pixels. They are all created, so
that no mass is lost: the product of the B_j, between vertices with pixels, is complete, and symmetric for
this reason.

Adams, Baek and Davis, Fast high-dimensional filtering using the permutohedral lattice, Eurographics 2010.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.lattice_torch import Gather, blurs
from selflabel.affinity.filters.permutohedral import evenness, gain, numbering, taps, total
from selflabel.affinity.filters.protocol import Filter, check_features, check_values
from selflabel.kernels.backend import Backend, Routine, backend

VARIANCE, RADIUS = 1.3, 2
"""Loss and gradient of dense CRFs are within 3 % of exact with these, at the least vertices and steps."""


@dataclass(frozen=True)
class Lattice:
    """K_ij = exp(-||f_i - f_j||^2 / 2) within each image, diagonal kept, approximated on the permutohedral
    lattice.

    On photographs the error is 2 to 3 % of the norm of K x, and the gain 0.98 to 1.02
    (tests/benchmarks/lattice_accuracy.py); more where few lattice cells hold all pixels (flat, tiny images),
    as errors of cells then do not average out: use a finer lattice, or the exact filter.
    Symmetric to rounding. The images of a batch do not mix, and one image gives the same answer as alone.
    Adams, Baek and Davis 2010, with the blur, the gain and the vertices of the module's docstring.
    """

    batch: int
    pixels: int
    splat: Gather
    blurs: tuple[Gather, ...]
    slice: Gather

    @classmethod
    def build(
        cls, features: Float[Tensor, "b n d"], *, variance: float = VARIANCE, radius: int = RADIUS
    ) -> Filter:
        """Build the vertices and the sparse matrices; no gradient to the features. On the CPU by compiled loops
        (`selflabel.affinity.filters.lattice_cpu`), if Numba is there.

        features: already divided by their bandwidths; float32 or float64, values must be of the same type.
        variance: of the kernel, in squared steps of the lattice: the finer (the larger), the more accurate,
            and the more vertices. radius: steps of the blur to each side. Good pairs: (0.8, 2), (1.3, 2),
            (1.4, 3), (3, 5).

        Cost: a sort of n (d + 1) keys per image (compiled: a hashing), and lookups for the vertices of the blur.
        Raises ValueError if features have no [b n d] shape, are empty, not finite, or reach over so many
        cells that a vertex has no 64-bit key.
        """
        check_features(features)
        if not variance > 1 / 6 or radius < 1:
            raise ValueError(f"expected variance > 1/6 and radius >= 1, got {variance} and {radius}")
        if backend(Routine.LATTICE, features.device, features.dtype) is Backend.CPU:
            from selflabel.affinity.filters.lattice_cpu import CompiledLattice

            return CompiledLattice.build(features.detach(), variance=variance, radius=radius)
        return cls.in_torch(features, variance, radius)

    @classmethod
    @torch.no_grad()
    def in_torch(cls, features: Float[Tensor, "b n d"], variance: float, radius: int) -> "Lattice":
        """What `build` does with torch alone, for checked arguments."""
        features = features.detach()
        b, n, d = features.shape
        weights = taps(variance, radius)

        # t = A f with A = sqrt(v) (I + c 11'), (1 + c d)^2 = 1 + d
        middle = (features.amin(1, keepdim=True) + features.amax(1, keepdim=True)) / 2
        f = (features - middle).permute(2, 0, 1).reshape(d, b * n)
        t = math.sqrt(variance) * (f + (math.sqrt(1 + d) - 1) / d * total(f))
        # the middle goes to the middle of a simplex, where K_ii is near 1, for the sake of flat images
        t += ((torch.arange(d, dtype=f.dtype, device=f.device) + 0.5) / d)[:, None]
        base = t.floor()

        # one look at the device for all of them
        low, high = ([int(x) for x in ends] for ends in torch.stack(base.aminmax(dim=1)).tolist())
        strides, low, image = numbering(low, high, radius, b)
        kind = torch.int32 if b * image < 2**30 else torch.int64  # sorts twice as fast
        key = torch.arange(b, device=f.device, dtype=kind).repeat_interleave(n) * image
        for j in range(d):
            key += (base[j].to(kind) - low[j]) * strides[j]

        # Kuhn: from the base add the unit vectors in the order of falling fractional parts
        part, order = (t - base).sort(0, descending=True)
        step = torch.tensor(strides, device=f.device, dtype=kind)[order]
        keys = torch.cat([key[None], key + step.cumsum(0, dtype=kind)])  # [d + 1, b n]
        barycentric = torch.cat([1 - part[:1], part[:-1] - part[1:], part[-1:]])
        scaled = (
            (barycentric * (math.sqrt(gain(variance, d, weights)) * evenness(barycentric, weights)))
            .t()
            .flatten()
        )

        ordered, place = keys.t().flatten().sort(stable=True)
        table, inverse, count = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
        vertex = torch.empty_like(place, dtype=torch.int32).scatter_(0, place, inverse.int())
        splat = Gather((place // (d + 1)).int(), (count.cumsum(0) - count).int(), scaled[place])
        rows = torch.arange(0, b * n * (d + 1), d + 1, device=f.device, dtype=torch.int32)

        along = torch.tensor(weights[:0:-1] + weights, dtype=f.dtype, device=f.device)
        return cls(b, n, splat, blurs(table, [*strides, -sum(strides)], along), Gather(vertex, rows, scaled))

    @property
    def vertices(self) -> int:
        """How many there are next to pixels, of all images."""
        return self.splat.offsets.numel()

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """K values, class by class. Cost O(k n d). Raises ValueError for another shape or type than at
        build."""
        check_values(values, self.batch, self.pixels, self.slice.weight.dtype)
        k = values.shape[1]
        x = self.splat.apply(values.transpose(1, 2).contiguous().view(self.batch * self.pixels, k))
        for step in self.blurs:
            x = step.apply(x)
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        for image, own in zip(result, self.slice.apply(x).view(self.batch, self.pixels, k), strict=True):
            image.copy_(own.t())
        return result

    def degree(self) -> Float[Tensor, "b n"]:
        """K 1, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        weight = self.slice.weight
        return self.apply(weight.new_ones(self.batch, 1, self.pixels))[:, 0]


class CoarseLattice:
    """A `Lattice` with half of the vertices or less, and blurs of one step: half the time of mean field.

    Its filters lose about a tenth of their mass; symmetric
    normalization (`DenseAffinity`) makes up for that, and mean field's labels are as near to exact as with other
    implementations (tests/benchmarks/speed.py). Without normalization take the finer one.
    """

    @staticmethod
    def build(features: Float[Tensor, "b n d"]) -> Filter:
        """Arguments and errors as for `Lattice.build`."""
        return Lattice.build(features, variance=0.8, radius=1)
