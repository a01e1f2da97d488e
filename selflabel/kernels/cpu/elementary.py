"""Logarithms of float32 numbers, in loops that LLVM vectorizes (powers of two: `vectors`).

It does not vectorize calls of the mathematical library, which take ten times as long.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from selflabel.kernels.cpu.compile import emits, kernel


def _reinterpret(source: Any, target: Any, target_type: ir.Type) -> Any:
    """A function that reads the 32 bits of a number as another type."""

    @emits
    def reinterpreted(typing, value):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], target_type)

        return target(source), generate

    return reinterpreted


float_of_bits = _reinterpret(types.int32, types.float32, ir.FloatType())
bits_of_float = _reinterpret(types.float32, types.int32, ir.IntType(32))


@kernel
def log_of(x):
    """``ln x`` for ``x > 1e-37``, to 1e-6: ``e ln 2 + ln m`` with ``1/√2 <= m < √2``, a polynomial in ``m - 1``."""
    bits = bits_of_float(x) - np.int32(0x3F3504F3)
    exponent = bits >> np.int32(23)
    m = float_of_bits((bits & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)) - np.float32(1)
    p = np.float32(7.0376836292e-2)
    p = p * m + np.float32(-1.1514610310e-1)
    p = p * m + np.float32(1.1676998740e-1)
    p = p * m + np.float32(-1.2420140846e-1)
    p = p * m + np.float32(1.4249322787e-1)
    p = p * m + np.float32(-1.6668057665e-1)
    p = p * m + np.float32(2.0000714765e-1)
    p = p * m + np.float32(-2.4999993993e-1)
    p = p * m + np.float32(3.3333331174e-1)
    square = m * m
    return np.float32(exponent) * np.float32(0.6931471805599453) + (m + square * (m * p - np.float32(0.5)))


@kernel
def log_(x, floor):
    """``ln max(x, floor)`` in place, for ``floor > 1e-37``."""
    for j in range(x.size):
        x[j] = log_of(x[j] if x[j] > floor else floor)
