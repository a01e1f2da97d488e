"""How kernels on tables are launched, and the blocks of columns that their programs work on.

Triton binds and checks all arguments at every launch, which takes longer than many kernels run. Here a compiled kernel
is kept for each form of its arguments, and launched without more.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

TILE = 1024
"""Numbers of a block of rows and columns that a program works on."""

BLOCK = 256
"""Pixels, entries or vertices of a program that has no columns."""

WIDEST = 32
"""Columns of a block, at most."""

ALIGNED = 16
"""Bytes: arrays that begin at multiples are read in vectors."""


def helper(function: Callable[..., Any]) -> Any:
    """A function that kernels call. Unwrapped, as tests wrap functions in type checks."""
    return triton.jit(inspect.unwrap(function))


class Kernel:
    """A kernel for Triton, compiled at its first launch with arguments of a new form; nothing at installation.

    The form: types and alignment of arrays, and the constants, which are the last parameters. Other numbers have none:
    there is one version for all of their values.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        function = inspect.unwrap(function)
        names = inspect.signature(function).parameters
        constants = [name for name in names if name.isupper()]
        self._numbers = len(names) - len(constants)
        self._jit: Any = triton.jit(function, do_not_specialize=list(names)[: self._numbers])
        self._direct = True
        self._compiled: dict[tuple[object, ...], Any] = {}

    def __call__(self, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch programs on the device of the first argument, an array."""
        device = arguments[0].device
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            self._launch(device, grid, arguments)
        else:
            with torch.cuda.device(device):
                self._launch(device, grid, arguments)

    def _launch(self, device: torch.device, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        key = (device, *map(_form, arguments[: self._numbers]), *arguments[self._numbers :])
        compiled = self._compiled.get(key)
        if compiled is None or not self._direct:
            self._compiled[key] = self._jit[grid](*arguments)  # None from the interpreter
            return
        stream = torch._C._cuda_getCurrentRawStream(device.index)
        sizes = (*grid, 1, 1)[:3]
        # no metadata, and no hooks before and after
        about = compiled.function, compiled.packed_metadata, None, None, None
        try:
            compiled.run(*sizes, stream, *about, *arguments)
        except TypeError:  # Triton 3.2 takes other arguments
            self._direct = False
            self._jit[grid](*arguments)


def _form(argument: Any) -> object:
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % ALIGNED == 0
    return type(argument) is int and argument.bit_length() < 32


def blocks(count: int, block: int) -> int:
    """Blocks that hold so many."""
    return -(-count // block)


def power_of_two(count: int) -> int:
    """The least one that is not less."""
    return 1 << (count - 1).bit_length()


def padded(columns: int) -> int:
    """Columns of a table for so many: rows of whole vectors of four, and wide ones of whole 32-byte sectors."""
    return 4 if columns <= 4 else blocks(columns, 8) * 8


def tile(width: int) -> tuple[int, int]:
    """Rows and columns of a block of a table of this width."""
    columns = min(WIDEST, power_of_two(width))
    return TILE // columns, columns
