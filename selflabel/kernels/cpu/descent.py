"""Energies and gradients of a range of pixels, and steps of their square roots.

Square roots of labels lie class by class, as torch has labels, and an image is one row of pixels: a neighbor is a fixed
number of pixels away, and where that leads across the border, the weight is zero. So all loops run along pixels, in
vectors, for any number of classes, axes and offsets.

`move` takes a step. Then a range of pixels takes `products` of its pairs; `add_pairs` and `add_couplings`, which
evaluate the formulas of the energy and their derivatives; and `gradients`, which are made of these.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from selflabel.kernels.cpu.compile import Array, exact_kernel, sum_kernel

BLOCK = 8192
"""Pixels at a time. With fewer, they would stay in the nearest cache from one loop to the next, but the processor
fetches ahead along a row of memory only, and waits at the beginning of each: 512 take a fifth longer."""

LEAST_ROOT = np.float32(1e-12)
"""Divisor in place of the root of an excluded class, which is zero."""

ONE, TWO, FOUR = np.float32(1), np.float32(2), np.float32(4)


# --- records --------------------------------------------------------------------------------------------------
# Arrays are float32. k classes, n pixels, m offsets.


class ImageData(NamedTuple):
    """What no step changes."""

    target: Array
    """``[k n]``: t of the coupling (`selflabel.terms.Product`)."""
    free: Array
    """``[n]``: 1, and 0 at seeds."""
    offsets: Array
    """``[m]`` int64: from the first pixel of a pair to the second one; `halo` is the largest."""


class Bounds(NamedTuple):
    """Limits of roots and of their steps."""

    floor: Array
    """``[n]``: the least root; 0 at seeds."""
    allowed: Array
    """``[k]``: 1, and 0 for excluded classes."""
    left: Any
    """Least share of each root that a step leaves."""
    reach: Any
    """Most that a step adds to a root."""


class Point(NamedTuple):
    """The current point of an image, or that of a trial."""

    roots: Array
    """``[k halo+n+halo]``: the margins, of finite numbers, stand in for neighbors across the border."""
    gradient: Array
    """``[k n]``: by the roots."""
    curvature: Array
    """``[n]``: of the energy by the labels (`selflabel.terms.Gradient`)."""


class Turn(NamedTuple):
    """The next direction: ``-n + beta d``, limited for a step of this rate."""

    is_due: bool
    beta: Any
    rate: Any


class Derivatives(NamedTuple):
    """Derivatives of the energy on a range of c pixels; pairs have their first pixel there or in the halo before."""

    by_dots: Array
    """``[m halo+c]``: by the ``y_i·y_j`` of the pairs."""
    by_norms: Array
    """``[halo+c+halo]``: twice the derivative by ``‖y_i‖²``."""
    by_targets: Array
    """``[c]``: by ``y_i·t_i``."""


# --- kernels --------------------------------------------------------------------------------------------------
# Pixel i is at i + halo in roots and weights. A range is ``first <= i < last``; its pairs are those whose first pixel
# is in it or in the halo before it.


@exact_kernel
def _add_square(to, a, b):
    for i in range(to.size):
        to[i] += a[i] * (b[i] * b[i])


@exact_kernel
def _add_two_squares(to, a, b, c, d):
    for i in range(to.size):
        to[i] += a[i] * (b[i] * b[i]) + c[i] * (d[i] * d[i])


@sum_kernel
def _total(numbers):
    """The sum in double precision."""
    total = 0.0
    for i in range(numbers.size):
        total += np.float64(numbers[i])
    return total


@exact_kernel
def _add_squares_of_products(to, a, b, c, d):
    for i in range(to.size):
        one, two = a[i] * b[i], c[i] * d[i]
        to[i] += one * one + two * two


@exact_kernel
def _add_scaled(to, scale, x):
    for i in range(to.size):
        to[i] += scale * x[i]


@exact_kernel
def products(roots, target, offsets, dots, norms, target_dots, first, last):
    """``y_i·y_j`` of the pairs of a range of pixels, ``‖y_i‖²`` there and in the halos, and ``y_i·t_i``."""
    halo = (roots.shape[1] - target.shape[1]) // 2
    count, classes = last - first + halo, len(roots)
    nothing = np.zeros(count + halo, np.float32)
    dots[:], norms[:], target_dots[:] = 0, 0, 0
    for start in range(0, count + halo, BLOCK):
        stop = min(start + BLOCK, count + halo)
        short, inner = min(stop, count), max(start, halo)
        for k in range(0, classes, 2):  # two at a time: their sums are read and written half as often
            paired = k + 1 < classes
            one = roots[k, first : first + count + halo]
            two = roots[k + 1, first : first + count + halo] if paired else nothing
            a, b = one[start:stop], two[start:stop]
            _add_squares_of_products(norms[start:stop], a, a, b, b)
            if start < short:
                a, b = one[start:short], two[start:short]
                for m in range(offsets.size):
                    beyond = slice(start + offsets[m], short + offsets[m])
                    c, d = one[beyond], two[beyond]
                    _add_squares_of_products(dots[m, start:short], a, c, b, d)
            if inner < short:
                here = slice(first + inner - halo, first + short - halo)
                c, d = target[k, here], target[k + 1, here] if paired else nothing[: short - inner]
                to = target_dots[inner - halo : short - halo]
                _add_two_squares(to, c, one[inner:short], d, two[inner:short])


def value(*dots):
    """Placeholder: `formulas.specialized` puts a formula here, as for the three below."""


derivative = norm_derivative = curvature = value


def add_pairs(weights, offsets, dots, norms, by_norms, curvatures, first):
    """Value of the pairs whose first pixel is in the range; derivatives of these and of those from the halo before.

    Weights ``[m halo+n]`` lie by the first pixel of a pair, from `halo` before the image on. Dots become
    ``w ∂P/∂dot``; curvatures, set to ``-Σ w ∂P/∂dot``, and `by_norms` are sums by pixel. A template for
    `formulas.PairFormulas`.
    """
    count = dots.shape[1]
    halo = norms.size - count
    values = np.zeros(count - halo, np.float32)
    by_norms[:], curvatures[:] = 0, 0
    for m in range(offsets.size):
        dot, weight = dots[m], weights[m, first : first + count]
        pp, qq = norms[:count], norms[offsets[m] : offsets[m] + count]
        for i in range(halo, count):
            values[i - halo] += weight[i] * value(dot[i], pp[i], qq[i])
        to = by_norms[:count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_derivative(dot[i], pp[i], qq[i])
        to = by_norms[offsets[m] : offsets[m] + count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_derivative(dot[i], qq[i], pp[i])
        for i in range(count):
            dot[i] = weight[i] * derivative(dot[i], pp[i], qq[i])
        _add_scaled(curvatures[:count], -ONE, dot)
        _add_scaled(curvatures[offsets[m] : offsets[m] + count], -ONE, dot)
    return _total(values)


def add_couplings(weight, free, dots, curvatures, least):
    """Value of the couplings of a range of pixels, after `add_pairs`; adds to curvatures, then not below the least.

    Dots become ``weight · dH/d dot``. A template for `formulas.ProductFormulas`.
    """
    values = np.empty(dots.size, np.float32)
    for i in range(dots.size):
        values[i] = weight * free[i] * value(dots[i])
    for i in range(dots.size):
        curvatures[i] += weight * curvature(dots[i])
    for i in range(dots.size):
        curvatures[i] = curvatures[i] if curvatures[i] > least else least
        dots[i] = weight * derivative(dots[i])
    return _total(values)


@exact_kernel
def _own_terms(root, target, by_norm, by_target, gradient):
    """``2 ∂E/∂‖y_i‖² y_i + ∂E/∂(y_i·t_i) t_i`` of one class in a block of pixels."""
    for i in range(gradient.size):
        gradient[i] = by_norm[i] * (root[i] * root[i]) + by_target[i] * target[i]


@exact_kernel
def _add_pair_terms(root, by_dots, offsets, position, here, gradient):
    """``Σ_j ∂E/∂(y_i·y_j) y_j`` of one class in a block of pixels."""
    size = gradient.size
    for m in range(offsets.size):
        after, before = position + offsets[m], position - offsets[m]
        back = here - offsets[m]
        a, b = by_dots[m, here : here + size], by_dots[m, back : back + size]
        _add_two_squares(gradient, a, root[after : after + size], b, root[before : before + size])


# Several short loops: in one, LLVM would have to prove that all arrays are apart, and does not vectorize.


@exact_kernel
def _by_roots(root, mean, free, gradient):
    """The gradient by the labels becomes that by the roots, ``2 u (g - y·g)``."""
    for i in range(gradient.size):
        gradient[i] = TWO * free[i] * root[i] * (gradient[i] - mean[i])


@exact_kernel
def _natural_gradient(root, gradient, curvature, natural):
    """``u c / (c⁺ + 2 u h)`` with ``c = g - y·g``: affine scaling (`selflabel.numerics.descent.coordinates`).

    The gradient by the roots is ``2 u c``, so both sides of the fraction are times ``2 u``.
    """
    for i in range(gradient.size):
        u = root[i] if root[i] > LEAST_ROOT else LEAST_ROOT
        uphill = gradient[i] if gradient[i] > 0 else np.float32(0)
        natural[i] = u * gradient[i] / (uphill + FOUR * u * u * curvature[i])


@sum_kernel
def _inner_products(gradient, natural, direction, old):
    """Sums in double precision of products in single precision."""
    start, end, norm, overlap = 0.0, 0.0, 0.0, 0.0
    for i in range(gradient.size):
        start += np.float64(direction[i] * old[i])
        end += np.float64(direction[i] * gradient[i])
        norm += np.float64(natural[i] * gradient[i])
        overlap += np.float64(natural[i] * old[i])
    return start, end, norm, overlap


@exact_kernel
def gradients(image, old, direction, trial, derivatives, first, last):
    """Gradients of a range of pixels at the trial, by the roots; `old` is that at the current point.

    Returns ``d·g'``, ``d·g``, ``n·g`` and ``n·g'`` (`line_search.Trial`).
    """
    slope_start, slope_end, norm, overlap = 0.0, 0.0, 0.0, 0.0
    roots, by_dots = trial.roots, derivatives.by_dots
    halo = by_dots.shape[1] - (last - first)
    # separate arrays: LLVM cannot prove that rows of one array do not overlap, and would not vectorize
    means, naturals = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        size, here, position = stop - start, start - first + halo, start + halo
        mean, natural = means[:size], naturals[:size]
        free, curvature = image.free[start:stop], trial.curvature[start:stop]
        by_norm = derivatives.by_norms[here : here + size]
        by_target = derivatives.by_targets[start - first : stop - first]
        mean[:] = 0
        for k in range(len(roots)):
            root, gradient = roots[k, position : position + size], trial.gradient[k, start:stop]
            _own_terms(root, image.target[k, start:stop], by_norm, by_target, gradient)
            _add_pair_terms(roots[k], by_dots, image.offsets, position, here, gradient)
            _add_square(mean, gradient, root)
        for k in range(len(roots)):
            root, gradient = roots[k, position : position + size], trial.gradient[k, start:stop]
            _by_roots(root, mean, free, gradient)
            _natural_gradient(root, gradient, curvature, natural)
            along, before = direction[k, start:stop], old[k, start:stop]
            a, b, c, d = _inner_products(gradient, natural, along, before)
            slope_start, slope_end, norm, overlap = slope_start + a, slope_end + b, norm + c, overlap + d
    return slope_start, slope_end, norm, overlap


@exact_kernel
def _turn(direction, natural, beta, root, least, most):
    """``d ← -n + beta d``, at least ``least`` times the root and at most ``most``."""
    for i in range(direction.size):
        ahead, end = beta * direction[i] - natural[i], least * root[i]
        ahead = ahead if ahead > end else end
        direction[i] = ahead if ahead < most else most


@exact_kernel
def _root_step(root, direction, rate, floor, allowed, to, mass):
    """``u + rate · d``, not below the floor; adds its squares to the mass."""
    for i in range(to.size):
        ahead = root[i] + rate * direction[i]
        ahead = allowed * (ahead if ahead > floor[i] else floor[i])
        to[i] = ahead
        mass[i] += ahead * ahead


@exact_kernel
def move(point, direction, turn, rate, bounds, to, first, last):
    """Roots a step along the direction, of norm one again; if the turn is due, the direction turns first, in place."""
    halo = (to.shape[1] - direction.shape[1]) // 2
    least, most = (bounds.left - ONE) / turn.rate, bounds.reach / turn.rate
    masses, naturals = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        mass, natural = masses[: stop - start], naturals[: stop - start]
        floor, curvature = bounds.floor[start:stop], point.curvature[start:stop]
        mass[:] = 0
        for k in range(len(to)):
            ahead = direction[k, start:stop]
            root, moved = point.roots[k, start + halo : stop + halo], to[k, start + halo : stop + halo]
            if turn.is_due:
                _natural_gradient(root, point.gradient[k, start:stop], curvature, natural)
                _turn(ahead, natural, turn.beta, root, least, most)
            _root_step(root, ahead, rate, floor, bounds.allowed[k], moved, mass)
        for i in range(mass.size):
            mass[i] = ONE / np.float32(math.sqrt(mass[i]))
        for k in range(len(to)):
            moved = to[k, start + halo : stop + halo]
            for i in range(mass.size):
                moved[i] *= mass[i]
