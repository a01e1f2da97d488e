"""Machine code that is kept on disk: where it lies, who is trusted with it, and how it is read.

It lies in the user's folder of caches (``~/.cache/selflabel``, ``~/Library/Caches/selflabel``,
``%LOCALAPPDATA%\\selflabel\\Cache``), or in ``NUMBA_CACHE_DIR``: what lies in the package's own folder stays there when
the package is removed, and hides the next installation.
"""

import hashlib
import logging
import os
import pickle
import stat
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator
from numba.misc.appdirs import AppDirs

LOG: Final = logging.getLogger(__name__)
KERNELS = Path(__file__).parent
SEAL_BYTES = 32
PRIVATE = 0o700
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def keep_on_disk(compiled: Any) -> None:
    """Have a function of Numba keep its machine code; where there is no place for it, warn once a process."""
    try:
        compiled._cache = _Cache(compiled.py_func)
    except (RuntimeError, OSError) as error:  # "no locator available": its source is in no file
        _warn(error)


class _Locator(_CacheLocator):
    """Where the machine code of a function lies, and what it was made from."""

    def __init__(self, source: Path, line: int) -> None:
        self.source, self.line, self.folder = source, line, _folder(source)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator | None":
        """None for functions that are in no file. Raises `OSError` if the folder cannot be had or trusted."""
        source = Path(sys.executable if getattr(sys, "frozen", False) else py_file)
        if not source.is_file():
            return None
        found = cls(source.absolute(), py_func.__code__.co_firstlineno)
        found.ensure_cache_path()
        return found

    def ensure_cache_path(self) -> None:
        """Make the folder. Raises `OSError` if it cannot be made, or if it is not this user's alone."""
        if not _given():
            _make_private(self.folder.parent)
        _make_private(self.folder)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self.folder)

    def get_source_stamp(self) -> bytes:
        """A digest of the function's file and of all kernels, which Numba compiles into those that call them."""
        files = sorted({self.source, *KERNELS.glob("*.py")})
        return _digest(tuple((file, (found := file.stat()).st_mtime_ns, found.st_size) for file in files))

    def get_disambiguator(self) -> str:
        """Tells functions of one name in one file apart."""
        return str(self.line)


def _folder(source: Path) -> Path:
    """One for each folder of sources, Python, Numba and user: none replaces what another will read."""
    root = _given() or AppDirs("selflabel", appauthor=False).user_cache_dir
    if not _given() and not Path(root).is_absolute():
        raise FileNotFoundError(f"this user has no folder for caches: {root} is not a full path")
    user = os.getuid() if hasattr(os, "getuid") else ""
    key = f"{source.parent}\n{sys.implementation.cache_tag}\n{numba.__version__}\n{user}"
    return Path(root).absolute() / f"{source.parent.name}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _given() -> str:
    """``NUMBA_CACHE_DIR``, or nothing."""
    return str(numba.config.CACHE_DIR)  # type: ignore[attr-defined]


def _make_private(folder: Path) -> None:
    """Make a folder for this user alone. Raises `OSError` if it is there, and others may have put code into it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(PRIVATE)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{folder} is a link or a file, where a folder is expected: remove it")
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & WRITABLE_BY_OTHERS):
        raise PermissionError(f"other users may write to {folder}, which holds code that is run: remove it")


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> bytes:
    """Of the bytes of files, which are given with their times and sizes."""
    digests = [hashlib.sha256(file.read_bytes()).digest() for file, _, _ in files]
    return hashlib.sha256(b"".join(digests)).digest()


class _Implementation(CompileResultCacheImpl):
    """Numba's, with our folders alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._locator_classes = [_Locator]
        super().__init__(function)


class _Cache(FunctionCache):
    """Machine code on disk, which may be gone, damaged, or left there by another version of the library.

    What cannot be read is compiled again; what cannot be written is compiled in each process. Numba itself passes on
    whatever goes wrong with its files, and reads the types of arguments before it asks how old a file is.
    """

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._cache_file._source_stamp
        self._cache_file = _SealedFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """None, so that the function is compiled, if nothing that is whole is there; says so once a process."""
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:
            found = None
            if not isinstance(error, AttributeError | ImportError):  # those: a record has another name by now
                _warn(error)
            with suppress(Exception):
                self.flush()
        if found is None:
            _tell_once()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """As far as the disk lets it."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn(error)


class _SealedFile(IndexDataCacheFile):
    """Files that name the key of their code, and end with a digest.

    Code that was changed would crash the process, and two processes that save code for different types at once may give
    both the same file.
    """

    def save(self, key: Any, data: Any) -> None:
        """With its key."""
        super().save(key, (repr(key), data))

    def load(self, key: Any) -> Any:
        """None for the code of another key."""
        name, data = super().load(key) or (None, None)
        return data if name == repr(key) else None

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        code, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
        if hashlib.sha256(code).digest() != seal:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(code)


@cache
def _tell_once() -> None:
    """Say, at the first call, that functions are compiled."""
    LOG.info(
        "kernels are compiled: this takes about a minute, the first time that they are used on this machine"
    )


@cache
def _warn_once() -> None:
    """Nothing, after the first call."""


def _warn(error: Exception) -> None:
    """Say once a process that compiled code on disk is of no use."""
    if _warn_once.cache_info().currsize:
        return
    _warn_once()
    warnings.warn(
        f"compiled code on disk cannot be used and is compiled again, which takes a minute ({type(error).__name__}: "
        f"{error}): if this comes again, set NUMBA_CACHE_DIR to a folder that can be written to",
        RuntimeWarning,
        stacklevel=3,
    )
