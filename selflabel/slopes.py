"""Kernels of `selflabel.roots`: energies and gradients of a range of pixels, and steps on roots of labels.

Labels lie class by class, as torch has them, and an image is one row of pixels: a neighbor is a fixed number of
pixels away, and where that leads across the border, the weight is zero. So all loops run along pixels, in vectors,
for any number of classes, axes and offsets.

The formulas are those of `selflabel.terms`: some thousand pixels at a time, one kernel takes the products of their
pairs, another evaluates the relaxation and its derivatives, a third makes gradients of them.
"""

import math
from functools import cache
from typing import Any

import numpy as np

from selflabel.coordinates import LEAST_STIFFNESS, ROOT_FLOOR
from selflabel.formulas import specialized
from selflabel.kernels.compile import kernel
from selflabel.terms import Coupling, Relaxation

BLOCK = 512
"""Pixels at a time: their gradients stay in the nearest cache from one loop to the next."""

LEAST_ROOT = np.float32(ROOT_FLOOR)
NO_ROOT = np.float32(1e-12)
LEAST = np.float32(LEAST_STIFFNESS)
ONE, TWO = np.float32(1), np.float32(2)


# --- kernels --------------------------------------------------------------------------------------------------
# Labels have a margin of `halo` pixels at both ends, so that all neighbors of a range of pixels are there: it is
# ``first + halo <= position < last + halo`` in them. The pairs of a range are those whose first pixel is in it or
# in the halo before it.


@kernel
def _add_product(to, a, b):
    for i in range(to.size):
        to[i] += a[i] * b[i]


@kernel
def _add_scaled(to, scale, x):
    for i in range(to.size):
        to[i] += scale * x[i]


@kernel
def products(labels, target, offsets, halo, dots, norms, fixed, first, last):
    """``y_i·y_j`` of the pairs of a range of pixels, ``‖y_i‖²`` there and in the halos, and ``y_i·t_i``."""
    count = last - first + halo
    dots[:], norms[:], fixed[:] = 0, 0, 0
    for start in range(0, count + halo, BLOCK):
        stop = min(start + BLOCK, count + halo)
        short, inner = min(stop, count), max(start, halo)
        for k in range(len(labels)):
            label = labels[k, first : first + count + halo]
            _add_product(norms[start:stop], label[start:stop], label[start:stop])
            if start < short:
                for m in range(offsets.size):
                    other = label[start + offsets[m] : short + offsets[m]]
                    _add_product(dots[m, start:short], label[start:short], other)
            if inner < short:
                own = target[k, first + inner - halo : first + short - halo]
                _add_product(fixed[inner - halo : short - halo], own, label[inner:short])


def value(dot, pp, qq):
    """Of a relaxation; `slope` and `norm_slope` as well: see `pairs_of`."""


slope = norm_slope = value


def _pairs(weights, dots, norms, offsets, halo, own, stiffness, first):
    """Replaces products by ``∂/∂dot``, adds up ``2 ∂/∂‖y_i‖²`` and ``-∂/∂dot`` by pixel; returns the values' sum.

    Values of those pairs alone whose first pixel is not in the halo: others belong to another range, or to none.
    """
    total, count = 0.0, dots.shape[1]
    own[:], stiffness[:] = 0, 0
    for m in range(offsets.size):
        dot, weight = dots[m], weights[m, first : first + count]
        pp, qq = norms[:count], norms[offsets[m] : offsets[m] + count]
        part = np.float32(0)
        for i in range(halo, count):
            part += weight[i] * value(dot[i], pp[i], qq[i])
        total += part
        to = own[:count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_slope(dot[i], pp[i], qq[i])
        to = own[offsets[m] : offsets[m] + count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_slope(dot[i], qq[i], pp[i])
        for i in range(count):
            dot[i] = weight[i] * slope(dot[i], pp[i], qq[i])
        _add_scaled(stiffness[:count], -ONE, dot)
        _add_scaled(stiffness[offsets[m] : offsets[m] + count], -ONE, dot)
    return total


def value_of_product(dot):
    """Of a coupling; `slope_of_product` and `stiffness_of_product` as well: see `couplings_of`."""


slope_of_product = stiffness_of_product = value_of_product


def _couplings(weight, free, fixed, stiffness):
    """Replaces products by ``∂/∂dot``, adds to the stiffness; returns the values' sum."""
    total = np.float32(0)
    for i in range(fixed.size):
        total += weight * free[i] * value_of_product(fixed[i])
    for i in range(fixed.size):
        stiffness[i] += weight * stiffness_of_product(fixed[i])
    for i in range(fixed.size):
        stiffness[i] = stiffness[i] if stiffness[i] > LEAST else LEAST
        fixed[i] = weight * slope_of_product(fixed[i])
    return total


@kernel
def _gradient(label, target, pull, offsets, position, own, drive, here, gradient):
    """``Σ_j a_ij y_j + own_i y_i + drive_i t_i`` of one class in a block of pixels."""
    size = gradient.size
    itself = label[position : position + size]
    for i in range(size):
        gradient[i] = own[i] * itself[i] + drive[i] * target[i]
    for m in range(offsets.size):
        after, before = position + offsets[m], position - offsets[m]
        _add_product(gradient, pull[m, here : here + size], label[after : after + size])
        back = here - offsets[m]
        _add_product(gradient, pull[m, back : back + size], label[before : before + size])


# Three loops and not one: LLVM vectorizes none in which it had to tell so many arrays apart.


@kernel
def _by_roots(label, mean, free, slope):
    """``2 u (g - y·g)``, the gradient by the roots, in place of that by the labels."""
    for i in range(slope.size):
        slope[i] = TWO * math.sqrt(label[i]) * (slope[i] - mean[i]) * free[i]


@kernel
def _natural(label, slope, stiffness, natural):
    """``u (g - y·g)`` over the damped stiffness ``2 u h + (g - y·g)⁺``."""
    for i in range(slope.size):
        root = math.sqrt(label[i])
        root = root if root > NO_ROOT else NO_ROOT  # excluded classes have none
        half = np.float32(0.5) * slope[i]
        uphill = half if half > 0 else np.float32(0)
        natural[i] = half / (uphill / root + TWO * root * stiffness[i])


@kernel
def _inner_products(slope, natural, direction, old):
    along, steepest, mixed = np.float32(0), np.float32(0), np.float32(0)
    for i in range(slope.size):
        along += direction[i] * slope[i]
        steepest += natural[i] * slope[i]
        mixed += natural[i] * old[i]
    return along, steepest, mixed


@kernel
def slopes(
    labels,
    target,
    free,
    offsets,
    halo,
    pull,
    own,
    drive,
    stiffness,
    direction,
    old,
    gradient,
    natural,
    first,
    last,
):
    """Gradients of a range of pixels, from the derivatives of their pairs and of their couplings."""
    along, steepest, mixed = 0.0, 0.0, 0.0
    means = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        size, here = stop - start, start - first + halo
        mean = means[:size]
        mean[:] = 0
        position, drives = start + halo, drive[start - first : stop - first]
        stiff, itself = stiffness[here : here + size], own[here : here + size]
        for k in range(len(labels)):
            slope = gradient[k, start:stop]
            _gradient(labels[k], target[k, start:stop], pull, offsets, position, itself, drives, here, slope)
            _add_product(mean, labels[k, position : position + size], slope)
        for k in range(len(labels)):
            label, slope = labels[k, position : position + size], gradient[k, start:stop]
            steep = natural[k, start:stop]
            _by_roots(label, mean, free[start:stop], slope)
            _natural(label, slope, stiff, steep)
            a, b, c = _inner_products(slope, steep, direction[k, start:stop], old[k, start:stop])
            along, steepest, mixed = along + a, steepest + b, mixed + c
    return along, steepest, mixed


@kernel
def _turn(direction, natural, conjugacy):
    for i in range(direction.size):
        direction[i] = conjugacy * direction[i] - natural[i]


@kernel
def _root_step(label, direction, rate, floor, allowed, to, mass):
    """Roots a step ahead, not below their floor; adds up their squares."""
    for i in range(to.size):
        root = math.sqrt(label[i]) + rate * direction[i]
        root = allowed * (root if root > floor[i] else floor[i])
        to[i] = root * root
        mass[i] += to[i]


@kernel
def move(labels, natural, turns, conjugacy, direction, rate, floor, allowed, halo, to, first, last):
    """Labels a step along the direction, which is made of the last one and the natural gradient if it `turns`."""
    all_mass = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        mass = all_mass[: stop - start]
        mass[:] = 0
        for k in range(len(labels)):
            ahead = direction[k, start:stop]
            if turns:
                _turn(ahead, natural[k, start:stop], conjugacy)
            label, moved = labels[k, start + halo : stop + halo], to[k, start + halo : stop + halo]
            _root_step(label, ahead, rate, floor[start:stop], allowed[k], moved, mass)
        for i in range(mass.size):
            mass[i] = ONE / mass[i]
        for k in range(len(labels)):
            moved = to[k, start + halo : stop + halo]
            for i in range(mass.size):
                moved[i] *= mass[i]


@cache
def pairs_of(relaxation: Relaxation) -> Any:
    def flat(dot: Any, pp: Any, qq: Any) -> float:
        return 0.0

    by_norm = flat if relaxation.norm_slope is None else relaxation.norm_slope
    return specialized(_pairs, value=relaxation.value, slope=relaxation.slope, norm_slope=by_norm)


@cache
def couplings_of(coupling: Coupling) -> Any:
    product = coupling.product
    assert product is not None
    return specialized(
        _couplings,
        value_of_product=product.value,
        slope_of_product=product.slope,
        stiffness_of_product=product.stiffness,
    )
