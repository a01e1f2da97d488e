"""Files that belong together by stem, and what is left out of a folder."""

import os
import unicodedata
from pathlib import Path

import pytest

from selflabel.files.folders import has_all, listing, some, stem_of

pytestmark = pytest.mark.quick

SUFFIXES = (".png", ".tif")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("cell_01.ome.tif", "cell_01"),
        ("cell_01.OME.TIF", "cell_01"),
        ("photo.jpg.png", "photo"),
        ("photo.tif.npz", "photo"),
        ("a.b.png", "a.b"),
        ("a.b", "a.b"),
        ("1.5", "1.5"),
        ("v1.2.3.ome.tiff", "v1.2.3"),
        (".png", ".png"),
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café")),
    ],
)
def test_stems(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_a_suffix_that_only_the_caller_knows(tmp_path: Path) -> None:
    assert list(listing(touch(tmp_path, "a.b.xyz"), (".xyz",)).files) == ["a.b"]
    assert has_all(tmp_path, (".xyz",), ["a.b"])


def test_one_name_in_two_forms(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]
    touch(tmp_path, *names)
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("the file system composes names")
    found = listing(tmp_path, SUFFIXES)
    assert not found.files
    assert found.stems == (names[0].removesuffix(".png"),)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.TIF", ".DS_Store", "notes.txt", "c.json", "d.json", "README")
    (tmp_path / "old.png").mkdir()
    found = listing(tmp_path, SUFFIXES)
    assert list(found.files) == ["a", "b"]
    assert found.left_out("image") == (
        "4 files are no images (.json, no suffix, .txt)",
        "1 file is hidden",
        "1 folder is not searched",
    )
    assert listing(tmp_path / "a.png", SUFFIXES).left_out("image") == ()
    assert listing(touch(tmp_path / "one", "a.png", "a.jpg"), SUFFIXES).left_out("label file") == (
        "1 file is no label file (.jpg)",
    )


def test_a_folder_without_such_files_says_what_it_has(tmp_path: Path) -> None:
    touch(tmp_path, "a.pt", "b.pt")
    message = r"no files named \*\.png, \*\.tif \(2 files are no such files \(\.pt\)"
    with pytest.raises(ValueError, match=message + r"\)$"):
        listing(tmp_path, SUFFIXES)
    (tmp_path / "labels").mkdir()
    (tmp_path / "soft").mkdir()
    with pytest.raises(ValueError, match=message + r"; 2 folders are not searched: labels, soft\)$"):
        listing(tmp_path, SUFFIXES)


def test_files_of_one_stem_are_told_apart_from_the_others(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.ome.tif", "b.png", "b.tif")
    found = listing(tmp_path, SUFFIXES)
    assert found.files == {"a": tmp_path / "a.png"}
    assert found.stems == ("a", "b")
    assert found.clash("a") is found.clash("c") is None
    message = "b.ome.tif, b.png and b.tif have the same stem: which one is meant? Move the other away"
    assert found.clash("b") == message


def test_some_names() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some([*"abcdefg"]) == "a, b, c, d and 3 others"
