"""Image files that no library at hand writes, byte by byte."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """An image as pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    """An array as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def packed(values: np.ndarray, bits: int) -> bytes:
    """Numbers [h w] of 1, 2, 4 or 12 bits, the first in the highest bits, each row on bytes of its own."""
    places = (values[..., None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(places.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def png(values: np.ndarray, bits: int, kind: int = 0, extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """Gray (kind 0), RGB (2), palette (3), gray and alpha (4) PNG; extra: chunks before the pixels."""
    height, width = values.shape[:2]
    row = -(-width * (values.size // (height * width)) * bits // 8)
    rows = packed(values.reshape(height, -1), bits)
    lines = b"".join(b"\0" + rows[y * row : (y + 1) * row] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), *extra, (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff_of_tags(pixels: bytes, tags: dict[int, int | tuple[int, ...]]) -> bytes:
    """A little-endian TIFF file of one strip: the pixels as given, and tags; lists are of 16-bit numbers."""
    padded = pixels + bytes(len(pixels) % 2)
    tags = {273: 8, 279: len(pixels), 277: 1, 278: 2**31 - 1, **tags}
    start = 8 + len(padded)
    after = start + 2 + 12 * len(tags) + 4
    directory, tail = struct.pack("<H", len(tags)), b""
    for code, value in sorted(tags.items()):
        if isinstance(value, tuple):
            directory += struct.pack("<HHII", code, 3, len(value), after + len(tail))
            tail += struct.pack(f"<{len(value)}H", *value)
        else:
            directory += struct.pack("<HHII", code, 4, 1, value)
    return b"II*\0" + struct.pack("<I", start) + padded + directory + bytes(4) + tail
