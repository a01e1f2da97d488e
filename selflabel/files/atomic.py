"""Files that appear complete or not at all, and never through a link.

Temporary files are made anew under names that cannot be foreseen, and links are never followed: in a folder that others
can write to, a planted link leads nowhere.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".selflabel-part"
LONGEST_NAME = 180
"""Bytes of a file's name that its temporary file keeps; file systems allow 255 in all."""

_LEFTOVER = re.compile(rf"\.(.+)\.(\d+)\.[0-9a-f]{{16}}{re.escape(TEMPORARY_SUFFIX)}", re.DOTALL)
_ONLY_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
_THIS_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def refuse_existing(paths: Iterable[Path], ledger: Path) -> None:
    """Raise `ValueError` if one of the files exists, where there is no `ledger` that says that we wrote it."""
    for path in paths:
        if os.path.lexists(path):
            raise ValueError(
                f"{path} exists and is not of an earlier run, as there is no {ledger.name}: put that back if it was "
                f"deleted, give another --out, or --overwrite"
            )


def refuse_link(path: Path) -> None:
    """Raise `ValueError` if the path is a link: what is written there would land elsewhere, or replace the link."""
    if path.is_symlink():
        raise ValueError(f"{path} is a link (to {os.readlink(path)}): remove it, or write elsewhere")


def is_plain_file(path: Path) -> bool:
    """True for a file, False if there is nothing.

    Raises `ValueError` for what a file of ours never is: a link, a folder, a pipe, a device.
    """
    refuse_link(path)
    if path.is_file():
        return True
    if path.exists():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise ValueError(f"expected {path} to be a file, got {kind}: remove it, or write elsewhere")
    return False


def open_in_place(path: Path | str, flags: int) -> int:
    """The descriptor of a file that is read or appended to, made if there is none; never through a link.

    Raises `OSError` for a link.
    """
    try:
        return os.open(path, flags | _THIS_FILE, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "is a link: remove it, or write elsewhere", str(path)) from error


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and move it to `path`.

    On any exception, Ctrl-C included, the temporary file is removed and an earlier `path` stays as it was.
    A killed process can leave the temporary file behind: `remove_leftovers` finds it. A link at `path` is replaced,
    not followed.

    Raises `OSError` as the file system does (disk full, no permission), about `path`.
    """
    write_together({path: write})


def write_together(files: Mapping[Path, Callable[[BinaryIO], object]]) -> None:
    """`write_atomic` for files that belong together: none is replaced before all are on disk.

    Raises `OSError` about the file that could not be written; then all are as they were, unless moving one of them
    into its place failed.
    """
    made: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            with _about(path), _new_file(path, made) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            with _about(path):
                _refuse_device(path)
                os.replace(made[path], path)
                del made[path]
    finally:
        for temporary in made.values():
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink()


def remove_leftovers(folder: Path, names: Iterable[str]) -> int:
    """Remove what killed runs left of the files `names` of a folder; returns the number of files removed.

    Temporary files of other names, and of other processes alive on this machine, stay: runs may share a folder.
    A folder that does not exist has none.
    """
    if not folder.is_dir():
        return 0
    wanted = frozenset(map(_short, names))
    removed = 0
    for path in sorted(folder.iterdir()):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or found[1] not in wanted or _alive_elsewhere(int(found[2])):
            continue
        with contextlib.suppress(OSError):  # a folder of that name, or a file of another user: not ours
            path.unlink()
            removed += 1
    return removed


def _refuse_device(path: Path) -> None:
    """Raise `OSError` for a pipe, a device or a socket, which no file is to replace."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EEXIST, "is a pipe or a device: write elsewhere", str(path))


def _new_file(path: Path, made: dict[Path, Path]) -> BinaryIO:
    """A file beside `path` that did not exist, entered in `made`."""
    name = f".{_short(path.name)}.{os.getpid()}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    temporary = path.with_name(name)
    made[path] = temporary  # first: an interruption in between leaves nothing behind
    return open(os.open(temporary, _ONLY_NEW | _THIS_FILE, 0o666), "w+b")


def _short(name: str) -> str:
    """The name, or a digest of one so long that no temporary file could be named after it."""
    data = os.fsencode(name)
    return name if len(data) <= LONGEST_NAME else sha256(data).hexdigest()


@contextlib.contextmanager
def _about(path: Path) -> Iterator[None]:
    """Have errors of the file system name `path`, not the temporary file."""
    try:
        yield
    except OSError as error:
        named = str(error.filename).endswith(TEMPORARY_SUFFIX)
        if named or (error.filename is None and error.errno is not None):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _alive_elsewhere(process: int) -> bool:
    """True if another process of this number is alive on this machine."""
    return process != os.getpid() and is_alive(process)


def is_alive(process: int) -> bool:
    """True if a process of this number is alive on this machine; False where that cannot be known.

    One that has ended and only waits for its parent to notice is not alive.
    """
    if process <= 0 or os.name == "nt":  # on Windows signal 0 is Ctrl-C
        return False
    try:
        os.kill(process, 0)
    except PermissionError:  # alive, and of another user
        return True
    except (OSError, OverflowError):
        return False
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[:1]
    except OSError:  # no Linux, or it has just ended
        return False
    return state in ([b"Z"], [b"X"])
