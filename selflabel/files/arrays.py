"""Arrays in npy, npz and TIFF files: their shapes before their values. No pickle is opened."""

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Shaped

from selflabel.files.tiff_stacks import tiff_stack, tiff_stack_shape
from selflabel.files.tiffs import is_tiff

TIFF_SUFFIXES: Final = (".tif", ".tiff")
ARRAY_SUFFIXES: Final = (".npz", ".npy", *TIFF_SUFFIXES)
HEADER_BYTES: Final = 2**14
"""Of an npy file; numpy reads headers of at most 10,000 letters."""
ZIP: Final = b"PK"
"""The first bytes of zip files, which npz files are."""
NPY: Final = b"\x93NUMPY"
PICKLE: Final = b"\x80"
"""The first byte of pickles since protocol 2."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: what its header says, and how to `read` its values.

    Reading raises `OSError` if the file is damaged, or for Python objects.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Shaped[np.ndarray, "..."]]


def stored_arrays(data: bytes, suffix: str) -> dict[str, StoredArray]:
    """The arrays in the bytes of a file by name; npy and TIFF files have one, named "", in TIFF files [k h w].

    The bytes decide the format; `suffix` does where they are of none. Raises `OSError` for damaged files and those of
    other formats, `ValueError` for pickles, files of torch, and TIFF files as `tiff_stack` does.
    """
    if holds_tiff(data, suffix):
        return {"": _of_tiff(data)}
    try:
        if data.startswith(ZIP) or (suffix.lower() == ".npz" and not data.startswith(NPY)):
            return _of_npz(data)
        return {"": _of_npy(data, len(data), lambda: data)}
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(f"damaged npy or npz file: {error}") from error


def holds_tiff(data: bytes, suffix: str) -> bool:
    """Whether the bytes are those of a TIFF file; as the suffix says where they are of no format that is read."""
    return is_tiff(data) or (suffix.lower() in TIFF_SUFFIXES and not data.startswith((ZIP, NPY)))


def _of_npz(data: bytes) -> dict[str, StoredArray]:
    found: dict[str, StoredArray] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for entry in file.infolist():
            name = entry.filename.removesuffix(".npy")
            if name != entry.filename:
                with file.open(entry) as member:
                    head = member.read(HEADER_BYTES)
                found[name] = _of_npy(head, entry.file_size, _Member(data, entry.filename))
            elif name.endswith("data.pkl"):
                raise ValueError(
                    "expected an npz file, got one of torch, a pickle, which is not opened: "
                    "np.save(name, tensor.numpy())"
                )
    return found


@dataclass(frozen=True)
class _Member:
    """The bytes of a member of a zip file, unpacked when it is called."""

    data: bytes
    name: str

    def __call__(self) -> bytes:
        with zipfile.ZipFile(io.BytesIO(self.data)) as file:
            return file.read(self.name)


def _of_npy(head: bytes, size: int, contents: Callable[[], bytes]) -> StoredArray:
    """The array in a file of `size` bytes, of which the first are given."""
    if head.startswith(PICKLE):
        raise ValueError("expected an npy file, got a pickle, which is not opened: save numbers with np.save")
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        kinds = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, _, dtype = kinds[version[0] - 1](file)
    except ValueError as error:
        raise OSError(f"damaged npy or npz file: {error}") from error
    wanted = 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
    if wanted > size - file.tell():
        raise OSError(f"damaged npy or npz file: expected {wanted} bytes of values, got {size - file.tell()}")

    def read() -> Shaped[np.ndarray, "..."]:
        try:
            return np.asarray(np.lib.format.read_array(io.BytesIO(contents()), allow_pickle=False))
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise OSError(f"damaged npy or npz file: {error}") from error

    return StoredArray(shape, dtype, read)


def _of_tiff(data: bytes) -> StoredArray:
    shape, dtype = tiff_stack_shape(data)
    return StoredArray(shape, dtype, lambda: tiff_stack(data))
