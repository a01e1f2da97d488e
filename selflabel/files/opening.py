"""Opening the files of users: every reader takes its bytes from `read_file`, and every failure is a `FileError`."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 2**33
"""Size of a file in bytes, 8 GiB: none of the kinds that are read whole is larger in practice."""
MOST_TEXT_BYTES: Final = 2**26
"""Size of a list or a configuration in bytes, 64 MiB: a million names of 64 letters."""

_UNREADABLE = "cannot be read"

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class FileError(ValueError):
    """A file that cannot be used. The message begins with the file and says what is wrong and what to do.

    Whatever reading and decoding of a file raise ends in this error: a boundary around many files needs no other.
    what: "seeds", "image", ...: the message has the file's name then; "": its path.
    reason: the message without the file, the same for files with the same fault.
    """

    def __init__(self, path: Path, reason: str, what: str = "") -> None:
        super().__init__(path, reason, what)
        self.path, self.reason, self.what = path, reason, what

    def __str__(self) -> str:
        name = f"{self.what} {self.path.name}" if self.what else str(self.path)
        return f"{name}{' ' if self.reason.startswith(_UNREADABLE) else ': '}{self.reason}"


@contextmanager
def about(path: Path, what: str = "") -> Iterator[None]:
    """Turn whatever the block raises into a `FileError` of the path; `what` as there.

    Decoders raise nearly anything on damaged bytes: `struct.error`, `zlib.error`, `SyntaxError`, `IndexError`,
    `MemoryError`. A `FileError` of an inner block, Ctrl-C and the end of the process pass as they are.
    """
    try:
        yield
    except FileError:
        raise
    except Exception as error:
        raise FileError(path, _reason(error), what) from error


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file; links are followed.

    Raises `FileError` if there is none or no permission, and, without opening it, for what is no regular file (a
    named pipe would wait forever, a device never end), for links in a loop, and for more than `most` bytes.
    """
    with about(path):
        _check(os.stat(path), most)
        # between the two the path may have changed: a pipe opened without waiting is seen by its handle
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            _check(os.fstat(handle), most)
            data = file.read(most + 1)
        if len(data) > most:  # it grows, or its size is not known: /proc
            raise ValueError(f"expected at most {most} bytes, got more")
        return data


def read_text_file(path: Path, most: int = MOST_TEXT_BYTES) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises `FileError` as `read_file` does, and for bytes that are no UTF-8.
    """
    data = read_file(path, most)
    with about(path):
        return data.decode("utf-8-sig")


def _check(status: os.stat_result, most: int) -> None:
    for is_kind, name in _KINDS:
        if is_kind(status.st_mode):
            raise ValueError(f"expected a file, got {name}")
    if status.st_size > most:
        raise ValueError(f"expected at most {most} bytes, got {status.st_size}")


def _reason(error: Exception) -> str:
    """What is wrong with a file: the message alone where a check of ours refuses it, else that it cannot be read."""
    if type(error) is ValueError and str(error):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"{_UNREADABLE}: expected text in UTF-8, got the byte {byte:#04x} at {error.start}: save it as UTF-8"
    if isinstance(error, MemoryError):
        return f"{_UNREADABLE}: it needs more memory than there is; it is damaged, or the image too large"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"{_UNREADABLE}: {error.strerror}"
    if isinstance(error, OSError | ValueError | SyntaxError | EOFError) and str(error):
        return f"{_UNREADABLE}: {error}"
    return f"{_UNREADABLE}: it is damaged ({type(error).__name__}: {error})"
