"""Couplings and relaxations of `selflabel.terms` for one pixel or pair in float32, and kernels made for them.

The functions of `terms` take tensors; these take the numbers in a loop. A test compares the two.
"""

import inspect
import math
import zlib
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from selflabel.kernels.cpu.compile import exact_kernel
from selflabel.kernels.cpu.elementary import log_of

HALF, ONE = np.float32(0.5), np.float32(1)

FLOOR = np.float32(math.exp(-30))
"""Least argument of logarithms and divisors: `terms.FLOOR`."""

LOG_QUADRATIC_SCALE = np.float32(1 - 1e-6)
"""Factor of the squared distance in log-quadratic: one less `terms.LOG_QUADRATIC_SLACK`."""


class PairFormulas(NamedTuple):
    """A relaxation ``P(dot, pp, qq)`` of ``dot = p·q``, ``pp = ‖p‖²`` and ``qq = ‖q‖²``."""

    value: Any
    derivative: Any
    """``∂P/∂dot``."""
    norm_derivative: Any
    """``∂P/∂pp``."""


class ProductFormulas(NamedTuple):
    """A coupling ``H(dot)`` of ``dot = y·t`` with a target t (`terms.Product`)."""

    value: Any
    derivative: Any
    """``dH/d dot``."""
    curvature: Any


@exact_kernel
def _rsqrt(x):
    return ONE / np.float32(math.sqrt(x))


@exact_kernel
def _floored(x):
    return x if x > FLOOR else FLOOR


# --- relaxations ----------------------------------------------------------------------------------------------


@exact_kernel
def _minus_one(dot, pp, qq):
    return -ONE


@exact_kernel
def _zero(dot, pp, qq):
    return np.float32(0)


@exact_kernel
def _bilinear(dot, pp, qq):
    return ONE - dot


@exact_kernel
def _quadratic(dot, pp, qq):
    return (pp + qq) / np.float32(2) - dot


@exact_kernel
def _quadratic_norm_derivative(dot, pp, qq):
    return HALF


@exact_kernel
def _normalized_quadratic(dot, pp, qq):
    return ONE - dot * _rsqrt(pp * qq)


@exact_kernel
def _normalized_quadratic_derivative(dot, pp, qq):
    return -_rsqrt(pp * qq)


@exact_kernel
def _normalized_quadratic_norm_derivative(dot, pp, qq):
    return HALF * dot * _rsqrt(pp * qq) / pp


@exact_kernel
def _collision_cross_entropy(dot, pp, qq):
    return -log_of(_floored(dot))


@exact_kernel
def _collision_cross_entropy_derivative(dot, pp, qq):
    return -ONE / _floored(dot)


@exact_kernel
def _log_quadratic_argument(dot, pp, qq):
    return ONE - LOG_QUADRATIC_SCALE * ((pp + qq) / np.float32(2) - dot)


@exact_kernel
def _log_quadratic(dot, pp, qq):
    return -log_of(_log_quadratic_argument(dot, pp, qq))


@exact_kernel
def _log_quadratic_derivative(dot, pp, qq):
    return -LOG_QUADRATIC_SCALE * (ONE / _log_quadratic_argument(dot, pp, qq))


@exact_kernel
def _log_quadratic_norm_derivative(dot, pp, qq):
    return HALF * LOG_QUADRATIC_SCALE * (ONE / _log_quadratic_argument(dot, pp, qq))


@exact_kernel
def _collision_divergence(dot, pp, qq):
    dot = _floored(dot)
    return -HALF * log_of(dot * dot / (pp * qq))  # one logarithm in place of two


@exact_kernel
def _collision_divergence_norm_derivative(dot, pp, qq):
    return HALF / pp


BILINEAR = PairFormulas(_bilinear, _minus_one, _zero)
QUADRATIC_POTTS = PairFormulas(_quadratic, _minus_one, _quadratic_norm_derivative)
NORMALIZED_QUADRATIC = PairFormulas(
    _normalized_quadratic, _normalized_quadratic_derivative, _normalized_quadratic_norm_derivative
)
COLLISION_CROSS_ENTROPY = PairFormulas(_collision_cross_entropy, _collision_cross_entropy_derivative, _zero)
LOG_QUADRATIC = PairFormulas(_log_quadratic, _log_quadratic_derivative, _log_quadratic_norm_derivative)
COLLISION_DIVERGENCE = PairFormulas(
    _collision_divergence, _collision_cross_entropy_derivative, _collision_divergence_norm_derivative
)


# --- couplings ------------------------------------------------------------------------------------------------


@exact_kernel
def _standard(dot):
    return -dot


@exact_kernel
def _standard_derivative(dot):
    return -ONE


@exact_kernel
def _standard_curvature(dot):
    return np.float32(0)


@exact_kernel
def _collision(dot):
    return -log_of(_floored(dot))


@exact_kernel
def _collision_derivative(dot):
    return -ONE / _floored(dot)


@exact_kernel
def _collision_curvature(dot):
    return ONE / _floored(dot)


STANDARD = ProductFormulas(_standard, _standard_derivative, _standard_curvature)
COLLISION = ProductFormulas(_collision, _collision_derivative, _collision_curvature)


# --- kernels made for formulas --------------------------------------------------------------------------------


def specialized(template: Callable[..., Any], formulas: PairFormulas | ProductFormulas) -> Any:
    """The template compiled with the formulas in place of its globals of these names.

    Numba finds machine code on disk by the name of a function and the time of its file. Formulas lie in another
    file: the name ends with a checksum of their source.
    """
    function = inspect.unwrap(template)
    source = "".join(_source(formula) for formula in formulas)
    name = f"{function.__name__}_{zlib.crc32(source.encode()):08x}"
    made = FunctionType(function.__code__, {**function.__globals__, **formulas._asdict()}, name)
    made.__module__, made.__qualname__ = function.__module__, name
    return exact_kernel(made)


def _source(formula: Any) -> str:
    """The source of a kernel and of the kernels that it calls, and its global numbers."""
    function = formula.py_func
    used = [function.__globals__.get(name) for name in function.__code__.co_names]
    called = [_source(other) for other in used if hasattr(other, "py_func")]
    numbers = [repr(value) for value in used if isinstance(value, np.generic)]
    return "".join([inspect.getsource(function), *called, *numbers])
