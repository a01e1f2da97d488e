"""How kernels are compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import numba
from numba.extending import intrinsic
from numpy.typing import NDArray

from selflabel.kernels.cpu.cache import keep_on_disk

Array = NDArray[Any]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function with Numba: it runs without the interpreter's lock, and machine code is kept on disk.

    Sums may be reordered and products fused; nan and infinities are respected. Reciprocals are exact: with the flag
    `arcp`, LLVM takes the processor's estimate of ``1 / sqrt(x)``, which differs from make to make.
    """
    return _compiled(function, {"reassoc", "contract", "nsz"})


def exact_kernel(function: Callable[..., Any]) -> Any:
    """`kernel`, with every operation rounded by itself, in the order that is written.

    The numbers then are those of the same operations in torch, and the same on every processor. Sums over an array are
    not vectorized.
    """
    return _compiled(function, set())


def sum_kernel(function: Callable[..., Any]) -> Any:
    """`exact_kernel` for sums in double precision, whose order is free: they are vectorized."""
    return _compiled(function, {"reassoc"})


def _compiled(function: Callable[..., Any], fastmath: set[str]) -> Any:
    # error model "numpy": a loop that may raise is not vectorized. Unwrapped: tests wrap functions in type checks.
    compiled: Any = numba.njit(nogil=True, fastmath=fastmath, error_model="numpy")(inspect.unwrap(function))
    keep_on_disk(compiled)
    return compiled


def emits(function: Callable[..., Any]) -> Any:
    """A function for kernels, from one that generates its LLVM code (Numba's `intrinsic`)."""
    return intrinsic(inspect.unwrap(function))
