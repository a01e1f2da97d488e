"""How kernels are compiled."""

import hashlib
import inspect
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.extending import intrinsic
from numpy.typing import NDArray

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
    try:
        compiled._cache = _Cache(compiled.py_func)
    except (RuntimeError, OSError) as error:  # "no locator available": no folder can be written to
        _warn(error)
    return compiled


class _Cache(FunctionCache):
    """Machine code on disk, which may be gone, damaged, or left there by another version of the library.

    What cannot be read is compiled again; what cannot be written is compiled in each process. Numba itself passes on
    whatever goes wrong with its files, and reads the types of arguments before it asks how old a file is.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        name, stamp = f"{self._impl.filename_base}.sealed", self._impl.locator.get_source_stamp()
        self._cache_file = _SealedFile(self._cache_path, name, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """None, so that the function is compiled, if nothing that is whole is there."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            if not isinstance(error, AttributeError | ImportError):  # those: a record has another name by now
                _warn(error)
        with suppress(Exception):
            self.flush()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """As far as the disk lets it."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn(error)


class _SealedFile(IndexDataCacheFile):
    """Files that name the key of their code, and end with a digest.

    Code that was changed would crash the process, and two processes that save code for different types at once may give
    both the same file.
    """

    def save(self, key: Any, data: Any) -> None:
        """With its key."""
        super().save(key, (repr(key), data))

    def load(self, key: Any) -> Any:
        """None for the code of another key."""
        name, data = super().load(key) or (None, None)
        return data if name == repr(key) else None

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        code, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
        if hashlib.sha256(code).digest() != seal:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(code)


SEAL_BYTES = 32


@cache
def _warn_once() -> None:
    """Nothing, after the first call."""


def _warn(error: Exception) -> None:
    """Say once a process that compiled code on disk is of no use."""
    if _warn_once.cache_info().currsize:
        return
    _warn_once()
    warnings.warn(
        f"compiled code on disk cannot be used and is compiled again, which takes a minute ({type(error).__name__}: "
        f"{error}): if this comes again, set NUMBA_CACHE_DIR to a folder that can be written to",
        RuntimeWarning,
        stacklevel=3,
    )


def emits(function: Callable[..., Any]) -> Any:
    """A function for kernels, from one that generates its LLVM code (Numba's `intrinsic`)."""
    return intrinsic(inspect.unwrap(function))
