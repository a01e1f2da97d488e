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
from functools import cache, cached_property, reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from selflabel.affinity.autograd import Filter, check_features, check_values
from selflabel.kernels import available as compiled


@dataclass(frozen=True)
class Gather:
    """A sparse matrix by rows: row r sums weight[e] * x[index[e]] over e in offsets[r] .. offsets[r + 1]."""

    index: Int[Tensor, " e"]
    offsets: Int[Tensor, " rows"]  # where each row begins
    weight: Float[Tensor, " e"]

    def apply(self, x: Float[Tensor, "columns k"]) -> Float[Tensor, "rows k"]:
        """The product with x. The order of the sums is fixed, on the GPU too."""
        return embedding_bag(self.index, x, self.offsets, mode="sum", per_sample_weights=self.weight)


def total(rows: Float[Tensor, "d n"]) -> Float[Tensor, " n"]:
    """The sum of the rows, in one order wherever a pixel stands; `sum(0)` depends on it in the last bit."""
    result: Tensor = reduce(torch.add, rows.unbind(0))
    return result


@cache
def taps(variance: float, radius: int) -> tuple[float, ...]:
    """Blur weights at 0, 1, ..., radius steps along one lattice vector.

    They are Fourier coefficients of exp(-v w^2 / 2) / sinc(w / 2)^2 on [-pi, pi], where sinc(u) = sin(u) /
    u: with the interpolation before and after the blur, the Gaussian of variance v. Cutting the series off
    at `radius` is its best approximation in the mean square.
    """
    w = (torch.arange(4096, dtype=torch.float64) + 0.5) * (math.pi / 4096)
    wanted = torch.exp(-0.5 * variance * w.square()) / (torch.sin(w / 2) / (w / 2)).square()
    return tuple(float((wanted * torch.cos(q * w)).mean()) for q in range(radius + 1))


def self_weights(weights: tuple[float, ...], d: int) -> tuple[float, ...]:
    """Blur weight between two vertices of one simplex that are m = 0, ..., d lattice vectors apart.

    The d + 1 vectors sum to zero, so there is one path for each number q of steps added along all of them:
    sum_q taps[q + 1]^m taps[q]^(d + 1 - m).
    """
    radius = len(weights) - 1

    def tap(q: int) -> float:
        return weights[abs(q)] if abs(q) <= radius else 0.0

    steps = range(-radius - 1, radius + 1)
    return tuple(math.fsum(tap(q + 1) ** m * tap(q) ** (d + 1 - m) for q in steps) for m in range(d + 1))


def evenness(
    barycentric: Float[Tensor, "corners n"], weights: tuple[float, ...], power: float = 0.25
) -> Float[Tensor, " n"]:
    """The factors A = (D_i / mean D)^-power, D_i = (S B S')_ii, from the place of a pixel in its simplex.

    With C(i) the covariance of the barycentric weights, the kernel is, to second order and with r = f_i -
    f_j, W_ij = exp(-r^2/2) (1 + (r' c r - tr c) / 2), where c = C(i) + C(j) less its mean. So D_i / mean D
    is about 1 - tr(C(i) - mean C). power = 1/2 would make the diagonal exact (r = 0); power = 0 is right on
    average where pixels fill the feature space (mean of r r' = I). Photographs lie between the two, hence
    1/4. The mean is taken over a uniform place in the simplex: it does not depend on the image.
    """
    table = diagonal(weights, len(barycentric) - 1)
    own = table[0] * total(barycentric.square())
    for apart in range(1, len(barycentric)):
        own += table[apart] * total(barycentric[:-apart] * barycentric[apart:])
    result: Tensor = own.pow(-power)
    return result


def diagonal(weights: tuple[float, ...], d: int) -> tuple[float, ...]:
    """The factors of ``D_i / mean D = Σ_m factor_m Σ_k w_k w_(k+m)`` in the barycentric weights w."""
    table = self_weights(weights, d)
    corners = d + 1
    # E w_k w_l of a uniform place is (1 + [k = l]) / (corners (corners + 1))
    mean = 2 * corners * table[0] + sum(2 * table[apart] * (corners - apart) for apart in range(1, corners))
    scale = corners * (corners + 1) / mean
    return (scale * table[0], *(2 * scale * weight for weight in table[1:]))


REACHED = 0.08
"""Share of the vertices beyond the blur's last step that hold pixels, in photographs."""


def gain(variance: float, d: int, weights: tuple[float, ...]) -> float:
    """g: the integral of ``exp(-r^2 / 2)`` over the volume of a cell, and a little more.

    That is for the taps which are cut off: with all of them the sum along each of the d + 1 vectors would be 1. Where
    pixels fill the feature space, all that would have to be made up for; in photographs a share, `REACHED`.
    """
    sums = weights[0] + 2 * math.fsum(weights[1:])
    cell = (2 * math.pi * variance) ** (d / 2) * math.sqrt(d + 1)
    return float(cell * sums ** (-REACHED * (d + 1)))


def numbering(low: list[int], high: list[int], radius: int, images: int) -> tuple[list[int], list[int], int]:
    """Keys of vertices by mixed radix: strides, the least of each coordinate, and the stride of the images.

    `low`, `high`: of the cells with pixels. The blur goes at most 2 radius beyond their vertices. Raises
    ValueError if the keys of so many images do not fit 64 bits.
    """
    least = [x - 2 * radius for x in low]
    size = [x + 2 * radius + 2 - lo for x, lo in zip(high, least, strict=True)]
    if images * math.prod(size) >= 2**62:
        raise ValueError(
            f"features reach over {size} lattice cells, too many for 64-bit keys: "
            "raise the bandwidths, or use the exact filter"
        )
    return [math.prod(size[j + 1 :]) for j in range(len(size))], least, math.prod(size)


def spread(table: Int[Tensor, " m"], stride: int, radius: int) -> Int[Tensor, " m2"]:
    """The vertices up to `radius` steps from those of the table along one lattice vector, sorted."""
    steps = torch.arange(-radius, radius + 1, device=table.device, dtype=table.dtype) * stride
    result: Tensor = torch.unique((table[:, None] + steps).flatten())
    return result


def blur(
    source: Int[Tensor, " m"], target: Int[Tensor, " m2"], stride: int, weights: Float[Tensor, " width"]
) -> tuple[Gather, Tensor, Tensor]:
    """The blur along one lattice vector from the vertices of `source` to those of `target` (both sorted).

    Vertices that nothing reaches, or that reach nothing, are left out. Returns the matrix and the two masks.
    """
    radius = weights.numel() // 2
    steps = torch.arange(-radius, radius + 1, device=source.device, dtype=source.dtype) * stride
    wanted = target[:, None] + steps
    at = torch.searchsorted(source, wanted, out_int32=True).clamp_(max=source.numel() - 1)
    there = source[at] == wanted
    entry = there.flatten().nonzero()[:, 0]
    at = at.flatten()[entry]

    used = torch.zeros_like(source, dtype=torch.bool)
    used[at] = True
    number = used.cumsum(0, dtype=torch.int32) - 1
    count = there.sum(1, dtype=torch.int32)
    reached = count > 0
    count = count[reached]
    offsets = count.cumsum(0, dtype=torch.int32) - count
    return Gather(number[at], offsets, weights[entry % weights.numel()]), used, reached


def blurs(
    table: Int[Tensor, " m"], strides: list[int], weights: Float[Tensor, " width"]
) -> tuple[Gather, ...]:
    """The blurs along all lattice vectors in turn, from the table to the table.

    In between they visit all vertices that lie on a path from the table to the table, and no others: those
    that are reached from both ends. Walk half-way from each end, join, and drop what did not meet.
    """
    radius, last = weights.numel() // 2, len(strides)
    half = last // 2
    vertices = {0: table, last: table}
    for step in range(half):
        vertices[step + 1] = spread(vertices[step], strides[step], radius)
    for step in range(last - 1, half, -1):
        vertices[step] = spread(vertices[step + 1], strides[step], radius)

    result: dict[int, Gather] = {}
    for step in [half, *range(half - 1, -1, -1), *range(half + 1, last)]:
        result[step], used, reached = blur(vertices[step], vertices[step + 1], strides[step], weights)
        if step > 0:
            vertices[step] = vertices[step][used]
        vertices[step + 1] = vertices[step + 1][reached]
    return tuple(result[step] for step in range(last))


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
        (`selflabel.affinity.compiled`), if Numba is there.

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
        if features.device.type == "cpu" and compiled():
            from selflabel.affinity.compiled import CompiledLattice

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
