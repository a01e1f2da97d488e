"""Samples for training: squares, folders, batches."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selflabel.datasets.letterbox import Letterbox
from selflabel.datasets.samples import Batch, Folder, Sample, collate, read_split
from selflabel.files.label_files import write_index
from selflabel.labels import UNLABELED

CLASSES = 3


def write(root: Path, stem: str, size: tuple[int, int] = (10, 14), *, color: bool = False) -> None:
    """An image with its scribbles and its mask."""
    random = np.random.default_rng(len(stem) + 7_919)
    mask = np.zeros(size, np.uint8)
    mask[:, size[1] // 2 :] = 2
    seeds = np.full(size, UNLABELED, np.uint8)
    seeds[2:7, 1], seeds[3:8, -2] = 0, 2
    image = random.integers(0, 256, (*size, 3) if color else size).astype(np.uint8)
    for folder in ("images", "scribbles", "masks"):
        (root / folder).mkdir(exist_ok=True, parents=True)
    Image.fromarray(image).save(root / "images" / f"{stem}.png")
    write_index(root / "scribbles" / f"{stem}.png", seeds)
    write_index(root / "masks" / f"{stem}.png", mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for stem in ("a", "bb", "ccc"):
        write(tmp_path, stem)
    return tmp_path


def whole(folder: Folder) -> Batch:
    """All samples as one batch."""
    return collate([folder[number] for number in range(len(folder))])


def sample(height: int = 5, width: int = 7, *, mask: bool = True, stem: str = "x") -> Sample:
    """An image whose values number its pixels."""
    place = torch.arange(height * width).view(height, width)
    index = place % 3
    return Sample(stem, (place / (height * width))[None].float(), index, index.clone() if mask else None)


# --- squares ---


@pytest.mark.parametrize(("height", "width", "size"), [(10, 14, 14), (14, 9, 14), (7, 7, 7)])
def test_a_square_of_the_same_size_only_pads(height: int, width: int, size: int) -> None:
    letterbox = Letterbox(height, width, size)
    image = torch.rand(2, height, width, generator=torch.Generator().manual_seed(3_181))
    index = torch.arange(height * width).view(height, width) % 4
    padded = letterbox.image(image)
    top, left = (size - height) // 2, (size - width) // 2
    inside = (slice(top, top + height), slice(left, left + width))
    assert torch.equal(padded[:, *inside], image)
    assert padded.sum() == pytest.approx(image.sum().item())
    for labels in (letterbox.mask(index), letterbox.seeds(index)):
        assert torch.equal(labels[inside], index)
        assert (labels == UNLABELED).sum() == size * size - height * width
    assert torch.equal(letterbox.undo(padded), image)


@pytest.mark.parametrize(("height", "width", "size"), [(31, 40, 16), (20, 9, 8), (8, 11, 30), (50, 50, 7)])
def test_masks_are_read_at_the_centers(height: int, width: int, size: int) -> None:
    letterbox = Letterbox(height, width, size)
    index = torch.randint(0, 5, (height, width), generator=torch.Generator().manual_seed(4_057))
    found = letterbox.mask(index)
    for row in range(size):
        for column in range(size):
            y = int(np.floor((row + 0.5) * letterbox.side / size)) - letterbox.top
            x = int(np.floor((column + 0.5) * letterbox.side / size)) - letterbox.left
            inside = 0 <= y < height and 0 <= x < width
            assert found[row, column] == (index[y, x] if inside else UNLABELED)


@pytest.mark.parametrize(("height", "width", "size"), [(31, 40, 16), (20, 9, 8), (50, 50, 7), (33, 33, 32)])
def test_seeds_take_a_class_that_their_area_has(height: int, width: int, size: int) -> None:
    generator = torch.Generator().manual_seed(8_089)
    letterbox = Letterbox(height, width, size)
    index = torch.randint(0, 3, (height, width), generator=generator)
    index[torch.rand(height, width, generator=generator) < 0.7] = UNLABELED
    found = letterbox.seeds(index)
    votes: dict[tuple[int, int], list[int]] = {}
    for y in range(height):
        for x in range(width):
            row = int(np.floor((y + letterbox.top + 0.5) * size / letterbox.side))
            column = int(np.floor((x + letterbox.left + 0.5) * size / letterbox.side))
            if index[y, x] != UNLABELED:
                votes.setdefault((row, column), []).append(int(index[y, x]))
    for row in range(size):
        for column in range(size):
            inside = votes.get((row, column), [UNLABELED])
            assert found[row, column] == max(sorted(set(inside)), key=inside.count)


def test_a_thin_line_survives_and_stays_connected() -> None:
    """A line one pixel wide, at a sixth of the size: nearest sampling would lose five sixths of it."""
    index = torch.full((60, 48), UNLABELED)
    for x in range(48):
        index[7 + x // 2, x] = 1
    found = Letterbox(60, 48, 10).seeds(index) == 1
    columns = [torch.nonzero(found[:, x]).flatten().tolist() for x in range(1, 9)]
    assert all(columns)
    for here, there in pairwise(columns):
        assert min(abs(a - b) for a in here for b in there) <= 1
    assert found.sum() <= 14


def test_seeds_grow_as_masks_do() -> None:
    index = torch.full((4, 6), UNLABELED)
    index[1, 2:4] = 1
    letterbox = Letterbox(4, 6, 24)
    assert torch.equal(letterbox.seeds(index), letterbox.mask(index))
    assert (letterbox.seeds(index) == 1).sum() == 2 * 16


def test_nothing_labeled_stays_so() -> None:
    assert (Letterbox(9, 5, 4).seeds(torch.full((9, 5), UNLABELED)) == UNLABELED).all()


@pytest.mark.quick
@pytest.mark.parametrize("size", [24, 60])
def test_back_undoes_the_square(size: int) -> None:
    """A linear map comes back unchanged away from the border; sums of one stay."""
    letterbox = Letterbox(40, 30, size)
    rows = torch.linspace(0.1, 0.9, 40)[:, None].expand(40, 30)
    probs = letterbox.undo(letterbox.image(torch.stack([rows, 1 - rows])))
    assert probs.shape == (2, 40, 30)
    assert torch.allclose(probs[0, 6:-6, 6:-6], rows[6:-6, 6:-6], atol=5e-3)
    ones = torch.rand(3, size, size, generator=torch.Generator().manual_seed(2_927)).softmax(0)
    assert torch.allclose(letterbox.undo(ones).sum(0), torch.ones(40, 30), atol=1e-6)


def test_a_square_has_pixels() -> None:
    with pytest.raises(ValueError, match="expected size >= 1 pixel, got 0"):
        Letterbox(4, 4, 0)


# --- folders ---


@pytest.mark.quick
def test_a_folder_reads_what_was_written(root: Path) -> None:
    folder = Folder(root, ("bb", "a"), CLASSES, masks="masks")
    assert len(folder) == 2
    for number, stem in enumerate(("bb", "a")):
        read = folder[number]
        assert read.stem == stem
        image = np.array(Image.open(root / "images" / f"{stem}.png")) / np.float32(255)
        assert np.array_equal(read.image[0].numpy(), image)
        assert np.array_equal(read.seeds.numpy(), np.array(Image.open(root / "scribbles" / f"{stem}.png")))
        assert read.mask is not None
        assert np.array_equal(read.mask.numpy(), np.array(Image.open(root / "masks" / f"{stem}.png")))


def test_sizes_channels_and_folders_are_as_asked(root: Path) -> None:
    write(root, "color", (9, 20), color=True)
    batch = whole(Folder(root, ("a", "color"), CLASSES, size=16, channels=1))
    assert batch.images.shape == (2, 1, 16, 16)
    assert batch.masks is None
    assert whole(Folder(root, ("a", "color"), CLASSES, size=8, channels=3)).images.shape == (2, 3, 8, 8)
    gray = np.array(Image.open(root / "images" / "color.png").convert("L")) / 255
    own = Folder(root, ("color",), CLASSES, channels=1)[0].image[0].numpy()
    assert np.abs(own - gray).max() < 1 / 255
    full = Folder(root, ("a",), CLASSES, scribbles="masks")[0]
    assert (full.seeds != UNLABELED).all()
    assert (Folder(root, ("a",), CLASSES, scribbles=None)[0].seeds == UNLABELED).all()


def test_equal_channels_are_no_colors(root: Path) -> None:
    write(root, "color", color=True)
    gray = Image.open(root / "images" / "bb.png")
    gray.convert("RGB").save(root / "images" / "bb.png")
    (root / "images" / "ccc.png").write_bytes(b"damaged")
    folder = Folder(root, ("a", "bb", "ccc", "color"), CLASSES)
    assert (folder.gray, tuple(folder.colored())) == (("a",), ("color",))
    stored = Folder(
        root, ("bb", "color"), CLASSES
    )  # as many channels as the files store: one size for a batch
    for read in (stored, replace(stored, channels=3)):
        assert whole(read).images.shape == (2, 3, 10, 14)
        assert np.array_equal(read[0].image.numpy() * 255, np.broadcast_to(np.array(gray), (3, 10, 14)))
    assert np.array_equal(replace(stored, channels=1)[0].image.numpy(), stored[0].image[:1].numpy())


def test_what_is_kept_does_not_change(root: Path) -> None:
    folder = Folder(root, ("a",), CLASSES, masks="masks")
    uncached = Folder(root, ("a",), CLASSES, cache=False)
    before = folder[0]
    assert [one.read for one in (folder, uncached)] == [True, False]
    first = (before.image.clone(), before.seeds.clone())
    before.image.zero_()
    before.seeds.zero_()
    Image.new("L", (14, 10), 255).save(root / "images" / "a.png")
    assert torch.equal(folder[0].image, first[0])
    assert torch.equal(folder[0].seeds, first[1])
    assert uncached[0].image.min() == 1
    assert [one.read for one in (folder, uncached)] == [True, False]


@pytest.mark.parametrize(
    ("folder", "what"), [("images", "image"), ("scribbles", "scribbles"), ("masks", "mask")]
)
def test_missing_files_are_named(root: Path, folder: str, what: str) -> None:
    (root / folder / "bb.png").unlink()
    with pytest.raises(ValueError, match=f"{folder}: there is no {what} of bb$"):
        Folder(root, ("a", "bb", "ccc"), CLASSES, masks="masks")


def test_many_missing_files_are_counted(root: Path) -> None:
    stems = tuple(f"no{n}" for n in range(7))
    with pytest.raises(ValueError, match="no image of no0, no1, no2, no3 and 3 others"):
        Folder(root, stems, CLASSES)


@pytest.mark.parametrize("kind", ["scribbles", "masks"])
def test_labels_that_are_no_classes_are_named(root: Path, kind: str) -> None:
    values = np.array(Image.open(root / kind / "bb.png"))
    values[0, :2] = 3, 9
    write_index(root / kind / "bb.png", values)
    folder = Folder(root, ("a", "bb"), CLASSES, masks="masks")
    assert folder[0].stem == "a"
    with pytest.raises(
        ValueError, match=rf"{kind}/bb\.png: expected labels in 0\.\.2 or 255.*got 3, 9: raise"
    ):
        folder[1]


def test_damaged_files_and_other_sizes_are_named(root: Path) -> None:
    (root / "images" / "a.png").write_bytes(b"no image")
    write_index(root / "scribbles" / "bb.png", np.zeros((4, 5), np.uint8))
    folder = Folder(root, ("a", "bb"), CLASSES)
    with pytest.raises(ValueError, match=r"a\.png cannot be read: empty or not an image"):
        folder[0]
    with pytest.raises(ValueError, match=r"bb\.png has 4 x 5 pixels, its image 10 x 14"):
        folder[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": 0}, "expected 1 to 255 classes, got 0"),
        ({"channels": 2}, "expected channels = 1, 3 or None, got 2"),
        ({"size": 0}, "expected size >= 1 pixel or None, got 0"),
        ({"stems": ()}, "expected at least one stem"),
    ],
)
def test_a_folder_checks_its_settings(root: Path, changed: dict[str, object], message: str) -> None:
    good = Folder(root, ("a",), CLASSES)
    with pytest.raises(ValueError, match=message):
        replace(good, **changed)  # type: ignore[arg-type]


def test_splits(root: Path) -> None:
    (root / "train.txt").write_text("bb\n\n a \n")
    assert read_split(root, "train") == ("bb", "a")
    with pytest.raises(ValueError, match=r"there is no .*val\.txt: a text file with one stem"):
        read_split(root, "val")
    (root / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt is empty"):
        read_split(root, "val")
    (root / "val.txt").write_text("a\nbb\na\n")
    with pytest.raises(ValueError, match=r"val\.txt: a is there more than once"):
        read_split(root, "val")


# --- batches ---


@pytest.mark.quick
def test_a_batch_stacks() -> None:
    batch = collate([sample(stem="p"), sample(stem="q")]).to("cpu")
    assert batch.stems == ("p", "q")
    assert batch.images.shape == (2, 1, 5, 7)
    assert batch.masks is not None
    assert torch.equal(batch.masks, batch.seeds)
    assert isinstance(collate([sample(mask=False)]).to("cpu"), Batch)


def test_batches_of_several_sizes_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"one size in a batch, got 1 x 5 x 7 \(p\) and 1 x 5 x 8 \(q\): give the data set a size",
    ):
        collate([sample(stem="p"), sample(5, 8, stem="q")])


@pytest.mark.parametrize("first", [True, False])
def test_batches_of_some_masks_are_refused(first: bool) -> None:
    with_mask, without = ("p", "q") if first else ("q", "p")
    with pytest.raises(ValueError, match=f"{with_mask} has one, {without} has not"):
        collate([sample(mask=first, stem="p"), sample(mask=not first, stem="q")])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])


# --- real data ---


def test_acdc_fits_a_square(data: Path) -> None:
    root = data / "acdc"
    stems = read_split(root, "val")[::40]
    folder = Folder(root, stems, 4, size=128, channels=1, masks="masks")
    batch = whole(folder)
    assert batch.images.shape == (6, 1, 128, 128)
    assert batch.masks is not None
    for number, stem in enumerate(stems):
        original = np.array(Image.open(root / "scribbles" / f"{stem}.png"))
        present = set(np.unique(original).tolist())
        assert set(batch.seeds[number].unique().tolist()) | {UNLABELED} == present | {UNLABELED}  # type: ignore[no-untyped-call]
        labeled = batch.seeds[number] != UNLABELED
        known = labeled & (batch.masks[number] != UNLABELED)
        assert (batch.seeds[number] == batch.masks[number])[known].float().mean() > 0.9


def test_batches_take_whole_floats_as_classes_and_no_fractions(unchecked: None) -> None:
    images, seeds = torch.zeros(1, 3, 2, 2), torch.tensor([[[0.0, 255.0], [1.0, 2.0]]])
    masks: Any = seeds.numpy()
    batch = Batch(("a",), images, seeds, masks)
    assert torch.equal(batch.seeds, torch.tensor([[[0, 255], [1, 2]]]))
    assert batch.masks is not None
    assert torch.equal(batch.masks, batch.seeds)
    for wrong, found in ((seeds + 0.5, "fractions or nan in torch.float32"), (seeds > 0, "booleans")):
        with pytest.raises(ValueError, match=f"expected seeds as whole numbers, the classes, got {found}"):
            Batch(("a",), images, wrong)
        with pytest.raises(ValueError, match=f"expected masks as whole numbers, the classes, got {found}"):
            Batch(("a",), images, seeds.long(), wrong)


def test_batches_have_as_many_stems_as_images(unchecked: None) -> None:
    images, seeds = torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), UNLABELED)
    for stems in ((), ("a", "b")):
        with pytest.raises(ValueError, match=f"a stem for each of the 1 images of a batch, got {len(stems)}"):
            Batch(stems, images, seeds)
