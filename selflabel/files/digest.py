"""What tells contents of files from others."""

from collections.abc import Iterable
from hashlib import sha256  # processors have instructions for it: two to three times as fast as BLAKE2


def digest(contents: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits of some contents: of their bytes, their order, and where one ends."""
    return sha256(b"".join(sha256(content).digest() for content in contents)).hexdigest()[:16]
