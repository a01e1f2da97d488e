"""The mathematics of the permutohedral lattice: taps of the blur, evenness, gain, and keys of vertices."""

import math
from functools import cache, reduce

import torch
from jaxtyping import Float
from torch import Tensor


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


def total(rows: Float[Tensor, "d n"]) -> Float[Tensor, " n"]:
    """The sum of the rows, in one order wherever a pixel stands; `sum(0)` depends on it in the last bit."""
    result: Tensor = reduce(torch.add, rows.unbind(0))
    return result


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
