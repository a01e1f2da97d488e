"""Energies and gradients of a range of pixels, and steps on roots of labels.

Roots of labels lie class by class, as torch has labels, and an image is one row of pixels: a neighbor is a fixed
number of pixels away, and where that leads across the border, the weight is zero. So all loops run along pixels, in
vectors, for any number of classes, axes and offsets.

The formulas are those of `selflabel.terms`: some thousand pixels at a time, one kernel takes the products of their
pairs, another evaluates the relaxation and its derivatives, a third makes gradients of them.
"""

import math
from functools import cache
from typing import Any

import numpy as np

from selflabel.kernels.cpu.compile import kernel
from selflabel.kernels.cpu.formulas import specialized
from selflabel.numerics.descent.coordinates import LEAST_CURVATURE, ROOT_FLOOR, ROOT_LEFT, ROOT_REACH
from selflabel.terms import Coupling, Relaxation

BLOCK = 8192
"""Pixels at a time. With fewer, they would stay in the nearest cache from one loop to the next, but the processor
fetches ahead along a row of memory only, and waits at the beginning of each: 512 take a fifth longer."""

LEAST_ROOT = np.float32(ROOT_FLOOR)
NO_ROOT = np.float32(1e-12)
LEAST = np.float32(LEAST_CURVATURE)
LOSS, REACH = np.float32(1 - ROOT_LEFT), np.float32(ROOT_REACH)
ONE, TWO, FOUR = np.float32(1), np.float32(2), np.float32(4)


# --- kernels --------------------------------------------------------------------------------------------------
# Roots have a margin of `halo` pixels at both ends, so that all neighbors of a range of pixels are there: it is
# ``first + halo <= position < last + halo`` in them. The pairs of a range are those whose first pixel is in it or
# in the halo before it.


@kernel
def _add_product(to, a, b):
    for i in range(to.size):
        to[i] += a[i] * b[i]


@kernel
def _add_square(to, a, b):
    for i in range(to.size):
        to[i] += a[i] * (b[i] * b[i])


@kernel
def _add_two_squares(to, a, b, c, d):
    for i in range(to.size):
        to[i] += a[i] * (b[i] * b[i]) + c[i] * (d[i] * d[i])


@kernel
def _add_squares_of_products(to, a, b, c, d):
    for i in range(to.size):
        one, two = a[i] * b[i], c[i] * d[i]
        to[i] += one * one + two * two


@kernel
def _add_scaled(to, scale, x):
    for i in range(to.size):
        to[i] += scale * x[i]


@kernel
def products(roots, target, offsets, halo, dots, norms, fixed, first, last):
    """``y_i·y_j`` of the pairs of a range of pixels, ``‖y_i‖²`` there and in the halos, and ``y_i·t_i``."""
    count, classes = last - first + halo, len(roots)
    nothing = np.zeros(count + halo, np.float32)
    dots[:], norms[:], fixed[:] = 0, 0, 0
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
                _add_two_squares(fixed[inner - halo : short - halo], c, one[inner:short], d, two[inner:short])


def value(dot, pp, qq):
    """Of a relaxation; `slope` and `norm_derivative` as well: see `pairs_of`."""


slope = norm_derivative = value


def _pairs(weights, dots, norms, offsets, halo, own, curvature, first):
    """Replaces products by ``∂/∂dot``, adds up ``2 ∂/∂‖y_i‖²`` and ``-∂/∂dot`` by pixel; returns the values' sum.

    Values of those pairs alone whose first pixel is not in the halo: others belong to another range, or to none.
    """
    total, count = 0.0, dots.shape[1]
    own[:], curvature[:] = 0, 0
    for m in range(offsets.size):
        dot, weight = dots[m], weights[m, first : first + count]
        pp, qq = norms[:count], norms[offsets[m] : offsets[m] + count]
        part = np.float32(0)
        for i in range(halo, count):
            part += weight[i] * value(dot[i], pp[i], qq[i])
        total += part
        to = own[:count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_derivative(dot[i], pp[i], qq[i])
        to = own[offsets[m] : offsets[m] + count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_derivative(dot[i], qq[i], pp[i])
        for i in range(count):
            dot[i] = weight[i] * slope(dot[i], pp[i], qq[i])
        _add_scaled(curvature[:count], -ONE, dot)
        _add_scaled(curvature[offsets[m] : offsets[m] + count], -ONE, dot)
    return total


def value_of_product(dot):
    """Of a coupling; `slope_of_product` and `curvature_of_product` as well: see `couplings_of`."""


slope_of_product = curvature_of_product = value_of_product


def _couplings(weight, free, fixed, curvature):
    """Replaces products by ``∂/∂dot``, adds to the stiffness; returns the values' sum."""
    total = np.float32(0)
    for i in range(fixed.size):
        total += weight * free[i] * value_of_product(fixed[i])
    for i in range(fixed.size):
        curvature[i] += weight * curvature_of_product(fixed[i])
    for i in range(fixed.size):
        curvature[i] = curvature[i] if curvature[i] > LEAST else LEAST
        fixed[i] = weight * slope_of_product(fixed[i])
    return total


@kernel
def _gradient(root, target, pull, offsets, position, own, drive, here, gradient):
    """``Σ_j a_ij y_j + own_i y_i + drive_i t_i`` of one class in a block of pixels."""
    size = gradient.size
    itself = root[position : position + size]
    for i in range(size):
        gradient[i] = own[i] * (itself[i] * itself[i]) + drive[i] * target[i]
    for m in range(offsets.size):
        after, before = position + offsets[m], position - offsets[m]
        back = here - offsets[m]
        a, b = pull[m, here : here + size], pull[m, back : back + size]
        _add_two_squares(gradient, a, root[after : after + size], b, root[before : before + size])


# Several loops and not one: LLVM vectorizes none in which it had to tell so many arrays apart.


@kernel
def _by_roots(root, mean, twice, slope):
    """``2 u (g - y·g)``, the gradient by the roots, in place of that by the labels."""
    for i in range(slope.size):
        slope[i] = twice[i] * root[i] * (slope[i] - mean[i])


@kernel
def _natural(root, slope, curvature, natural):
    """``u (g - y·g)`` over the damped stiffness ``2 u h + (g - y·g)⁺``."""
    for i in range(slope.size):
        own = root[i] if root[i] > NO_ROOT else NO_ROOT  # excluded classes have none
        uphill = slope[i] if slope[i] > 0 else np.float32(0)
        natural[i] = own * slope[i] / (uphill + FOUR * own * own * curvature[i])


@kernel
def _inner_products(slope, natural, direction, old):
    before, along, steepest, mixed = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(slope.size):
        before += direction[i] * old[i]
        along += direction[i] * slope[i]
        steepest += natural[i] * slope[i]
        mixed += natural[i] * old[i]
    return before, along, steepest, mixed


@kernel
def slopes(
    roots, target, twice, offsets, halo, pull, own, drive, curvature, direction, old, gradient, first, last
):
    """Gradients of a range of pixels, from the derivatives of their pairs and of their couplings."""
    before, along, steepest, mixed = 0.0, 0.0, 0.0, 0.0
    # one by one: of the rows of one array LLVM does not know that they are apart, and gives up vectors
    means, naturals = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        size, here = stop - start, start - first + halo
        mean, natural = means[:size], naturals[:size]
        position, drives = start + halo, drive[start - first : stop - first]
        itself = own[here : here + size]
        mean[:] = 0
        for k in range(len(roots)):
            slope = gradient[k, start:stop]
            _gradient(roots[k], target[k, start:stop], pull, offsets, position, itself, drives, here, slope)
            _add_square(mean, slope, roots[k, position : position + size])
        for k in range(len(roots)):
            root, slope = roots[k, position : position + size], gradient[k, start:stop]
            _by_roots(root, mean, twice[start:stop], slope)
            _natural(root, slope, curvature[start:stop], natural)
            a, b, c, d = _inner_products(slope, natural, direction[k, start:stop], old[k, start:stop])
            before, along, steepest, mixed = before + a, along + b, steepest + c, mixed + d
    return before, along, steepest, mixed


@kernel
def _turn(direction, natural, conjugacy, root, least, most):
    """Down, conjugate to the last direction, and not too far."""
    for i in range(direction.size):
        ahead, end = conjugacy * direction[i] - natural[i], least * root[i]
        ahead = ahead if ahead > end else end
        direction[i] = ahead if ahead < most else most


@kernel
def _root_step(root, direction, rate, floor, allowed, to, mass):
    """A step ahead, not below the floor; adds up the squares."""
    for i in range(to.size):
        ahead = root[i] + rate * direction[i]
        ahead = allowed * (ahead if ahead > floor[i] else floor[i])
        to[i] = ahead
        mass[i] += ahead * ahead


@kernel
def move(
    roots, gradient, curvature, turns, conjugacy, direction, rate, floor, allowed, halo, to, first, last
):
    """Roots a step along the direction, which is made of the last one and the gradient if it `turns`."""
    masses, naturals = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    least, most = -LOSS / rate, REACH / rate
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        mass, natural = masses[: stop - start], naturals[: stop - start]
        mass[:] = 0
        for k in range(len(roots)):
            ahead = direction[k, start:stop]
            root, moved = roots[k, start + halo : stop + halo], to[k, start + halo : stop + halo]
            if turns:
                _natural(root, gradient[k, start:stop], curvature[start:stop], natural)
                _turn(ahead, natural, conjugacy, root, least, most)
            _root_step(root, ahead, rate, floor[start:stop], allowed[k], moved, mass)
        for i in range(mass.size):
            mass[i] = ONE / np.float32(math.sqrt(mass[i]))
        for k in range(len(roots)):
            moved = to[k, start + halo : stop + halo]
            for i in range(mass.size):
                moved[i] *= mass[i]


@cache
def pairs_of(relaxation: Relaxation) -> Any:
    def flat(dot: Any, pp: Any, qq: Any) -> float:
        return 0.0

    by_norm = flat if relaxation.norm_derivative is None else relaxation.norm_derivative
    return specialized(_pairs, value=relaxation.value, slope=relaxation.derivative, norm_derivative=by_norm)


@cache
def couplings_of(coupling: Coupling) -> Any:
    product = coupling.product
    assert product is not None
    return specialized(
        _couplings,
        value_of_product=product.value,
        slope_of_product=product.derivative,
        curvature_of_product=product.curvature,
    )
