"""How kernels are compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache
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
    compiled: Any = compile_(inspect.unwrap(function))
    compiled._cache = _Cache(compiled.py_func)
    return compiled


class _Cache(FunctionCache):
    """Machine code on disk, which another version of the library may have left there.

    Numba reads the types of arguments before it asks how old the file is, and fails where a record is gone.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """None, so that the function is compiled again, for files that cannot be read."""
        try:
            return super().load_overload(sig, target_context)
        except (AttributeError, ImportError):
            self.flush()
            return None


def emits(function: Callable[..., Any]) -> Any:
    """A function for kernels, from one that generates its LLVM code (Numba's `intrinsic`)."""
    return intrinsic(inspect.unwrap(function))
