"""Memory for large labels, kept while a solver works: on Linux the C library gives it back at every operation.

glibc takes blocks of more than 32 MB from the system, and gives them back as soon as they are free. Such a block costs
a fault a page when it is first written, which takes several times as long as to write it, and every temporary of a
solver is a new one: seconds would grow two or three times as fast as labels do where these pass 32 MB. What is smaller
lies one after the other, but of that, too, all that is free at the end is given back as soon as it is more than twice
the largest block: a solver begins on new memory each time.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

LARGE = 4 << 20
"""Labels of so many bytes: below, a solver works on less than the C library would keep anyway."""

HUGE = 1 / 64
"""After labels of such a part of the machine's memory what a solver worked on goes back to the system, which is up to
twenty times as much; else the next solve finds it.
"""

# malloc.h, and what glibc's own threshold of mapped blocks grows to when large blocks are freed
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER, NONE, ANY = -1, 0, 65536
LARGEST_THRESHOLD = 32 << 20

_lock = Lock()
_users, _any_huge = 0, False


@contextmanager
def kept_memory(labels: Tensor) -> Iterator[None]:
    """What is freed in this context is used again in it, by all threads of the process.

    Only for labels that are `LARGE`, on the CPU. Does nothing elsewhere than on Linux with glibc, nor if the
    environment says how malloc is to work.
    """
    is_large = labels.device.type == "cpu" and labels.nbytes >= LARGE
    library = _glibc() if is_large else None
    if library is None:
        yield
        return
    _enter(library)
    try:
        yield
    finally:
        _leave(library, trim=labels.nbytes >= HUGE * _machine())


def _enter(library: Any) -> None:
    global _users
    with _lock:
        _users += 1
        library.mallopt(TRIM_THRESHOLD, NEVER)
        library.mallopt(MMAP_MAX, NONE)


def _leave(library: Any, *, trim: bool) -> None:
    """The last of several at a time puts things back, but that memory is given back when asked only."""
    global _users, _any_huge
    with _lock:
        _users, _any_huge = _users - 1, _any_huge or trim
        if _users == 0:
            library.mallopt(MMAP_MAX, ANY)
            library.mallopt(MMAP_THRESHOLD, LARGEST_THRESHOLD)
            if _any_huge:
                library.malloc_trim(0)
            _any_huge = False


def _forget() -> None:
    """In a process that was forked while others here were at work: they are not there."""
    global _users, _any_huge, _lock
    _users, _any_huge, _lock = 0, False, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@cache
def _glibc() -> Any:
    """The C library, or None."""
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if not sys.platform.startswith("linux") or chosen:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


@cache
def _machine() -> int:
    """Bytes of memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- memory to work in ---

KEPT = 256 << 20
"""So many bytes of memory to work in are kept at most."""


_kept: dict[int, Array] = {}


@contextmanager
def scratch(shape: tuple[int, ...], dtype: Any) -> Iterator[Array]:
    """An array to work in, of any content.

    Its memory is kept for the next one: memory that is new costs a fault a page when it is first touched, and those
    of two threads wait for each other; it takes longer than to blur what is in it.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    block = _kept_block(size)
    try:
        yield block[:size].view(kind).reshape(shape)
    finally:
        if sum(other.nbytes for other in list(_kept.values())) + block.nbytes <= KEPT:
            _kept[id(block)] = block


def _kept_block(size: int) -> Array:
    """At least so many bytes, and at most four times as many."""
    for number, block in list(_kept.items()):
        if (
            size <= block.nbytes <= 4 * size and _kept.pop(number, None) is not None
        ):  # no other thread took it
            return block
    return np.empty(size, np.uint8)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Of any content. Numpy asks the system for large pages, with far fewer faults when they are first touched."""
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype))
