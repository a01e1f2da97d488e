"""One process at a time: locks that end with the process that holds them, and say who that is."""

import contextlib
import json
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from selflabel.files.atomic import is_alive, open_in_place

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

T = TypeVar("T")

LOCK = ".selflabel.lock"
"""The lock of a folder that has one user at a time."""
LOCKED_BYTE = 1 << 30
"""Offset of the byte that is locked on Windows: far behind the owner's name, which others are to read."""
LONGEST_NOTE = 4096
"""Bytes that are read of a lock file."""
DYING_SECONDS = 5.0
"""How long a lock is waited for whose owner is dead: its forks end as soon as they see that."""
POLL_SECONDS = 0.02
_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: the process, its machine, since when, and what for."""

    pid: int
    host: str
    since: str
    task: str

    @property
    def is_dead(self) -> bool:
        """True if that process was on this machine and is no more."""
        return self.host == platform.node() and os.name != "nt" and not is_alive(self.pid)

    def __str__(self) -> str:
        ended = ", which ended, but its worker processes have not" if self.is_dead else ""
        return f"process {self.pid} on {self.host or 'this machine'}{ended}, since {self.since} ({self.task})"


class Occupied(ValueError):
    """Another process holds what was asked for; the message says which process, and what to do."""


@contextlib.contextmanager
def held(path: Path, task: str, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` until the block or the process ends; forks of this process hold it, too.

    The file names this process and the task, in words. It is removed at the end; one that a killed process left does
    not count. patience: seconds to wait for another process to give it up.

    Raises `Occupied` if another process holds it. Raises `OSError` if the file cannot be made, or is a link. File
    systems without locks let everyone in.
    """
    lock = _patiently(path, lambda: _taken(path), patience)
    try:
        _sign(lock, task)
        yield
    finally:
        _give_up(path, lock)


def refuse_held(path: Path) -> None:
    """Raise `Occupied` if a process holds this lock file."""
    _patiently(path, lambda: None if is_held(path) else True, 0.0)


def sole_user(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold an existing folder until the block or the process ends. Raises what `held` raises."""
    return held(folder / LOCK, "the folder")


def owner_of(path: Path) -> Owner | None:
    """Who has signed a lock file; None if there is none, or it is not signed (yet)."""
    try:
        descriptor = open_in_place(path, os.O_RDONLY | _NEVER_WAIT)
    except OSError:
        return None
    try:
        note = json.loads(os.read(descriptor, LONGEST_NOTE))
        return Owner(int(note["pid"]), str(note["host"]), str(note["since"]), str(note["task"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """True if a process holds this lock file."""
    try:
        descriptor = open_in_place(path, os.O_RDWR | _NEVER_WAIT)
    except FileNotFoundError:
        return False
    except PermissionError:
        descriptor = open_in_place(path, os.O_RDONLY | _NEVER_WAIT)
    try:
        free = _try(descriptor)
        if free:
            _unlock(descriptor)
        return not free
    finally:
        os.close(descriptor)


def _patiently(path: Path, attempt: Callable[[], T | None], patience: float) -> T:
    """What `attempt` gives, once that is not None. Raises `Occupied` when patience ends."""
    now = time.monotonic()
    until, dying = now + patience, now + patience + DYING_SECONDS
    while (found := attempt()) is None:
        owner = owner_of(path)
        if time.monotonic() > (dying if owner is None or owner.is_dead else until):
            raise Occupied(
                f"expected {path.parent} to itself, got another process that works in it: "
                f"{owner or 'it has not said which'}: wait for it to end, or choose another folder"
            )
        time.sleep(POLL_SECONDS)
    return found


def _taken(path: Path) -> int | None:
    """The descriptor of the lock file, locked; None if another process has it."""
    while True:
        try:
            descriptor = open_in_place(path, os.O_RDWR | os.O_CREAT | _NEVER_WAIT)
        except PermissionError:  # another user's, who may be gone: a lock needs no right to write
            descriptor = open_in_place(path, os.O_RDONLY | _NEVER_WAIT)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(None, "is no file: remove it, or choose another folder", str(path))
            if not _try(descriptor):
                os.close(descriptor)
                return None
            if _is_there(path, descriptor):
                return descriptor
            os.close(descriptor)  # the one before us removed it: the lock of a name that nobody sees
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise


def _is_there(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


def _sign(lock: int, task: str) -> None:
    """Write who holds it, for people; a full disk is no reason not to work."""
    owner = Owner(os.getpid(), platform.node(), datetime.now().astimezone().isoformat(" ", "seconds"), task)
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.lseek(lock, 0, os.SEEK_SET)
        os.write(lock, json.dumps(asdict(owner)).encode() + b"\n")


def _give_up(path: Path, lock: int) -> None:
    """Remove the file while it is held, so that no other process can have taken it; then let go, forks included."""
    with contextlib.suppress(OSError):
        path.unlink()
    _unlock(lock)
    os.close(lock)
    if os.name == "nt":  # pragma: no cover - Windows keeps files that are open
        with contextlib.suppress(OSError):
            path.unlink()


def _try(descriptor: int) -> bool:
    """Lock the file; False if another process has it. True where there are no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:  # pragma: no cover - Windows
            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # pragma: no cover - a file system that knows no locks
        return True
    return True


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        elif msvcrt is not None:  # pragma: no cover - Windows
            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
