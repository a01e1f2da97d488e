"""Labels that contradict the convention they are read by, and ways to say what they mean."""

import io

import numpy as np
import pytest
from PIL import Image
from support.encoders import encoded, tiff

from selflabel.files.conventions import check_contiguous, check_seeds_meaning, is_binary, may_be_binary
from selflabel.files.label_files import VOC_FORMAT, LabelFormat, decode_index

pytestmark = pytest.mark.quick

NAPARI = LabelFormat(0, 1)
COLORED = LabelFormat(colors=((0, 0, 0, 255), (128, 64, 128, 0), (255, 255, 255, 1)))


def strokes(*classes: int, empty: int = 255) -> np.ndarray:
    """Seeds [40 60] with a stroke of 10 pixels for each class."""
    seeds = np.full((40, 60), empty, np.uint8)
    for place, k in enumerate(classes):
        seeds[10:20, 5 * place] = k
    return seeds


def mask(share: float) -> np.ndarray:
    """A mask [40 60] of 0 and 255, 0 on a share of the rows."""
    found = np.full((40, 60), 255, np.uint8)
    found[: round(40 * share)] = 0
    return found


# --- values and colors ---


def test_values_name_the_classes() -> None:
    form = LabelFormat(values=(0, 255))
    assert form.decode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert LabelFormat(values=(7, 3)).decode(np.array([[3, 7, 255]])).tolist() == [[1, 0, 255]]
    assert LabelFormat(128, values=(0, 255)).decode(np.array([[0, 128, 255]], np.uint8)).tolist() == [
        [0, 255, 1]
    ]
    assert LabelFormat(0, values=(1000, 2000)).decode(np.array([[0, 1000, 2000]], np.uint16)).tolist() == [
        [255, 0, 1]
    ]
    for dtype in (np.uint8, np.int32):
        with pytest.raises(
            ValueError, match="value 1 is no class: the classes have the values 0, 255, and 255"
        ):
            form.decode(np.array([[0, 1]], dtype))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset": 1, "values": (0, 1)}, "more than one of them"),
        ({"colors": ((0, 0, 0, 0),), "values": (0, 1)}, "more than one of them"),
        ({"values": (0, 0)}, "different values, one a class"),
        ({"values": tuple(range(256))}, "up to 255 different values"),
        ({"unlabeled": 3, "values": (0, 3)}, "the value 3 cannot be a class and mean unlabeled"),
    ],
)
def test_formats_that_contradict_themselves_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelFormat(**arguments)  # type: ignore[arg-type]


def test_all_types_decode_alike() -> None:
    drawn = np.random.default_rng(7311).integers(0, 200, (9, 11))
    for form in (VOC_FORMAT, LabelFormat(4), NAPARI, LabelFormat(values=tuple(range(199, -1, -1)))):
        expected = [
            [
                form.values.index(v) if form.values else 255 if v == form.unlabeled else v - form.offset
                for v in row
            ]
            for row in drawn.tolist()
        ]
        for dtype in ("u1", "u2", "i2", "i4", "u4", "i8", "u8"):
            assert form.decode(drawn.astype(dtype)).tolist() == expected
    assert LabelFormat(unlabeled=-1).decode(np.array([[-1, 2]], np.int16)).tolist() == [[255, 2]]


def colored(index: np.ndarray, alpha: np.ndarray | None = None) -> Image.Image:
    table = np.array([[128, 64, 128], [255, 255, 255], [0, 0, 0]], np.uint8)
    colors = table[np.minimum(index, 2)]
    return Image.fromarray(colors if alpha is None else np.dstack([colors, alpha]))


def test_colored_files_are_read_by_their_colors() -> None:
    index = strokes(0, 1)
    image = colored(index)
    for data in (
        encoded(image),
        encoded(image, "BMP"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "WEBP", lossless=True),
        encoded(image.quantize(3)),
        tiff(np.moveaxis(np.asarray(image), -1, 0).copy(), photometric="rgb", planarconfig="separate"),
    ):
        np.testing.assert_array_equal(decode_index(data, form=COLORED), index)
    gray = Image.fromarray(np.where(index == 1, 255, 0).astype(np.uint8))
    np.testing.assert_array_equal(decode_index(encoded(gray), form=COLORED), np.where(index == 1, 1, 255))


def test_transparent_pixels_have_no_label() -> None:
    index = np.array([[0, 1, 1]])
    data = encoded(colored(index, np.array([[255, 255, 0]], np.uint8)))
    assert decode_index(data, form=COLORED).tolist() == [[0, 1, 255]]
    with pytest.raises(ValueError, match="transparent in part"):
        decode_index(encoded(colored(index, np.array([[255, 254, 0]], np.uint8))), form=COLORED)
    gray = Image.merge(
        "LA",
        [Image.fromarray(np.full((1, 2), 255, np.uint8)), Image.fromarray(np.array([[255, 0]], np.uint8))],
    )
    assert decode_index(encoded(gray), form=COLORED).tolist() == [[1, 255]]


def test_colors_that_are_not_listed_are_refused() -> None:
    image = np.asarray(colored(strokes(0, 1))).copy()
    image[3, 4] = 1, 2, 3
    image[5, 6] = 1, 2, 4
    with pytest.raises(ValueError, match=r"the color \(1, 2, 3\) is no class, nor are 1 others"):
        decode_index(encoded(Image.fromarray(image)), form=COLORED)
    with pytest.raises(ValueError, match="JPEG changes numbers"):
        decode_index(encoded(Image.fromarray(image), "JPEG"), form=COLORED)
    with pytest.raises(ValueError, match="expected colors of 8 bit, got uint16"):
        decode_index(tiff(image.astype(np.uint16), photometric="rgb"), form=COLORED)


# --- seeds ---


@pytest.mark.parametrize(
    ("seeds", "form", "num_classes"),
    [
        pytest.param(strokes(0, 1, 2), VOC_FORMAT, None, id="scribbles"),
        pytest.param(strokes(0), VOC_FORMAT, None, id="of the background alone"),
        pytest.param(strokes(0), VOC_FORMAT, 2, id="of the background alone, two classes"),
        pytest.param(mask(0.5), VOC_FORMAT, 4, id="half an image of class 0 of four"),
        pytest.param(mask(0.5), LabelFormat(values=(0,)), None, id="said to be class 0"),
        pytest.param(mask(0.5), LabelFormat(values=(0, 1)), None, id="said to be class 0 of two"),
        pytest.param(strokes(0, 20), VOC_FORMAT, None, id="VOC"),
        pytest.param(strokes(7, 33), VOC_FORMAT, None, id="Cityscapes"),
        pytest.param(strokes(3, 57, 149), VOC_FORMAT, 150, id="ADE20K"),
        pytest.param(strokes(0, 100), LabelFormat(values=(0, 100)), None, id="named values"),
        pytest.param(strokes(*range(12)), VOC_FORMAT, None, id="regions"),
        pytest.param(np.full((4, 5), 255, np.uint8), VOC_FORMAT, None, id="none"),
        pytest.param(np.zeros((4, 5), np.uint8), LabelFormat(unlabeled=-1), None, id="all labeled, as said"),
    ],
)
def test_good_seeds_pass(seeds: np.ndarray, form: LabelFormat, num_classes: int | None) -> None:
    check_seeds_meaning(seeds, form, num_classes)


def bilinear(seeds: np.ndarray) -> np.ndarray:
    small = Image.fromarray(seeds).resize((30, 20), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((60, 40), Image.Resampling.BILINEAR))


def through_jpeg(seeds: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(seeds), "JPEG", quality=95))))


@pytest.mark.parametrize(
    ("seeds", "form", "num_classes", "message"),
    [
        (
            strokes(1, 2, 3, empty=0),
            VOC_FORMAT,
            None,
            r"value 0, .*99 % .*\(unlabeled=0, offset=1\)",
        ),
        (strokes(1, 2, 3, empty=0), VOC_FORMAT, 4, r"\(unlabeled=0, offset=1\)"),
        (strokes(0, 1, 2, empty=4), VOC_FORMAT, None, r"\(unlabeled=4\)"),
        (strokes(1, 2, empty=3), LabelFormat(255, 1), None, r"value 4, .*\(unlabeled=4\)"),
        (
            mask(0.5),
            VOC_FORMAT,
            None,
            r"0 on 50 % .*\(values=\(0, 255\)\).*\(values=\(255,\), unlabeled=0\).*\(values=\(0, 1\)\)",
        ),
        (mask(0.15), VOC_FORMAT, 2, r"\(values=\(0, 255\)\)"),
        (bilinear(strokes(0, 1, 2)), VOC_FORMAT, None, r"JPEG or resized smoothly.*num_classes"),
        (through_jpeg(strokes(0, 1, 2)), VOC_FORMAT, None, r"JPEG or resized smoothly"),
        (strokes(0, 85, 170), VOC_FORMAT, None, r"3 classes up to 170 .*\(values=\(0, 85, 170\)\)"),
        (
            strokes(3, 57, 149, 2),
            VOC_FORMAT,
            None,
            r"\(2, 3, 57, 149\).*\(values=\(2, 3, 57, \.\.\.\)\).*\(num_classes\)",
        ),
    ],
)
def test_seeds_of_another_convention_are_refused_with_the_remedy(
    seeds: np.ndarray, form: LabelFormat, num_classes: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_seeds_meaning(seeds, form, num_classes)


def test_the_remedies_read_what_was_meant() -> None:
    napari = strokes(1, 2, 3, empty=0)
    check_seeds_meaning(NAPARI.decode(napari), NAPARI, None)
    np.testing.assert_array_equal(NAPARI.decode(napari), strokes(0, 1, 2))
    form = LabelFormat(values=(0, 255))
    check_seeds_meaning(form.decode(mask(0.5)), form, None)
    all_labeled = LabelFormat(-1, values=(0, 255))
    check_seeds_meaning(all_labeled.decode(mask(0.5)), all_labeled, None)
    foreground = LabelFormat(0, values=(255,))
    check_seeds_meaning(foreground.decode(mask(0.5)), foreground, None)


def test_masks_of_two_values_are_known() -> None:
    counts = np.zeros(256, np.int64)
    counts[[0, 255]] = 5, 3
    assert is_binary(counts)
    counts[7] = 1
    assert not is_binary(counts)
    assert may_be_binary(VOC_FORMAT, None)
    assert may_be_binary(VOC_FORMAT, 2)
    assert not may_be_binary(VOC_FORMAT, 3)
    assert not may_be_binary(LabelFormat(0, 1), None)
    assert not may_be_binary(LabelFormat(values=(0, 1)), None)
    check_contiguous(np.zeros(256, np.int64), VOC_FORMAT, None, "seeds")
