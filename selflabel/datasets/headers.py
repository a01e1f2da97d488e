"""What the headers of a sample's files say, before pixels are read."""

from collections.abc import Mapping
from pathlib import Path

from selflabel.files.images import image_channels, image_size, read_image, stored_size
from selflabel.files.opening import FileError, about


def compare_headers(picture: Path, contents: Mapping[Path, bytes]) -> None:
    """Raise `ValueError` for label files whose size, however they are turned, is not the image's; no pixel is read."""
    sizes = {}
    for path, data in contents.items():
        with about(path):
            sizes[path] = stored_size(data)
    for path, size in sizes.items():
        if sorted(size) != sorted(sizes[picture]):
            check_size(path, size, sizes[picture])


def check_size(path: Path, size: tuple[int, ...], image: tuple[int, int]) -> None:
    """Raise `ValueError` unless labels have the size of their image."""
    if size != image:
        raise ValueError(f"{path} has {size[0]} x {size[1]} pixels, its image {image[0]} x {image[1]}")


def channels_of(path: Path) -> int | None:
    """Channels of an image; None if it cannot be read, as reading it will say."""
    try:
        return image_channels(path)
    except FileError:
        return None


def has_colors(path: Path) -> bool:
    """False, too, if the image cannot be read, as reading it will say."""
    try:
        return bool(read_image(path).shape[2] == 3)
    except FileError:
        return False


def pixels_of(path: Path) -> int:
    """Pixels of an image; 0 if it cannot be read, as reading it will say."""
    try:
        height, width = image_size(path)
    except FileError:
        return 0
    return height * width
