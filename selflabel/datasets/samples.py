"""Data sets for training: folders of images, scribbles and masks as samples and batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from selflabel.datasets.channels import with_channels
from selflabel.datasets.headers import channels_of, check_size, compare_headers, has_colors, pixels_of
from selflabel.datasets.kept import Arrays, KeptArrays
from selflabel.datasets.letterbox import Letterbox
from selflabel.datasets.supervision import SCRIBBLES, Supervision, curated
from selflabel.datasets.symmetry import UNMOVED, Symmetry
from selflabel.files.conventions import check_no_mask, check_truth, is_binary, may_be_binary
from selflabel.files.digest import digest
from selflabel.files.folders import found_files, listing
from selflabel.files.images import (
    DIM,
    IMAGE_SUFFIXES,
    decode_image,
    image_size,
    stored_channels,
)
from selflabel.files.label_files import LABEL_SUFFIXES, VOC_FORMAT, LabelFormat, decode_index
from selflabel.files.lists import read_stems
from selflabel.files.opening import FileError, about, read_file
from selflabel.inputs import as_index, as_tensor, extent
from selflabel.kinds import check_count, checked
from selflabel.labels import UNLABELED, check_seeds


@dataclass(frozen=True, eq=False)
class Sample:
    """One image in [0, 1] with its seeds (255 = unlabeled) and, if one is known, its mask.

    moved: from the one image that has this stem to this one; None if pixels or colors were mixed, or nothing is known.
    What is made of image and seeds alone can be kept by the stem and moved alike.
    """

    stem: str
    image: Float[Tensor, "c h w"]
    seeds: Int64[Tensor, "h w"]
    mask: Int64[Tensor, "h w"] | None = None
    moved: Symmetry | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size; volumes, too, where they are made by hand.

    Images are floats in [0, 1], as networks take them; NumPy arrays become tensors, and uint8 in 0..255 is divided.
    moved: that of each sample; empty if it is None for all. num_classes: None, or seeds and masks are known to be below
    it or unlabeled (`checked`).
    """

    stems: tuple[str, ...]
    images: Float[Tensor, "b c *s"]
    seeds: Int64[Tensor, "b *s"]
    masks: Int64[Tensor, "b *s"] | None = None
    moved: tuple[Symmetry | None, ...] = ()
    num_classes: int | None = None

    def __post_init__(self) -> None:
        images = as_tensor(self.images, "images")
        object.__setattr__(self, "images", images / 255 if images.dtype == torch.uint8 else images)
        object.__setattr__(self, "seeds", as_index(self.seeds, "seeds"))
        if self.masks is not None:
            object.__setattr__(self, "masks", as_index(self.masks, "masks"))
        object.__setattr__(self, "stems", checked(self.stems, tuple[str, ...], "stems"))
        if len(self.stems) != len(images):
            raise ValueError(
                f"expected a stem for each of the {len(images)} images of a batch, got {len(self.stems)}"
            )
        checked(self.moved, tuple[Symmetry | None, ...], "moved")
        check_count(1 if self.num_classes is None else self.num_classes, "num_classes")

    def __repr__(self) -> str:
        batch, channels, *size = self.images.shape
        masks = "no masks" if self.masks is None else "masks"
        stems = ", ".join(self.stems[:4]) + ", …" * (batch > 4)
        return f"Batch({batch} of {extent(tuple(size))}, channels: {channels}, {masks}: {stems})"

    def checked(self, num_classes: int) -> "Batch":
        """The batch, once its labels are known to fit: losses on a GPU then need not wait to know.

        Raises `ValueError` for labels that are no classes.
        """
        check_seeds(self.seeds, num_classes)
        if self.masks is not None:
            check_seeds(self.masks, num_classes)
        return replace(self, num_classes=num_classes)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; from pinned memory without waiting for the copy."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> "Batch":
        """The batch in memory that a GPU reads by itself; `DataLoader` calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        masks = None if self.masks is None else change(self.masks)
        return replace(self, images=change(self.images), seeds=change(self.seeds), masks=masks)


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples as one batch.

    Raises `ValueError` if there is none, if sizes or channels differ, or if some have a mask and some not.
    """
    if not samples:
        raise ValueError("expected at least one sample in a batch, got none")
    first = samples[0]
    for other in samples[1:]:
        if other.image.shape != first.image.shape:
            raise ValueError(
                f"expected images of one size in a batch, got {_shape(first.image)} ({first.stem}) and "
                f"{_shape(other.image)} ({other.stem}): give the data set a size, and channels if gray and color "
                f"images are mixed, or take batches of one"
            )
        if (other.mask is None) != (first.mask is None):
            without, there = (other, first) if other.mask is None else (first, other)
            raise ValueError(
                f"expected masks for all images of a batch or for none: {there.stem} has one, "
                f"{without.stem} has not"
            )
    masks = [sample.mask for sample in samples if sample.mask is not None]
    return Batch(
        tuple(sample.stem for sample in samples),
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.seeds for sample in samples]),
        torch.stack(masks) if masks else None,
        tuple(sample.moved for sample in samples),
    )


class UnusableFiles(ValueError):
    """Files of a data set that cannot be used. failures: stems and reasons; total: images that were read."""

    def __init__(self, failures: Sequence[tuple[str, str]], total: int) -> None:
        super().__init__(failures, total)
        self.failures, self.total = tuple(failures), total

    def __str__(self) -> str:
        reasons = "; ".join(reason for _, reason in self.failures)
        return f"{len(self.failures)} of {self.total} images cannot be used: {reasons}"


_Files = tuple[Path, Path | None, Path | None, Path | None]
"""Of an image: itself, its scribbles, its mask, and the mask that its seeds are made of."""


@dataclass(frozen=True, eq=False)
class Folder(Dataset[Sample]):
    """The images ``root/images`` of some stems, with ``root/scribbles`` and ``root/masks`` of the same stems.

    classes: labels are 0 .. classes-1 or 255 (unlabeled).
    size: images become squares of this size in pixels (`Letterbox`); None leaves them as they are.
    channels: 1 (color becomes gray) or 3 (gray is repeated); None: as many as the file stores.
    scribbles, masks: folders of seeds and masks; None reads none, and seeds are all unlabeled then.
    scribbles_format, masks_format: the meaning of the values in their files.
    supervision: images whose seeds are no scribbles; none is read where `scribbles` is None.
    cache: keep what was read, 6 bytes a pixel (gray). Processes that a folder is sent to share it; what they read
    themselves each keeps for itself.

    Raises `ValueError` at once for missing files, with their names. Files are read when their turn comes: then
    `ValueError`, with the file, if it is damaged or of another size than its image, or has labels that are no
    classes.
    """

    root: Path
    stems: tuple[str, ...]
    classes: int
    size: int | None = None
    channels: int | None = None
    scribbles: str | None = "scribbles"
    masks: str | None = None
    cache: bool = True
    scribbles_format: LabelFormat = VOC_FORMAT
    masks_format: LabelFormat = VOC_FORMAT
    supervision: Supervision = SCRIBBLES
    _files: Mapping[str, _Files] = field(init=False, repr=False)
    _kept: KeptArrays = field(init=False, repr=False, default_factory=KeptArrays)
    _whole: set[str] = field(init=False, repr=False, default_factory=set)
    _binary: set[str] = field(init=False, repr=False, default_factory=set)
    _dim: set[str] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= UNLABELED:
            raise ValueError(f"expected 1 to {UNLABELED} classes, got {self.classes}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"expected channels = 1, 3 or None, got {self.channels}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"expected size >= 1 pixel or None, got {self.size}")
        if not self.stems:
            raise ValueError(f"expected at least one stem of {self.root}, got none")
        pictures = found_files(self.root / "images", IMAGE_SUFFIXES, self.stems, "image")
        masks = self._labels(self.masks, "mask", self.stems)
        seeds = self._labels(self.scribbles, "scribbles", self.supervision.scribbled(self.stems))
        of_seeds = None if self.scribbles is None else self.supervision.masks
        true = self._labels(of_seeds, "mask", self.supervision.masked(self.stems))
        files = {
            stem: (pictures[stem], seeds.get(stem), masks.get(stem), true.get(stem)) for stem in self.stems
        }
        object.__setattr__(self, "_files", files)

    @property
    def read(self) -> bool:
        """True if all samples are kept in memory already."""
        return len(self._kept) == len(self)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the samples in memory."""
        return self._kept.bytes

    @cached_property
    def pixels(self) -> int:
        """Pixels of all images, from their headers unless they are resized; what cannot be read is left out."""
        if self.size is not None:
            return len(self) * self.size**2
        return sum(pixels_of(files[0]) for files in self._files.values())

    @cached_property
    def digest(self) -> str:
        """Digest of the stems and of the bytes of all their files, which are read once.

        Raises `UnusableFiles` that names all that cannot be read.
        """
        return digest(self._contents())

    @cached_property
    def gray(self) -> tuple[str, ...]:
        """Stems of the images stored in one channel, from the headers of all; what cannot be read is left out."""
        return tuple(stem for stem, files in self._files.items() if channels_of(files[0]) == 1)

    def colored(self) -> Iterator[str]:
        """Stems of the images with colors, in order; what cannot be read is left out.

        As far as it is asked for, the pixels of those are read that do not store gray: three channels may be equal.
        """
        gray = set(self.gray)
        yield from (stem for stem in self.stems if stem not in gray and has_colors(self._files[stem][0]))

    @property
    def whole_seeds(self) -> int:
        """How many of the images that were read have a seed at every pixel."""
        return len(self._whole)

    @property
    def binary_masks(self) -> int:
        """How many of the masks that were read hold 0 and 255, and nothing else."""
        return len(self._binary)

    @property
    def dim(self) -> tuple[str, ...]:
        """Stems of the images that were read whose brightest number is at most `DIM`."""
        return tuple(stem for stem in self.stems if stem in self._dim)

    def _contents(self) -> Iterator[bytes]:
        failures: list[tuple[str, str]] = []
        for stem, files in self._files.items():
            yield stem.encode("utf-8", "backslashreplace")
            for file in files if files[3] is not None else files[:3]:
                try:
                    yield b"" if file is None else read_file(file)
                except FileError as error:
                    failures.append((stem, str(error)))
        if failures:
            raise UnusableFiles(failures, len(self))

    def check_one_size(self) -> None:
        """Raise `ValueError`, naming two images, unless all come in one size."""
        if self.size is not None:
            return
        first, shape = self.stems[0], image_size(self._files[self.stems[0]][0])
        for stem in self.stems:
            other = image_size(self._files[stem][0])
            if other != shape:
                raise ValueError(
                    f"expected images of one size for batches, got {shape[0]} x {shape[1]} ({first}) and "
                    f"{other[0]} x {other[1]} ({stem}): give the data set a size, or take batches of one"
                )

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, number: int) -> Sample:
        """The sample of stem `number`, read from its files or kept from the last time."""
        arrays = self._kept.found.get(number)
        if arrays is None:
            arrays = self._read(self.stems[number])
            if self.cache:
                self._kept.found[number] = arrays
        mask = None if arrays.mask is None else arrays.mask.long()
        return Sample(self.stems[number], arrays.image.clone(), arrays.seeds.long(), mask, UNMOVED)

    def _labels(self, folder: str | None, what: str, stems: Sequence[str]) -> Mapping[str, Path]:
        if folder is None or not stems:
            return {}
        there = found_files(self.root / folder, LABEL_SUFFIXES, stems, what)
        return {stem: there[stem] for stem in stems}

    def _read(self, stem: str) -> Arrays:
        picture, seeds_file, mask_file, true_file = self._files[stem]
        contents = {path: read_file(path) for path in self._files[stem] if path is not None}
        compare_headers(picture, contents)
        with about(picture):
            image = self._image(contents[picture], picture.suffix)
        if float(image.max()) <= DIM:
            self._dim.add(stem)
        shape = (image.shape[1], image.shape[2])
        seeds, mask, true = torch.full(shape, UNLABELED), None, None
        if seeds_file is not None:
            seeds = self._seeds(seeds_file, contents[seeds_file], shape, stem)
        if mask_file is not None:
            mask = self._mask(mask_file, contents[mask_file], shape, stem)
        if true_file is not None:
            true = self._mask(true_file, contents[true_file], shape, stem)
        if true is not None and seeds_file is not None:
            seeds = curated(seeds, true)
        if self.size is not None:
            letterbox = Letterbox(*shape, self.size)
            image, seeds = letterbox.image(image), letterbox.seeds(seeds)
            mask, true = (None if one is None else letterbox.mask(one) for one in (mask, true))
        if true is not None and seeds_file is None:
            seeds = true
        small = None if mask is None else mask.to(torch.uint8)
        return Arrays(image, seeds.to(torch.uint8), small)

    def _image(self, data: bytes, suffix: str) -> Float32[Tensor, "c h w"]:
        image = decode_image(data, suffix)
        channels = self.channels or (stored_channels(data) if image.shape[2] == 1 else None)
        return with_channels(image, channels)

    def _seeds(self, path: Path, data: bytes, shape: tuple[int, int], stem: str) -> Int64[Tensor, "h w"]:
        seeds = self._index(path, data, shape, self.scribbles_format)
        if bool((seeds != UNLABELED).all()):
            self._whole.add(stem)
        with about(path):
            check_no_mask(_counts(seeds), self.scribbles_format, self.classes)
        return seeds

    def _mask(self, path: Path, data: bytes, shape: tuple[int, int], stem: str) -> Int64[Tensor, "h w"]:
        mask = self._index(path, data, shape, self.masks_format)
        with about(path):
            counts = _counts(mask)
            check_truth(counts, self.masks_format, self.classes, "mask")
        if is_binary(counts) and may_be_binary(self.masks_format, None):
            self._binary.add(stem)
        return mask

    def _index(
        self, path: Path, data: bytes, shape: tuple[int, int], form: LabelFormat
    ) -> Int64[Tensor, "h w"]:
        with about(path):
            index = decode_index(data, path.suffix, form)
        check_size(path, index.shape, shape)
        wrong = np.unique(index[(index >= self.classes) & (index != UNLABELED)])
        if wrong.size:
            offset = form.offset
            shown = ", ".join(str(value + offset) for value in wrong[:8].astype(int))
            said = form.spelling
            remedy = f"raise the number of classes, or say what the values mean ({said.name('values')})"
            if wrong.size == 1:
                value = int(wrong[0]) + offset
                remedy += f"; if {value} means unlabeled, that it does ({said.say(('unlabeled', value))})"
            raise ValueError(
                f"{path}: expected labels in {offset}..{self.classes - 1 + offset} or {form.unlabeled} (unlabeled), "
                f"got {shown}: {remedy}"
            )
        return torch.from_numpy(index.astype(np.int64))


def read_split(root: Path, name: str) -> tuple[str, ...]:
    """The stems of ``root/images`` that ``root/name.txt`` lists (`read_stems`); name: such as "train" or "val".

    Raises `ValueError` if there is no such file, no stem in it, a stem twice, or a line that names no image.
    """
    path = root / f"{name}.txt"
    if not path.is_file():
        raise ValueError(f"there is no {path}: a text file with one stem (file name without suffix) a line")
    return read_stems(path, listing(root / "images", IMAGE_SUFFIXES).stems, repeated=False)


def _counts(index: Int64[Tensor, "h w"]) -> Int64[np.ndarray, "values"]:
    """How often each index occurs."""
    return np.bincount(index.numpy().ravel(), minlength=UNLABELED + 1)


def _shape(image: Tensor) -> str:
    return " x ".join(str(n) for n in image.shape)
