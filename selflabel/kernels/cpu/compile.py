"""How kernels are compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import numba
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function with Numba: it runs without the interpreter's lock, and machine code is cached on disk.

    Sums may be reordered and products fused; nan and infinities are respected. Reciprocals are exact: with the flag
    `arcp`, LLVM takes the processor's estimate of ``1 / sqrt(x)``, which differs from make to make.
    """
    # error model "numpy": a loop that may raise is not vectorized. Unwrapped: tests wrap functions in type checks.
    compile_ = numba.njit(
        nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy"
    )
    return compile_(inspect.unwrap(function))


def emits(function: Callable[..., Any]) -> Any:
    """A function for kernels, from one that generates its LLVM code (Numba's `intrinsic`)."""
    return intrinsic(inspect.unwrap(function))
