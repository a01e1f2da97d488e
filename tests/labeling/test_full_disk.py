"""A disk that fills up while files are written: that image fails by name, and nothing half-written stays."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.folders import SETTINGS, contents, make_folders, picture, run_of

from selflabel.files.label_files import write_index
from selflabel.labeling.folder import Skipped, label_folder
from selflabel.labeling.lines import Record
from selflabel.labeling.plan import Failure, make_plan
from selflabel.labeling.settings import Soft

resource = pytest.importorskip("resource", reason="about limits of Unix")

ALL = replace(SETTINGS, soft=Soft.FLOAT16, overlay=True)
MOST_BYTES = 8_000
"""More than the manifest has, less than the soft labels of the large image."""


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_do_not_fit_fail_their_image(tmp_path: Path, overwrite: bool) -> None:
    """Labels are smaller than soft labels: with the limit between the two, none of the image's files may appear."""
    images, seeds, _ = make_folders(tmp_path, 2)
    image, scribbles, _ = picture(99, (120, 160), noise=90)
    Image.fromarray(image).save(images / "large.png")
    write_index(seeds / "large.png", scribbles)
    plan, run, out = make_plan(images, seeds), run_of(ALL), tmp_path / "out"
    list(label_folder(plan, ALL, run, tmp_path / "whole"))
    whole = contents(tmp_path / "whole")
    small = {name: data for name, data in whole.items() if "large" not in name}
    assert len(whole["labels/large.png"]) < MOST_BYTES < len(whole["soft/large.npz"])
    if overwrite:
        list(label_folder(plan, ALL, run, out))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, before[1]))
        found = list(label_folder(plan, ALL, run, out, overwrite=overwrite))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [type(each) for each in found] == [Record, Record, Failure]
    assert isinstance(found[2], Failure)
    assert f"File too large: '{out}" in found[2].reason
    assert "/large." in found[2].reason
    assert contents(out) == (whole if overwrite else small)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    again = list(label_folder(plan, ALL, run, out))
    assert [type(each) for each in again] == [Skipped, Skipped, Record]
    assert contents(out) == whole
