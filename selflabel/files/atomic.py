"""Files that appear complete or not at all."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".selflabel-part"


def temporary_name(path: Path) -> Path:
    """The hidden file, in the same folder and of this process alone, that becomes `path` when it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise `ValueError` if one of the files exists, where no ledger says that we wrote it."""
    for path in paths:
        if path.exists():
            raise ValueError(
                f"{path} exists and is not of an earlier run: give another --out, or --overwrite"
            )


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and move it to `path`.

    On any exception, Ctrl-C included, the temporary file is removed and an earlier `path` stays as it was.
    A killed process can leave the temporary file behind: `remove_leftovers` finds it.

    Raises `OSError` as the file system does (disk full, no permission), about `path`.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            error.filename = str(path)
            error.filename2 = None
        raise


def remove_leftovers(folder: Path, names: Iterable[str]) -> int:
    """Remove what killed runs left of the files `names` of a folder; returns the number of files removed.

    Temporary files of other names, and of other processes alive on this machine, stay: runs may share a folder.
    A folder that does not exist has none.
    """
    if not folder.is_dir():
        return 0
    wanted = frozenset(names)
    removed = 0
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(TEMPORARY_SUFFIX) or not path.name.startswith("."):
            continue
        target, _, process = path.name[1 : -len(TEMPORARY_SUFFIX)].rpartition(".")
        if process.isdigit() and target in wanted and not _alive_elsewhere(int(process)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _alive_elsewhere(process: int) -> bool:
    """True if another process of this number is alive on this machine."""
    if process in (0, os.getpid()) or os.name == "nt":  # on Windows signal 0 is Ctrl-C
        return False
    try:
        os.kill(process, 0)
    except PermissionError:  # alive, and of another user
        return True
    except (OSError, OverflowError):
        return False
    return True
