"""Files for `fuzz.py`: good ones in the formats and ways that writers have, and damage."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

SIZE = (24, 30)
CLASSES = 3

Random = np.random.Generator
Writer = Callable[[Random], tuple[str, bytes]]
"""Draws the suffix and the bytes of a good file."""


def colors(random: Random) -> NDArray[np.uint8]:
    """A bright disk on dark ground, in color."""
    y, x = np.indices(SIZE)
    disk = np.hypot(y - 12, x - 15) < 7
    shades = np.where(disk[..., None], (200, 180, 90), (40, 60, 80)) + random.normal(0, 9, (*SIZE, 3))
    return shades.clip(0, 255).astype(np.uint8)


def mask() -> NDArray[np.uint8]:
    """Its classes: the disk 1, a bar below 2, else 0."""
    y, x = np.indices(SIZE)
    index = (np.hypot(y - 12, x - 15) < 7).astype(np.uint8)
    index[21:] = 2
    return index


def seeds() -> NDArray[np.uint8]:
    """A stroke on each class, 255 elsewhere."""
    index = np.full(SIZE, 255, np.uint8)
    index[2, 3:25], index[12, 11:19], index[22, 4:26] = 0, 1, 2
    return index


def probs(random: Random) -> NDArray[np.float32]:
    """A prediction ``[k h w]`` that is mostly right."""
    hot = np.stack([mask() == k for k in range(CLASSES)]).astype(np.float32)
    noisy = hot + random.uniform(0, 0.6, hot.shape).astype(np.float32)
    return noisy / noisy.sum(0)


def saved(image: Image.Image, suffix: str, **options: object) -> tuple[str, bytes]:
    file = io.BytesIO()
    image.save(
        file,
        format={"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM", "ppm": "PPM"}.get(suffix, suffix.upper()),
        **options,
    )
    return suffix, file.getvalue()


def tiff(array: NDArray[np.generic], **options: object) -> tuple[str, bytes]:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return "tif", file.getvalue()


def an_image(random: Random) -> tuple[str, bytes]:
    rgb = colors(random)
    picture, gray = Image.fromarray(rgb), rgb[..., 0]
    deep = gray.astype(np.uint16) * 257
    makers: list[Callable[[], tuple[str, bytes]]] = [
        lambda: saved(picture, "png"),
        lambda: saved(picture.convert("L"), "png"),
        lambda: saved(picture.convert("RGBA"), "png"),
        lambda: saved(picture.quantize(32), "png"),
        lambda: saved(picture.convert("LA"), "png"),
        lambda: saved(Image.fromarray(deep), "png"),
        lambda: saved(picture, "jpg", quality=95),
        lambda: saved(picture.convert("CMYK"), "jpg", quality=95),
        lambda: saved(picture, "jpg", quality=95, progressive=True),
        lambda: saved(picture, "bmp"),
        lambda: saved(picture.quantize(64), "gif"),
        lambda: saved(picture, "webp", lossless=True),
        lambda: saved(picture, "ppm"),
        lambda: saved(Image.fromarray(deep), "pgm"),
        lambda: tiff(rgb, photometric="rgb"),
        lambda: tiff(rgb, photometric="rgb", compression="zlib"),
        lambda: saved(picture, "tif", compression="tiff_lzw"),
        lambda: saved(picture, "tif", compression="packbits"),
        lambda: tiff(deep, bigtiff=True),
        lambda: tiff((rgb / 255).astype(np.float32), photometric="rgb"),
        lambda: tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate"),
        lambda: tiff(rgb, photometric="rgb", byteorder=">"),
    ]  # fmt: skip
    return makers[random.integers(len(makers))]()


def an_index(index: NDArray[np.uint8], random: Random) -> tuple[str, bytes]:
    picture = Image.fromarray(index)
    colored = picture.copy()
    colored.putpalette([int(v) for v in np.arange(768) * 7 % 256])
    makers: list[Callable[[], tuple[str, bytes]]] = [
        lambda: saved(picture, "png"),
        lambda: saved(colored, "png"),
        lambda: saved(picture, "bmp"),
        lambda: saved(picture, "pgm"),
        lambda: saved(picture, "tif", compression="tiff_lzw"),
        lambda: saved(picture, "tif", compression="tiff_deflate"),
        lambda: tiff(index),
        lambda: tiff(index.astype(np.int32)),
        lambda: tiff(index.astype(np.uint16), byteorder=">"),
        lambda: tiff(index.astype(np.float32)),
        lambda: tiff(index[None]),
    ]
    return makers[random.integers(len(makers))]()


def some_seeds(random: Random) -> tuple[str, bytes]:
    return an_index(seeds(), random)


def a_mask(random: Random) -> tuple[str, bytes]:
    return an_index(mask(), random)


def some_probs(random: Random) -> tuple[str, bytes]:
    p = probs(random)
    forms: list[NDArray[np.generic]] = [
        p, p.astype(np.float64), p.astype(np.float16), (p * 255).astype(np.uint8), np.round(p * 255).astype(np.uint8),
        np.round(p * 65535).astype(np.uint16), p[None], p[:, None], np.moveaxis(p, 0, -1), np.asfortranarray(p),
        np.stack([mask() == k for k in range(CLASSES)]),
    ]  # fmt: skip
    array, file = forms[random.integers(len(forms))], io.BytesIO()
    kind = random.integers(4)
    if kind == 0:
        np.save(file, array)
        return "npy", file.getvalue()
    if kind == 1:
        np.savez_compressed(file, labels=array, classes=np.arange(CLASSES))
    elif kind == 2:
        np.savez(file, array)
    else:
        return tiff(p, photometric="minisblack")
    return "npz", file.getvalue()


def cut(data: bytes, random: Random) -> bytes:
    return data[: random.integers(1, len(data))]


def flipped(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.integers(1, 20)):
        changed[random.integers(len(changed))] ^= 1 << random.integers(8)
    return bytes(changed)


def header_flipped(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.integers(1, 6)):
        changed[random.integers(min(64, len(changed)))] = random.integers(256)
    return bytes(changed)


def blanked(data: bytes, random: Random) -> bytes:
    start = random.integers(len(data))
    stop = min(len(data), start + int(random.integers(1, max(2, len(data) // 2))))
    return data[:start] + bytes([random.choice([0, 255])]) * (stop - start) + data[stop:]


def dropped(data: bytes, random: Random) -> bytes:
    start = random.integers(len(data))
    return data[:start] + data[start + int(random.integers(1, 200)) :]


def noise(data: bytes, random: Random) -> bytes:
    return random.bytes(int(random.integers(1, 400)))


def empty(data: bytes, random: Random) -> bytes:
    return b""


def text(data: bytes, random: Random) -> bytes:
    return random.choice(
        [b"<html>404 not found</html>\n", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"]
    )


def huge_png(data: bytes, random: Random) -> bytes:
    """A sound header of 200,000 x 200,000 pixels, and next to no data."""
    head = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def huge_npy(data: bytes, random: Random) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)}
    )
    return file.getvalue() + b"\0" * 100


def pickled(data: bytes, random: Random) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


def not_finite(data: bytes, random: Random) -> bytes:
    array, file = probs(random), io.BytesIO()
    array[random.integers(CLASSES), 3, 4] = random.choice([np.nan, np.inf, -1.0, 5.0])
    np.savez(file, labels=array)
    return file.getvalue()


def bad_classes(data: bytes, random: Random) -> bytes:
    lists: list[list[float]] = [
        [0, 1],
        [0, 1, 1],
        [0, 1, np.nan],
        [0, 1.5, 2],
        [-1, 0, 1],
        [0, 1, 255],
        [0, 1, 10**9],
    ]
    file = io.BytesIO()
    np.savez(file, labels=probs(random), classes=np.array(lists[random.integers(len(lists))]))
    return file.getvalue()


def other_size(data: bytes, random: Random) -> bytes:
    return saved(Image.fromarray(colors(random)[:, : int(random.integers(1, 29))]), "png")[1]


DAMAGE: dict[str, Callable[[bytes, Random], bytes]] = {
    "cut": cut, "bits flipped": flipped, "header changed": header_flipped, "block blank": blanked,
    "bytes lost": dropped,
    "noise": noise, "empty": empty, "text": text, "huge header": huge_png, "another size": other_size,
}  # fmt: skip
ARRAY_DAMAGE = {
    "cut": cut, "bits flipped": flipped, "header changed": header_flipped, "block blank": blanked,
    "bytes lost": dropped,
    "empty": empty, "huge header": huge_npy, "pickle": pickled, "not finite": not_finite, "classes": bad_classes,
}  # fmt: skip


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("there is none"))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL: dict[str, Callable[[Path], None]] = {
    "folder": _folder, "link in a loop": _loop, "link to nothing": _nowhere, "pipe": lambda path: os.mkfifo(path),
    "device": _device,
}  # fmt: skip
WRITERS: dict[str, Writer] = {"images": an_image, "seeds": some_seeds, "probs": some_probs, "masks": a_mask}


def write_odd(folder: Path, stem: str, role: str, random: Random) -> str:
    """Write a file of this role that is damaged, special, or good in an uncommon way; what was done."""
    suffix, data = WRITERS[role](random)
    path = folder / f"{stem}.{suffix}"
    chance = random.random()
    if chance < 0.08:
        kind = str(random.choice(list(SPECIAL)))
        SPECIAL[kind](path)
        return kind
    if chance < 0.3:
        path.write_bytes(data)
        return "good"
    damage = ARRAY_DAMAGE if suffix in ("npy", "npz") else DAMAGE
    kind = str(random.choice(list(damage)))
    changed = damage[kind](data, random)
    path.write_bytes(changed if isinstance(changed, bytes) else bytes(changed))
    return kind
