"""How kernels on tables are launched, and the blocks of columns that their programs work on.

Triton binds and checks all arguments at every launch, which takes longer than many kernels run. Here a compiled kernel
is kept for each form of its arguments, and launched without more.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

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

    The form: types and alignment of arrays, whether the number `pixels` is a multiple of sixteen, and the constants,
    which are the last parameters, in capitals. There is one version for all values of other numbers.
    """

    def __init__(self, function: Callable[..., Any], warps: int = 4) -> None:
        """`warps`: of 32 threads, in a program."""
        # products and sums are rounded together in all versions: 3.10 would not by default, 3.9 warns of that
        self._options = {"num_warps": warps, "enable_fp_fusion": True}
        self._function = inspect.unwrap(function)
        self._names = list(inspect.signature(self._function).parameters)
        self._numbers = sum(not name.isupper() for name in self._names)
        self._jit: Any = None
        self._arrays: list[int] = []
        self._whole: list[int] = []
        self.is_direct = True
        self._compiled: dict[tuple[object, ...], Any] = {}

    def __call__(self, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch programs on the device of the first argument, an array."""
        device = arguments[0].device
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            self._launch(device.index or 0, grid, arguments)
        else:
            with torch.cuda.device(device):
                self._launch(device.index or 0, grid, arguments)

    def prepared(self, device: int, arguments: tuple[Any, ...]) -> "Prepared | None":
        """What was compiled for arguments of this form; None if nothing was, or Triton launches it by itself."""
        form, given = self._form(device, arguments)
        compiled = self._compiled.get(form)
        return Prepared(compiled, given) if self.is_direct and compiled is not None else None

    def run(
        self, prepared: "Prepared", device: int, grid: tuple[int, ...], arguments: tuple[Any, ...]
    ) -> None:
        """Launch what was prepared for these arguments, on the current device."""
        compiled, given = prepared
        stream = torch._C._cuda_getCurrentRawStream(device)
        sizes = (*grid, 1, 1)[:3]
        # no metadata, and no hooks before and after
        about = compiled.function, compiled.packed_metadata, None, None, None
        try:
            compiled.run(*sizes, stream, *about, *given)
        except TypeError:  # Triton 3.2 takes other arguments
            self.is_direct = False
            self._jit[grid](*arguments, **self._options)

    def _launch(self, device: int, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        if self._jit is None:
            self._made(arguments)
        prepared = self.prepared(device, arguments)
        if prepared is None:
            made = self._jit[grid](*arguments, **self._options)
            self._compiled[self._form(device, arguments)[0]] = made  # None from the interpreter
        else:
            self.run(prepared, device, grid, arguments)

    def _form(self, device: int, arguments: tuple[Any, ...]) -> tuple[tuple[object, ...], list[Any]]:
        """What compiled code depends on, and arguments for it: addresses for arrays, which Triton would look up."""
        form: list[object] = [device, arguments[self._numbers :]]
        given = list(arguments)
        for place in self._arrays:
            array = arguments[place]
            given[place] = address = array.data_ptr()
            form += array.dtype, address % ALIGNED
        for place in self._whole:
            number = arguments[place]
            form.append(number < 2**31)
            if self._names[place] == "pixels":
                form += number % ALIGNED == 0, number == 1
        return tuple(form), given

    def _made(self, arguments: tuple[Any, ...]) -> None:
        """The function for Triton, which must know the alignment of arrays to read them in vectors."""
        given = list(enumerate(arguments[: self._numbers]))
        self._arrays = [place for place, each in given if isinstance(each, Tensor)]
        self._whole = [place for place, each in given if isinstance(each, int)]
        fixed = [self._names[place] for place in self._whole if self._names[place] != "pixels"]
        self._jit = triton.jit(self._function, do_not_specialize=fixed)


class Prepared(NamedTuple):
    """A compiled kernel, and the arguments that it is run with."""

    compiled: Any
    given: list[Any]


class Launch:
    """A launch with given arguments, to be repeated: their form is looked up once, and arrays keep their memory.

    Cheap until it is called.
    """

    def __init__(self, kernel: Kernel, grid: tuple[int, ...], *arguments: Any) -> None:
        self._kernel, self._grid, self._arguments = kernel, grid, arguments
        self._device: int = arguments[0].device.index or 0
        self._prepared: Prepared | None = None

    def __call__(self) -> None:
        """Launch once more."""
        kernel, prepared = self._kernel, self._prepared
        if prepared is None:
            prepared = self._prepared = kernel.prepared(self._device, self._arguments)
        if prepared is not None and kernel.is_direct and self._device == torch.cuda.current_device():
            kernel.run(prepared, self._device, self._grid, self._arguments)
        else:
            kernel(self._grid, *self._arguments)


def blocks(count: int, block: int) -> int:
    """Blocks that hold so many."""
    return -(-count // block)


def power_of_two(count: int) -> int:
    """The least one that is not less."""
    return 1 << (count - 1).bit_length()


def padded(columns: int) -> int:
    """Columns of a table for so many: rows of whole vectors of four, and wide ones of whole 32-byte sectors."""
    return 4 if columns <= 4 else blocks(columns, 8) * 8


def tile(width: int, parts: int = 1) -> tuple[int, int]:
    """Rows and columns of a block of a table of this width, or of a part of one."""
    columns = min(WIDEST, power_of_two(width))
    return TILE // parts // columns, columns
