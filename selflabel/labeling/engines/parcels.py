"""Arrays that pass from process to process: through memory that they share, where there is some, without a copy."""

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

OPEN_FILES = Path("/proc/self/fd")
"""On Linux: the open files of a process by number, for other processes to open, too."""

ALIGNMENT_BYTES = 64
"""Arrays in a block begin at multiples of it."""


class Blocks:
    """Blocks of memory in this process, which others open by `path`; each is lent to one image at a time.

    They have no names in a file system: they are gone with this process, however it ends. A block keeps its size for
    the next image: new memory costs a page fault every 4 kB. Without memory of this kind (other systems than Linux)
    paths are "", and parcels hold their arrays.
    """

    def __init__(self) -> None:
        self.is_shared = hasattr(os, "memfd_create") and OPEN_FILES.is_dir()
        self.lent: list[str] = []
        self.free: list[str] = []
        self._files: list[int] = []

    @property
    def nbytes(self) -> int:
        """Of all blocks, lent or free."""
        return sum(os.fstat(file).st_size for file in self._files)

    def lend(self) -> str:
        """The path of a free block, or of a new one."""
        if self.free:
            path = self.free.pop()
        elif self.is_shared:
            self._files.append(os.memfd_create("selflabel"))
            path = f"/proc/{os.getpid()}/fd/{self._files[-1]}"
        else:
            path = ""
        self.lent.append(path)
        return path

    def give_back(self, path: str) -> None:
        """The block is free again."""
        self.lent.remove(path)
        self.free.append(path)

    def close(self) -> None:
        """Free the memory, once other processes have."""
        while self._files:
            os.close(self._files.pop())


@dataclass(frozen=True)
class Place:
    """Where an array lies in a block."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Parcel:
    """Arrays by name: in the block at `path`, or held, and then copied from process to process."""

    path: str
    places: Mapping[str, Place]
    held: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def pack(cls, path: str, arrays: Mapping[str, Array], room: Mapping[str, Place]) -> "Parcel":
        """Arrays, and room for more, which `add` writes. Raises `OSError` where memory for the block is lacking."""
        places, end = {}, 0
        like = {name: Place(0, array.shape, array.dtype.str) for name, array in arrays.items()}
        for name, each in {**like, **room}.items():
            places[name] = Place(end, each.shape, each.dtype)
            end += -(-each.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        parcel = cls(path, places, {} if path else dict(arrays))
        if path:
            _enlarge(path, end)
            parcel._write(arrays)
        return parcel

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(place.nbytes for place in self.places.values())

    def open(self) -> dict[str, Array]:
        """The arrays, and what is in the room for others."""
        if not self.path:
            return dict(self.held)
        status = os.stat(self.path)
        memory = _mapped(self.path, status.st_ino, status.st_size)
        return {
            name: np.ndarray(place.shape, np.dtype(place.dtype), memory, place.offset)
            for name, place in self.places.items()
        }

    def add(self, arrays: Mapping[str, Array]) -> "Parcel":
        """The parcel with arrays that there was room for."""
        if not self.path:
            return Parcel("", self.places, {**self.held, **arrays})
        self._write(arrays)
        return self

    def _write(self, arrays: Mapping[str, Array]) -> None:
        there = self.open()
        for name, array in arrays.items():
            there[name][...] = array


@lru_cache(maxsize=256)
def _mapped(path: str, number: int, nbytes: int) -> mmap.mmap:
    """A block in the memory of this process; kept, as pages cost time. number: of the file, as its path may recur."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        populate = getattr(mmap, "MAP_POPULATE", 0)  # one call in place of a fault every page
        return mmap.mmap(file, nbytes, mmap.MAP_SHARED | populate)
    finally:
        os.close(file)


def _enlarge(path: str, nbytes: int) -> None:
    """Give a block at least so many bytes. Raises `OSError` here, where a write to memory would end the process."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size < nbytes:
            os.posix_fallocate(file, 0, nbytes)
    finally:
        os.close(file)
