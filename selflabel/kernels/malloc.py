"""`keep_freed_memory`: a program's choice to keep the memory that it frees. The library never makes it.

On Linux, glibc maps each block of more than 32 MB anew and unmaps it when it is freed, and returns the free end of the
heap. New memory costs a page fault every 4 kB, several times as long as writing to it, and every temporary of a solver
is new memory: beyond 32 MB the seconds of a solve grow two to three times as fast as its labels.
"""

import ctypes
import os
import sys
from typing import Any

# malloc.h
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER, NO_BLOCKS = -1, 0


def keep_freed_memory() -> bool:
    """Keep the memory that this process frees for its next allocations, from now on.

    For programs that solve many large problems; call it once, at the start. It changes malloc for the whole process:
    its memory stays at its peak until it ends (``malloc_trim(0)`` of the C library returns what is free). The command
    `selflabel` does so; processes forked later inherit it.

    Returns whether it took effect: it does nothing without glibc, or if the environment sets up malloc itself
    (MALLOC_*, GLIBC_TUNABLES).
    """
    library = _glibc()
    if library is None:
        return False
    library.mallopt(TRIM_THRESHOLD, NEVER)
    library.mallopt(MMAP_MAX, NO_BLOCKS)
    return True


def _glibc() -> Any:
    """The C library, or None if it is not glibc or the environment configures it."""
    is_configured = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if not sys.platform.startswith("linux") or is_configured:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
