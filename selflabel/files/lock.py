"""One process at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: no lock there
    fcntl = None


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold an existing folder until the block or the process ends; the lock leaves no file behind.

    Raises `ValueError` if another process holds it. File systems without locks, and Windows, let everyone in.
    """
    if fcntl is None:  # pragma: no cover
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"expected {folder} to itself, got another process that works in it: wait for it to end, or "
                f"choose another folder"
            ) from error
        except OSError:  # pragma: no cover - a file system that knows no locks
            pass
        yield
    finally:
        os.close(handle)
