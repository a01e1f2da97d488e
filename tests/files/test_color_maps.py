"""Files that list the colors of classes."""

from pathlib import Path

import pytest

from selflabel.files.color_maps import read_color_map
from selflabel.files.opening import FileError

pytestmark = pytest.mark.quick

WANTED = ((0, 0, 0, 0), (128, 64, 128, 1), (64, 0, 192, 2))


@pytest.mark.parametrize(
    "text",
    [
        "0,0,0\n128,64,128\n64,0,192\n",
        "\ufeff0 0 0\n\n 128  64 128 \n64 0 192",
        "64 0\t192".join(("0 0 0 Void\n128 64 128\tRoad\n", "\tSign2\n")),  # CamVid's label_colors.txt
        "name,r,g,b\nVoid,0,0,0\nRoad,128,64,128\nSign,64,0,192\n",  # CamVid's class_dict.csv
        "# label:color_rgb:parts:actions\nvoid:0,0,0::\nroad:128,64,128::\nsign:64,0,192::\n",  # CVAT's labelmap.txt
        "id,name,r,g,b\n2,Sign,64,0,192\n0,Void,0,0,0\n1,Road,128,64,128\n",
        "red,green,blue,class\n0,0,0,0\n128,64,128,1\n64,0,192,2\n",
        "red;green;blue;class\n0;0;0;0\n128;64;128;1\n64;0;192;2\n",
        "Void;0;0;0\nRoad;128;64;128\nSign;64;0;192\n",
        '{"void": [0, 0, 0], "road": [128, 64, 128], "sign": [64, 0, 192]}',
        '{"void": "#000000", "road": "#804080", "sign": "64,0,192"}',
        "[[0, 0, 0], [128, 64, 128], [64, 0, 192]]",
        '{"0,0,0": 0, "#804080": 1, "64 0 192": 2}',
    ],
)
def test_every_form_of_a_color_map(tmp_path: Path, text: str) -> None:
    (tmp_path / "colors").write_text(text, encoding="utf-8")
    assert sorted(read_color_map(tmp_path / "colors")) == sorted(WANTED)


def test_colors_may_mean_unlabeled_and_share_a_class(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("r,g,b,class\n0,0,0,255\n1,1,1,0\n2,2,2,0\n")
    assert read_color_map(tmp_path / "c.csv") == ((0, 0, 0, 255), (1, 1, 1, 0), (2, 2, 2, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected lines of red, green, blue.*got no color"),
        ("road\nsign\n", "got no color"),
        ("0,0,0\n1,2\n", "got the line '1,2'"),
        ("0,0,0,1\n", "got the line '0,0,0,1'"),
        ("1 road 0 0 0\n", "got the line '1 road 0 0 0'"),
        ("0,0,256\n", r"colors of 0..255, got \(0, 0, 256\)"),
        ("r,g,b,class\n0,0,0,256\n", "expected classes 0..254, or 255 for unlabeled, got 256"),
        ("r,g,b,class\n0,0,0,x\n", "got .*'x'"),
        ("r,g,b,class\n0,0\n", "cannot be read"),
        ("0,0,0\n0,0,0\n", r"one class a color, got 0 and 1 for \(0, 0, 0\)"),
        ('{"a": [0, 0]}', r"got the color \[0, 0\]"),
        ('{"a": 1.5}', "got the color 1.5"),
        ('{"a": 1}', "got the line 'a'"),
        ('{"a": [0.5, 0, 0]}', "got .*0.5"),
        ('{"a": ', "cannot be read"),
    ],
)
def test_other_content_is_refused_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(FileError, match=rf"c\.txt.*{message}"):
        read_color_map(tmp_path / "c.txt")
