"""Files of torch that carry the digest of their own bytes: a change anywhere in them is found when they are read."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from selflabel.files.atomic import write_atomic

NAME = b"selflabel sha256 "
SEAL_BYTES = len(NAME) + 64
"""Of the zip comment that ends a file: the name, then the digest of all bytes before in hexadecimal."""
EMPTY_COMMENT = b"\0\0"
"""How a zip file without a comment ends: the length of the comment in two bytes."""
BLOCK = 2**20
REMEDY = "put a copy of it back, or start the run anew in another folder"


def save_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, complete or not at all. `torch.load` reads the file as any other.

    Raises `OSError` as the file system does.
    """

    def write(file: BinaryIO) -> None:
        sealing = _Sealing(file)
        torch.save(content, cast(BinaryIO, sealing))  # it needs the method `write` alone
        sealing.close()

    write_atomic(path, write)


def load_sealed(path: Path, device: torch.device | str = "cpu") -> Any:
    """The content of a file of `save_sealed`; no code in it is run.

    Raises `ValueError`, naming the file, if it cannot be read, or if a byte is not as it was written. Cost: the file
    is read twice, once for its digest.
    """
    if not path.is_file():  # a pipe would never end
        there = "no file" if path.exists() else "nothing there"
        raise ValueError(f"{path} cannot be read as a checkpoint: expected a file, got {there}")
    try:
        with open(path, "rb") as file:
            _check(file, path)
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    except ValueError:
        raise
    except (
        Exception
    ) as error:  # what unpickling raises depends on the content: all of it was sealed by others
        raise ValueError(
            f"{path} cannot be read as a checkpoint: {type(error).__name__} {error}: {REMEDY}"
        ) from error


class _Sealing:
    """A file for `torch.save` to write a zip file to, whose comment becomes the seal."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = sha256()
        self.last = b""

    def write(self, data: bytes | memoryview) -> int:
        """Write all but the last two bytes, which hold the length of the comment."""
        # torch hands over bytes or a view of memory that it uses again
        whole = self.last + bytes(data)
        kept = whole[-len(EMPTY_COMMENT) :]
        self._put(whole[: -len(kept)])
        self.last = kept
        return len(data)

    def flush(self) -> None:
        """Nothing: `write_atomic` flushes."""

    def close(self) -> None:
        """Write the length of the seal, and the seal."""
        assert self.last == EMPTY_COMMENT, "torch.save writes a zip file without a comment"
        self._put(SEAL_BYTES.to_bytes(2, "little"))
        self.file.write(NAME + self.digest.hexdigest().encode())

    def _put(self, data: bytes) -> None:
        self.digest.update(data)
        self.file.write(data)


def _check(file: BinaryIO, path: Path) -> None:
    """Raise `ValueError` unless the file ends with the digest of what is before."""
    left = file.seek(0, 2) - SEAL_BYTES
    seal = b""
    if left > 0:
        file.seek(left)
        seal = file.read()
        file.seek(0)
    if not seal.startswith(NAME):
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it does not end with its digest, as it is damaged, cut, or of "
            f"another program: {REMEDY}"
        )
    found = sha256()
    while left > 0:
        block = file.read(min(BLOCK, left))
        if not block:
            break
        found.update(block)
        left -= len(block)
    if seal != NAME + found.hexdigest().encode():
        raise ValueError(
            f"{path} cannot be read as a checkpoint: its bytes are not those that were written (damaged or "
            f"edited): {REMEDY}"
        )
