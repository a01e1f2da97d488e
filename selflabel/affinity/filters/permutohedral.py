"""The mathematics of the permutohedral lattice, which approximates Gaussian filters in time linear in the pixels.

The lattice is written as ``Z^d``. Take the d + 1 vectors ``e_1, ..., e_d`` and ``-(1, ..., 1)``, which sum to zero.
Under the linear map ``t = A f`` with ``A A' = v (I + 11')`` they are the shortest vectors of the permutohedral
lattice ``A*_d``, its simplices are those of the Kuhn triangulation (sort the fractional parts of t), and a
Gaussian of unit covariance in f has variance v along each of the d + 1 vectors.

    W = g E S B_1 B_2 ... B_{d+1} S' E

* ``S``, barycentric interpolation, splats a pixel onto the d + 1 vertices of its simplex. It is the box spline
  of the d + 1 vectors: along each of them it has the Fourier transform ``sinc(w / 2)``.
* ``B_j`` blurs along the j-th vector. Two interpolations and the blur must make a Gaussian, so the blur is the
  Gaussian divided by ``sinc²`` (`blur_taps`), and not a binomial: this is what makes the shape right.
* ``g = (2 π v)^(d/2) √(d + 1)``, the integral of ``exp(-½ ‖f‖²)`` over the volume of a cell (`gain`).
* ``E``, diagonal and close to 1. Interpolation is sharp at a vertex and blunt in the middle of a simplex, so the
  kernel depends on where a pixel lies in its simplex (`evenness`).

The blur passes vertices without pixels on its way between vertices with pixels. They are all created, so that no
mass is lost: the product of the ``B_j`` between vertices with pixels is complete, and for this reason symmetric.

Adams, Baek and Davis, Fast high-dimensional filtering using the permutohedral lattice, Eurographics 2010. It differs
from the paper in the blur, the gain, the evenness and the vertices without pixels.
"""

import math
from functools import cache, reduce
from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Float
from torch import Tensor

OCCUPIED = 0.08
"""Fraction of the vertices just beyond the blur's last step that hold pixels, in photographs."""


@cache
def blur_taps(variance: float, radius: int) -> tuple[float, ...]:
    """Blur weights at 0, 1, ..., radius steps along one lattice vector.

    They are Fourier coefficients of ``exp(-½ v w²) / sinc²(w / 2)`` on ``[-π, π]``, where ``sinc(u) = sin(u) / u``:
    with the interpolation before and after the blur, the Gaussian of variance v. Cutting the series off at `radius`
    is its best approximation in the mean square.
    """
    w = (torch.arange(4096, dtype=torch.float64) + 0.5) * (math.pi / 4096)
    wanted = torch.exp(-0.5 * variance * w.square()) / (torch.sin(w / 2) / (w / 2)).square()
    return tuple(float((wanted * torch.cos(q * w)).mean()) for q in range(radius + 1))


def self_weights(taps: tuple[float, ...], d: int) -> tuple[float, ...]:
    """Blur weight between two vertices of one simplex that are m = 0, ..., d lattice vectors apart.

    The d + 1 vectors sum to zero, so there is one path for each number q of steps added along all of them:
    ``Σ_q taps[q + 1]^m taps[q]^(d + 1 - m)``.
    """
    radius = len(taps) - 1

    def tap(q: int) -> float:
        return taps[abs(q)] if abs(q) <= radius else 0.0

    steps = range(-radius - 1, radius + 1)
    return tuple(math.fsum(tap(q + 1) ** m * tap(q) ** (d + 1 - m) for q in steps) for m in range(d + 1))


def evenness(
    barycentric: Float[Tensor, "corners n"], taps: tuple[float, ...], power: float = 0.25
) -> Float[Tensor, " n"]:
    """The diagonal of E, ``(D_i / mean D)^-power`` with ``D_i = (S B S')_ii``, from a pixel's place in its simplex.

    With ``C(i)`` the covariance of the barycentric weights, the kernel is, to second order and with ``r = f_i - f_j``,
    ``W_ij = exp(-½ ‖r‖²) (1 + ½ (r' c r - tr c))``, where ``c = C(i) + C(j)`` less its mean. So ``D_i / mean D`` is
    about ``1 - tr(C(i) - mean C)``. power = ½ would make the diagonal exact (r = 0); power = 0 is right on average
    where pixels fill the feature space (mean of ``r r'`` = I). Photographs lie between the two, hence ¼. The mean is
    taken over a uniform place in the simplex: it does not depend on the image.
    """
    factors = diagonal_factors(taps, len(barycentric) - 1)
    ratio = factors[0] * sum_in_order(barycentric.square())
    for apart in range(1, len(barycentric)):
        ratio += factors[apart] * sum_in_order(barycentric[:-apart] * barycentric[apart:])
    result: Tensor = ratio.pow(-power)
    return result


def diagonal_factors(taps: tuple[float, ...], d: int) -> tuple[float, ...]:
    """The factors of ``D_i / mean D = Σ_m factor_m Σ_k w_k w_(k+m)`` in the barycentric weights w."""
    table = self_weights(taps, d)
    corners = d + 1
    # E w_k w_l of a uniform place is (1 + [k = l]) / (corners (corners + 1))
    mean = 2 * corners * table[0] + sum(2 * table[apart] * (corners - apart) for apart in range(1, corners))
    scale = corners * (corners + 1) / mean
    return (scale * table[0], *(2 * scale * weight for weight in table[1:]))


def sum_in_order(rows: Float[Tensor, "d n"]) -> Float[Tensor, " n"]:
    """The sum of the rows, added in the same order for every pixel; `sum(0)` depends on the pixel's number."""
    result: Tensor = reduce(torch.add, rows.unbind(0))
    return result


def gain(variance: float, d: int, taps: tuple[float, ...]) -> float:
    """g: the integral of ``exp(-½ ‖f‖²)`` over the volume of a cell, raised a little for the taps that are cut off.

    With all taps the sum along each of the d + 1 vectors would be 1. Where pixels fill the feature space, the whole
    loss would have to be made up for; in photographs the fraction `OCCUPIED`.
    """
    sums = taps[0] + 2 * math.fsum(taps[1:])
    cell = (2 * math.pi * variance) ** (d / 2) * math.sqrt(d + 1)
    return float(cell * sums ** (-OCCUPIED * (d + 1)))


def key_strides(
    low: list[int], high: list[int], radius: int, images: int
) -> tuple[list[int], list[int], int]:
    """Keys of vertices by mixed radix: strides, the least of each coordinate, and the stride of the images.

    `low`, `high`: the range of the cells with pixels. The blur goes at most 2 radius beyond their vertices. Raises
    `ValueError` if the keys do not fit 64 bits.
    """
    least = [x - 2 * radius for x in low]
    size = [x + 2 * radius + 2 - lo for x, lo in zip(high, least, strict=True)]
    if images * math.prod(size) >= 2**62:
        cells = accumulate(sorted(size), initial=images, func=mul)
        most = sum(number < 2**62 for number in cells) - 1
        got = f"10^{math.log10(math.prod(size)):.0f} in {len(size)} dimensions"
        raise ValueError(
            f"expected features that reach over fewer than 2^62 lattice cells, got about {got}: keep at "
            f"most {most} of these (reduce by PCA), raise the bandwidths, or use `Exact()`"
        )
    return [math.prod(size[j + 1 :]) for j in range(len(size))], least, math.prod(size)
