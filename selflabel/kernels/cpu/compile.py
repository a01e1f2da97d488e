"""How kernels are compiled, and how they share the threads of torch."""

import inspect
from collections.abc import Callable
from typing import Any

import numba
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, once for all processes (Numba keeps the machine code on disk).

    Sums may be reordered and products fused, but nan and infinities are respected. Reciprocals are exact: with the flag
    `arcp`, LLVM takes the processor's estimate for ``1 / sqrt(x)``, which differs from make to make.
    """
    # numpy's divisions: a loop that may raise is not vectorized. Run-time type checks of the tests wrap functions.
    compile_ = numba.njit(
        nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy"
    )
    return compile_(inspect.unwrap(function))


def emits(function: Callable[..., Any]) -> Any:
    """A function of kernels whose machine code this one writes (Numba's `intrinsic`)."""
    return intrinsic(inspect.unwrap(function))
