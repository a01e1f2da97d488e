"""Content digests: equal for the same bytes, different for others."""

from collections.abc import Iterable
from hashlib import sha256  # processors have instructions for it: two to three times as fast as BLAKE2


def digest(contents: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits that depend on the bytes, on their order, and on where each content ends."""
    return sha256(b"".join(sha256(content).digest() for content in contents)).hexdigest()[:16]
