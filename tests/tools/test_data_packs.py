"""The data packs: small copies of their repositories give what is expected, and the packs that exist are repeated."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import make_data_packs
import numpy as np
import pytest
from data_packs import acdc, bsds, camvid
from data_packs.acdc import ACDC, Slice
from data_packs.bsds import BSDS
from data_packs.camvid import CAMVID
from data_packs.pack import SPLITS, Pack, digest_of, stems_of, write_pack
from data_packs.strokes import clicks, scribbles
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin
from scipy.io import savemat

from selflabel.files.label_files import read_index
from selflabel.files.palette import voc_palette

Index = UInt8[np.ndarray, "h w"]
PALETTE = voc_palette().ravel().tolist()


def blocks(*values: int) -> Index:
    """Squares of 12x12 pixels side by side."""
    return np.repeat(np.repeat(np.array([values], dtype=np.uint8), 12, axis=1), 12, axis=0)


# ------------------------------------------------------------------ the packs that the figures were made of


@pytest.mark.parametrize("pack", [CAMVID, BSDS], ids=lambda pack: pack.name)
def test_simulated_labels_are_those_of_the_pack(pack: Pack, data: Path) -> None:
    folder = data / pack.name
    stems = [stem for split in SPLITS for stem in stems_of(folder, split)]
    for stem in stems[:: len(stems) // 4]:
        mask = read_index(folder / "masks" / f"{stem}.png")
        drawn = {"scribbles": scribbles(mask, stem)} | ({"clicks": clicks(mask)} if pack is CAMVID else {})
        for kind, index in drawn.items():
            np.testing.assert_array_equal(index, read_index(folder / kind / f"{stem}.png"), f"{stem} {kind}")


@pytest.mark.slow
@pytest.mark.parametrize("pack", make_data_packs.PACKS, ids=lambda pack: pack.name)
def test_the_digest_is_that_of_the_pack(pack: Pack, data: Path) -> None:
    assert digest_of(data / pack.name) == pack.digest


def test_slices_of_the_pack_are_spaced_as_ours(data: Path) -> None:
    """How many slices a volume had is not known: some number must give those that are there."""
    found: dict[tuple[str, ...], list[int]] = {}
    for split in SPLITS:
        for stem in stems_of(data / "acdc", split):
            patient, frame, _, number = stem.split("_")
            found.setdefault((patient, frame), []).append(int(number))
    assert len(found) == 160
    for numbers in found.values():
        assert any(acdc.spaced(length, 6) == numbers for length in range(6, 30))


# ------------------------------------------------------------------ camvid


def camvid_copy(folder: Path) -> Path:
    """A small copy of the repository, with an image in each split, of which one is held out."""
    for split, stem in (("train", "b"), ("train", "a"), ("val", "c"), ("test", "d")):
        for name, picture in (
            (split, Image.fromarray(np.full((12, 48, 3), (200, 100, 50), np.uint8))),
            (f"{split}annot", Image.fromarray(blocks(0, 11, 10, 3))),
        ):
            (folder / "CamVid" / name).mkdir(parents=True, exist_ok=True)
            picture.save(folder / "CamVid" / name / f"{stem}.png")
    return folder


@pytest.mark.quick
def test_camvid(tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = write_pack(out, CAMVID.classes, CAMVID.images(camvid_copy(tmp_path / "copy")))
    assert counts == {"train": 2, "val": 1}
    assert (out / "train.txt").read_text() == "a\nb\n"
    assert (out / "val.txt").read_text() == "c\n"
    assert (out / "classes.txt").read_text().splitlines() == list(CAMVID.classes)
    assert len(CAMVID.classes) == 11
    mask = read_index(out / "masks/a.png")
    np.testing.assert_array_equal(mask, blocks(0, 255, 10, 3))
    np.testing.assert_array_equal(read_index(out / "scribbles/a.png"), scribbles(mask, "a"))
    np.testing.assert_array_equal(read_index(out / "clicks/a.png"), clicks(mask))
    with Image.open(out / "images/a.jpg") as image, Image.open(out / "masks/a.png") as file:
        assert (image.format, image.size, file.mode, file.getpalette()) == ("JPEG", (48, 12), "P", PALETTE)
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
        assert np.abs(np.asarray(image).astype(int) - [200, 100, 50]).max() < 4
    assert sorted(path.name for path in out.iterdir()) == [
        *("classes.txt", "clicks", "images", "masks", "scribbles", "train.txt", "val.txt"),
    ]


def test_camvid_refuses_other_classes(tmp_path: Path) -> None:
    copy = camvid_copy(tmp_path)
    Image.fromarray(blocks(0, 12)).save(copy / "CamVid/trainannot/a.png")
    with pytest.raises(ValueError, match=r"a\.png: expected classes 0 to 10 and 11 for unlabeled, got 12"):
        list(camvid.images(copy))


# ------------------------------------------------------------------ bsds


def bsds_copy(folder: Path, drawn: dict[str, list[Index]]) -> Path:
    """A small copy of the repository: segmentations of each image, one a person."""
    truth, pictures = folder / "BSDS500/data/groundTruth/train", folder / "BSDS500/data/images/train"
    truth.mkdir(parents=True)
    pictures.mkdir(parents=True)
    for stem, people in drawn.items():
        cells = np.empty((1, len(people)), dtype=object)
        for person, index in enumerate(people):
            cells[0, person] = {"Segmentation": index.astype(np.uint16), "Boundaries": index > 0}
        savemat(truth / f"{stem}.mat", {"groundTruth": cells})
        buffer = io.BytesIO()
        Image.fromarray(people[0]).save(buffer, "JPEG")
        (pictures / f"{stem}.jpg").write_bytes(buffer.getvalue())
    return folder


@pytest.mark.quick
def test_bsds(tmp_path: Path) -> None:
    seam = blocks(9, 4, 6)
    seam[:3, 12:14] = 5  # 6 pixels
    many = np.arange(21, dtype=np.uint8).repeat(100).reshape(21, 100)
    drawn = {
        "30": [blocks(1, 2, 2), blocks(1, 1, 1), blocks(1, 2, 3), blocks(2, 1, 1)],  # counts 2, 1, 3, 2
        "20": [seam],
        "40": [many],
        "50": [blocks(1, 1)],
        "60": [many[:20]],
    }
    copy, out = bsds_copy(tmp_path / "copy", drawn), tmp_path / "out"
    assert write_pack(out, BSDS.classes, BSDS.images(copy)) == {"train": 3}
    assert (out / "train.txt").read_text() == "20\n30\n60\n"
    assert not (out / "classes.txt").exists()
    expected = blocks(2, 0, 1)
    expected[:3, 12:14] = 255
    np.testing.assert_array_equal(read_index(out / "masks/20.png"), expected)
    np.testing.assert_array_equal(read_index(out / "scribbles/20.png"), scribbles(expected, "20"))
    np.testing.assert_array_equal(read_index(out / "masks/30.png"), blocks(0, 1, 1))
    original = copy / "BSDS500/data/images/train/20.jpg"
    assert (out / "images/20.jpg").read_bytes() == original.read_bytes()


def test_bsds_ends_after_its_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bsds, "MOST_IMAGES", 2)
    copy = bsds_copy(tmp_path, {stem: [blocks(1, 2)] for stem in ("3", "1", "2")})
    assert [image.stem for image in bsds.images(copy)] == ["1", "2"]


@pytest.mark.parametrize(("counts", "chosen"), [((3, 1, 2), 2), ((4, 1, 2, 3), 2), ((2, 3, 2), 0), ((5,), 0)])
def test_the_median_segmentation(counts: tuple[int, ...], chosen: int) -> None:
    drawn = [np.arange(count).reshape(1, -1) for count in counts]
    assert bsds.median_segmentation(drawn) is drawn[chosen]


# ------------------------------------------------------------------ acdc


def acdc_slice(number: int) -> Slice:
    image = np.linspace(0.2, 0.7, 24).reshape(2, 12).astype(np.float32)
    scribble = np.full((2, 12), 4, dtype=np.uint8)
    scribble[0, :4] = np.arange(4)
    return Slice(image, np.full((2, 12), number % 4, dtype=np.uint8), scribble)


def acdc_copy(folder: Path, lengths: dict[str, int]) -> Path:
    """A small copy of the repository with empty files: the numbers of slices of volumes."""
    slices = folder / acdc.FOLDER
    slices.mkdir(parents=True)
    for volume, length in lengths.items():
        for number in range(length):
            (slices / f"{volume}_slice_{number}.h5").touch()
    return folder


def read_fake(path: Path) -> Slice:
    return acdc_slice(int(path.stem.split("_")[-1]))


@pytest.mark.quick
def test_acdc(tmp_path: Path) -> None:
    lengths = {"patient060_frame14": 1, "patient001_frame12": 2, "patient001_frame01": 11}
    lengths |= {"patient061_frame01": 1, "patient081_frame01": 3}  # the last is held out
    copy, out = acdc_copy(tmp_path / "copy", lengths), tmp_path / "out"
    assert write_pack(out, ACDC.classes, acdc.images(copy, read_fake)) == {"train": 14, "val": 1}
    stems = stems_of(out, "train")
    assert stems[:11] == tuple(f"patient001_frame01_slice_{number}" for number in range(11))
    assert stems[11:] == (
        *("patient001_frame12_slice_0", "patient001_frame12_slice_1", "patient060_frame14_slice_0"),
    )
    assert stems_of(out, "val") == ("patient061_frame01_slice_0",)
    assert (out / "classes.txt").read_text().splitlines()[1] == "right ventricle"
    np.testing.assert_array_equal(read_index(out / "masks" / f"{stems[2]}.png"), np.full((2, 12), 2))
    scribble = read_index(out / "scribbles" / f"{stems[2]}.png")
    np.testing.assert_array_equal(scribble[0], [0, 1, 2, 3, *8 * [255]])
    assert (scribble[1] == 255).all()
    with Image.open(out / "images" / f"{stems[0]}.png") as image:
        gray = np.asarray(image)
    np.testing.assert_array_equal(gray.ravel(), np.round(255 * np.arange(24) / 23))


def test_acdc_takes_as_many_slices_of_each_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acdc, "MOST_SLICES", 7)
    copy = acdc_copy(tmp_path, {"patient001_frame01": 10, "patient070_frame01": 8, "patient002_frame01": 1})
    numbers = [(image.stem[:10], image.stem[-1]) for image in acdc.images(copy, read_fake)]
    # (i + 1/2)·10/3 - 1/2 = 1.17, 4.5, 7.83; halves are rounded to even. Of 8: 0.83, 3.5, 6.17
    assert numbers == [
        *(("patient001", number) for number in "148"),
        ("patient002", "0"),
        *(("patient070", number) for number in "146"),
    ]


def test_one_slice_of_each_volume_is_the_least() -> None:
    paths = tuple(map(Path, "abc"))
    assert acdc.thinned({(1, 1): paths, (2, 1): paths}, 1) == {(1, 1): paths[1:2], (2, 1): paths[1:2]}


def test_an_image_of_one_brightness_is_black() -> None:
    np.testing.assert_array_equal(acdc.gray(np.full((2, 2), 0.3)), np.zeros((2, 2)))


@pytest.mark.parametrize(("kind", "value"), [("mask", 4), ("scribble", 5), ("mask", -1)])
def test_acdc_refuses_other_classes(tmp_path: Path, kind: str, value: int) -> None:
    copy = acdc_copy(tmp_path, {"patient001_frame01": 1})
    wrong = replace(acdc_slice(0), **{kind: np.full((2, 12), value, dtype=np.int16)})
    with pytest.raises(ValueError, match=rf"slice_0\.h5: expected {kind}s of 0 to \d, got {value} to"):
        list(acdc.images(copy, lambda path: wrong))


def test_acdc_refuses_other_names(tmp_path: Path) -> None:
    copy = acdc_copy(tmp_path, {"patient1_frame01": 1})
    with pytest.raises(ValueError, match="expected names such as patient001_frame01_slice_0"):
        list(acdc.images(copy, read_fake))


def test_a_slice_is_read_from_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, content = tmp_path / "a.h5", acdc_slice(1)
    with h5py.File(path, "w") as file:
        file["image"], file["label"], file["scribble"] = content.image, content.mask, content.scribble
    found = acdc.read_slice(path)
    np.testing.assert_array_equal(found.image, content.image)
    np.testing.assert_array_equal(found.mask, content.mask)
    np.testing.assert_array_equal(found.scribble, content.scribble)


# ------------------------------------------------------------------ the command


def start(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["make_data_packs.py", *map(str, arguments)])
    return make_data_packs.main()


@pytest.mark.quick
def test_the_command_says_whether_labels_are_those_of_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = camvid_copy(tmp_path / "copy")
    assert start(monkeypatch, "--camvid", copy, "--out", tmp_path / "other") == 1
    assert "camvid: 2 train, 1 val; LABELS DIFFER" in capsys.readouterr().out
    known = replace(CAMVID, digest=digest_of(tmp_path / "other/camvid"))
    monkeypatch.setattr(make_data_packs, "PACKS", (known,))
    assert start(monkeypatch, "--camvid", copy, "--out", tmp_path / "same") == 0
    assert "labels as those of the figures" in capsys.readouterr().out


def test_the_digest_depends_on_labels_and_splits(tmp_path: Path) -> None:
    found = []
    for name, change in (("a", None), ("b", 7), ("c", None)):
        copy, out = camvid_copy(tmp_path / name / "copy"), tmp_path / name / "out"
        if change is not None:
            Image.fromarray(blocks(0, 11, 10, change)).save(copy / "CamVid/valannot/c.png")
        write_pack(out, CAMVID.classes, CAMVID.images(copy))
        found.append(digest_of(out))
    (tmp_path / "c/out/train.txt").write_text("b\na\n")
    assert found[0] == found[2]
    assert len({*found, digest_of(tmp_path / "c/out")}) == 3


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for pack in make_data_packs.PACKS:
        assert start(monkeypatch, f"--{pack.name}", tmp_path / "none", "--out", tmp_path / "out") == 1
        assert f"got none: give the folder of a copy of https://github.com/{pack.repository}" in (
            capsys.readouterr().err
        )
    with pytest.raises(SystemExit):
        start(monkeypatch, "--out", tmp_path / "out")
    assert "at least one of --acdc, --camvid, --bsds" in capsys.readouterr().err


def test_the_command_names_h5py(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    copy = acdc_copy(tmp_path / "copy", {"patient001_frame01": 1})
    assert start(monkeypatch, "--acdc", copy, "--out", tmp_path / "out") == 1
    assert "pip install h5py" in capsys.readouterr().err


def test_a_folder_in_use_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "out/camvid/mine.txt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert start(monkeypatch, "--camvid", camvid_copy(tmp_path / "copy"), "--out", tmp_path / "out") == 1
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert list(kept.parent.iterdir()) == [kept]
