"""Working memory of kernels: is there enough, and arrays of any content, reused where that saves page faults."""

import math
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selflabel.kernels.threads import num_threads

Array = NDArray[Any]

KEPT_BYTES = 256 << 20
"""Bytes of free working memory that are kept for the next use, at least."""

KEPT_BY_THREAD = 64 << 20
"""The same for each thread, where these are more: each may work on an image of its own."""


SMALL_BYTES = 64 << 20
"""Bytes that are asked for without a look at what there is."""

MEMORY_FILE = Path("/proc/meminfo")
"""On Linux: lines such as "MemAvailable:  1234 kB"."""

GROUP_FOLDERS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
"""On Linux: the control group of a container, versions 2 and 1."""


def require_memory(nbytes: int, what: str, advice: str) -> None:
    """Raise `MemoryError` if `nbytes` are more than this process can get: native code ends the process instead.

    Passes where the system does not tell.
    """
    if nbytes <= SMALL_BYTES:
        return
    there = available_memory()
    if there is not None and nbytes > there:
        raise MemoryError(
            f"{what} take {_gigabytes(nbytes)} of memory, and {_gigabytes(there)} are free: {advice}"
        )


def is_out_of_memory(error: Exception) -> bool:
    """True where Python, torch on the CPU (a `RuntimeError` as any other) or torch on a GPU lack memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def available_memory() -> int | None:
    """Bytes that this process can get: free memory and swap, within the limits of its container and its own.

    Only Linux tells what is free; elsewhere all memory counts, and None where not even that is known (Windows).
    """
    limits = [limit for limit in (_free(), _left_in_group(), _left_to_process()) if limit is not None]
    return max(0, min(limits)) if limits else None


def _free() -> int | None:
    with suppress(OSError, KeyError, ValueError):
        lines = (line.split() for line in MEMORY_FILE.read_text().splitlines())
        table = {words[0]: int(words[1]) << 10 for words in lines if len(words) > 1}
        return table["MemAvailable:"] + table.get("SwapFree:", 0)
    # other systems than Linux: no more than there is at all
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _left_in_group() -> int | None:
    """What a container has left; files that it has read make room."""
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for folder, (limit, used) in zip(GROUP_FOLDERS, names, strict=True):
        with suppress(OSError, ValueError):  # "max": no limit
            words = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            table = {name: int(value) for name, value in words}
            files = table.get("inactive_file", 0) + table.get("active_file", 0)
            return int((folder / limit).read_text()) - int((folder / used).read_text()) + files
    return None


def _left_to_process() -> int | None:
    """What `ulimit -v` leaves."""
    if sys.platform != "linux":
        return None
    import resource  # not on Windows

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError, ValueError):
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return None


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GB"


class FreeBlocks:
    """Blocks of bytes that nobody uses, at most `limit` bytes in all. Threads may share it."""

    def __init__(self, least: int, by_thread: int = 0) -> None:
        """The limit: so many bytes, or so many for each thread, whichever are more."""
        self._least, self._by_thread = least, by_thread
        self._blocks: dict[int, Array] = {}

    @property
    def limit(self) -> int:
        return max(self._least, self._by_thread * num_threads())

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in list(self._blocks.values()))

    def take(self, size: int) -> Array:
        """A block of `size` bytes or more: a kept one of at most four times as many, else a new one."""
        for number, block in list(self._blocks.items()):
            fits = size <= block.nbytes <= 4 * size
            if fits and self._blocks.pop(number, None) is not None:  # no other thread took it
                return block
        return np.empty(size, np.uint8)

    def give(self, block: Array) -> None:
        """Keep a block, if there is room for it."""
        if self.nbytes + block.nbytes <= self.limit:
            self._blocks[id(block)] = block


FREE = FreeBlocks(KEPT_BYTES, KEPT_BY_THREAD)


@contextmanager
def scratch(shape: tuple[int, ...], dtype: Any) -> Iterator[Array]:
    """An array of any content; its memory is kept for the next one.

    New memory costs a page fault every 4 kB, and threads wait for each other's: longer than a blur of its content.
    """
    block, array = _taken(shape, dtype)
    try:
        yield array
    finally:
        FREE.give(block)


def working_array(owner: object, shape: tuple[int, ...], dtype: Any) -> Array:
    """As `scratch`, for as long as the owner lives. It must not let views of the array outlive it."""
    block, array = _taken(shape, dtype)
    weakref.finalize(owner, FREE.give, block).atexit = False
    return array


def _taken(shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """A block, and the array at its start."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    block = FREE.take(size)
    return block, block[:size].view(kind).reshape(shape)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of any content. Numpy asks for huge pages, which take far fewer faults than torch's."""
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype))
