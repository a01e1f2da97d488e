"""Lists of stems and of class names, as people and other programs write them."""

import logging
from pathlib import Path

import pytest

from selflabel.files.lists import read_names, read_stems

pytestmark = pytest.mark.quick

THERE = ("x0", "x1", "my cell 2", "a.b", "café", "x#3")


def stems(path: Path, data: bytes) -> tuple[str, ...]:
    path.write_bytes(data)
    return read_stems(path, THERE)


@pytest.mark.parametrize(
    "data",
    [
        b"x0\nx1\n",
        b"x0\r\nx1\r\n",
        b"x0\rx1",
        b"\n  x0 \t\n\n\tx1\n\n",
        b"\xef\xbb\xbfx0\nx1\n",
        "x0\r\nx1\r\n".encode("utf-16"),
        "x0\r\nx1\r\n".encode("utf-16-le"),
        "x0\nx1".encode("utf-16-be"),
        "x0\nx1\n".encode("utf-32"),
        b"x0.png\nx1.JPG\n",
        b"images/x0.png\n./images/x1\n",
        b"C:\\photos\\x0.jpg\r\nphotos\\x1.jpg\r\n",
        b"/JPEGImages/x0.jpg /SegmentationClassAug/x0.png\n/JPEGImages/x1.jpg\t/SegmentationClassAug/x1.png\n",
        b"x0.jpg,x0.png\nx1.jpg, x1.png\n",
        b"\"x0\"\n'x1'\n",
        b"# the first split\nx0\n#x2\nx1 # dim\n",
        b"x0.ome.tif\nx1.png.npz\n",
    ],
)
def test_stems_in_other_forms(tmp_path: Path, data: bytes) -> None:
    assert stems(tmp_path / "train.txt", data) == ("x0", "x1")


def test_stems_with_spaces_dots_and_accents(tmp_path: Path) -> None:
    text = "my cell 2\na.b\ncafe\N{COMBINING ACUTE ACCENT}\nx#3\n"
    expected = ("my cell 2", "a.b", "café", "x#3")
    assert stems(tmp_path / "val.txt", text.encode()) == expected
    other = "images/my cell 2.png\na.b.png\ncafé.png\nx#3\n"
    assert stems(tmp_path / "val.txt", other.encode("cp1252")) == expected


def test_another_encoding_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "classes.txt").write_bytes("road\nStraße\n".encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert read_names(tmp_path / "classes.txt") == ("road", "Straße")
    assert "classes.txt, line 2 is not UTF-8: read as Windows-1252" in caplog.text


def test_stems_that_are_there_twice_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert stems(tmp_path / "val.txt", b"x0\nx1\nx0.png\n") == ("x0", "x1")
    assert "x0 is there more than once (lines 1 and 3)" in caplog.text
    with pytest.raises(
        ValueError, match=r"val\.txt: x0 is there more than once \(lines 1 and 3\): list each"
    ):
        read_stems(tmp_path / "val.txt", THERE, repeated=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x0\nx9\nx8\n", r"line 2: there is no image 'x9' \(1 more lines name none\): expected one stem"),
        (b"X1\n", r"line 1: there is no image 'X1': expected one stem .* a line.*; did you mean x1\?"),
        (b"x0 -1\nx1 1\n", "line 1: there is no image 'x0 -1'"),
        (b"/a/x0.jpg /b/x1.png\n", "line 1: there is no image '/a/x0.jpg /b/x1.png'"),
        (b"a.c\n", "line 1: there is no image 'a.c'"),
        (b"# nothing\n\n", "is empty: expected one stem"),
        (b"", "is empty: expected one stem"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no text: expected one stem"),
        (b"\xff\xfex", "is no text: expected one stem"),
        (b"x0\n\x1b[31mx1\n", "line 2 is no text: expected one stem"),
    ],
)
def test_lines_that_name_nothing_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        stems(tmp_path / "train.txt", data)
    assert str(caught.value).startswith(str(tmp_path / "train.txt"))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nope\.txt: no such file: expected one stem"):
        read_stems(tmp_path / "nope.txt", THERE)
    with pytest.raises(ValueError, match="expected a file, got a folder"):
        read_names(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "sky\nfar hill\n#1 tree\n",
        "# of the third edition\nsky\nfar hill\n#1 tree\n\n",
        "0 sky\n1 far hill\n2 #1 tree\n",
        "0: sky\r\n1: far hill\r\n2:#1 tree\r\n",
    ],
)
def test_names_of_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert read_names(tmp_path / "classes.txt") == ("sky", "far hill", "#1 tree")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 sky\n2 hill\n", r"line 1: expected class 0, got '1 sky': classes are numbered from 0"),
        ("0 sky\n1 hill\n255 void\n", r"line 3: expected class 2, got '255 void'"),
        ("sky\n\nhill\n", "line 2 has no name: expected the name of class 0 in line 1"),
        ("\n", "is empty: expected the name of class 0"),
    ],
)
def test_names_whose_numbers_are_unclear(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / "classes.txt")


def test_names_that_are_there_twice_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "classes.txt").write_text("road\nother\nother\n")
    with caplog.at_level(logging.WARNING):
        assert read_names(tmp_path / "classes.txt") == ("road", "other", "other")
    assert "classes.txt: 2 classes have the name other" in caplog.text


def test_names_that_are_numbers_stay(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("7\n3\n")
    assert read_names(tmp_path / "classes.txt") == ("7", "3")
