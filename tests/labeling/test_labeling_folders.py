"""The folder job: what is labeled, skipped, labeled again, and reported."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import LABELER, SETTINGS, MeanColor, Smooth, contents, make_folders, picture, run_of

from selflabel.affinity.builders import Grid
from selflabel.files.label_files import read_index, write_index
from selflabel.files.opening import FileError
from selflabel.labeling.folder import Outcome, Skipped, label_folder
from selflabel.labeling.image import LabelImage, digest_of
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.lines import Record
from selflabel.labeling.manifest import ArgumentsDiffer
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, Shard, make_plan
from selflabel.labeling.presets import default_labeler
from selflabel.labeling.settings import LabelingSettings
from selflabel.reports.folder import FolderReport
from selflabel.solvers import SOLVERS

pytestmark = pytest.mark.quick


def label_all(
    folders: tuple[Path, ...], out: Path, settings: LabelingSettings = SETTINGS, **options: object
) -> list[Outcome]:
    plan = make_plan(folders[0], folders[1])
    return list(label_folder(plan, settings, run_of(settings), out, **options))  # type: ignore[arg-type]


# --- folders ---


def test_a_folder_is_labeled_and_then_skipped(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 3)
    out = tmp_path / "out"
    first = label_all(folders, out)
    assert [type(outcome) for outcome in first] == [Record] * 3
    files, manifest = contents(out), (out / "manifest.jsonl").read_bytes()
    assert sorted(files) == [f"{kind}/a{n}.png" for kind in ("confidence", "labels") for n in range(3)]
    again = label_all(folders, out)
    assert [type(outcome) for outcome in again] == [Skipped] * 3
    assert contents(out) == files
    assert (out / "manifest.jsonl").read_bytes() == manifest


def test_a_gray_picture_has_the_same_labels_however_it_is_stored(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 0)
    image, seeds, _ = picture(8_821, noise=90.0)
    gray = Image.fromarray(image[..., 0])
    wide = Image.fromarray(image[..., 0].astype(np.uint16) * 257)
    stored = {"a.png": gray, "b.png": gray.convert("LA"), "c.png": gray.convert("RGB"), "d.png": wide}
    stored |= {"e.bmp": gray.convert("RGB"), "f.gif": gray, "g.png": gray.convert("RGBA")}
    for name, one in stored.items():
        one.save(folders[0] / name)
        write_index(folders[1] / f"{name[0]}.png", seeds)
    for solver in SOLVERS.values():
        out = tmp_path / solver.name
        label_all(folders, out, LabelingSettings(default_labeler(solver())))
        files = contents(out)
        assert len(files) == 2 * len(stored)
        for kind in ("confidence", "labels"):
            assert len({data for name, data in files.items() if name.startswith(kind)}) == 1


def test_what_is_gone_or_changed_is_labeled_again(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    out = tmp_path / "out"
    label_all(folders, out)
    files = contents(out)
    (out / "confidence" / "a1.png").unlink()
    write_index(folders[1] / "a2.png", picture(99)[1][::-1].copy())
    outcomes = label_all(folders, out)
    done = {o.stem for o in outcomes if isinstance(o, Record)}
    assert done == {"a1", "a2"}
    assert contents(out)["confidence/a1.png"] == files["confidence/a1.png"]
    os.unlink(folders[0] / "a3.png")
    (folders[0] / "a3.png").mkdir()  # no file any more
    assert {o.record.stem for o in label_all(folders, out) if isinstance(o, Skipped)} == {"a0", "a1", "a2"}


def test_an_input_that_cannot_be_read_any_more_is_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 1)
    out = tmp_path / "out"
    label_all(folders, out)

    def unreadable(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", unreadable)
    job = make_plan(folders[0], folders[1]).jobs[0]
    with pytest.raises(FileError, match=r"a0\.png cannot be read: Permission denied"):
        digest_of(job)
    failure = LabelImage(SETTINGS, OutputFolder(out))(job)
    assert isinstance(failure, Failure)
    assert "Permission denied" in failure.reason


def test_bad_images_do_not_stop_the_others(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    (folders[0] / "a1.png").write_bytes(b"no image")
    (folders[1] / "a2.png").unlink()
    outcomes = label_all(folders, tmp_path / "out")
    report = FolderReport.of(outcomes)
    assert [record.stem for record in report.labeled] == ["a0", "a3"]
    assert [failure.stem for failure in report.failures] == ["a1", "a2"]
    total = sum(record.energy_after for record in report.labeled)
    assert report.per_pixel(before=False) == pytest.approx(total / (2 * 12 * 16))
    assert report.per_pixel(before=False) != report.per_pixel(before=True)
    assert report.mean([]) != report.mean([])  # nan
    nothing = FolderReport.of([])
    assert nothing.per_pixel(before=True) != nothing.per_pixel(before=True)


def test_parts_may_share_a_folder(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    label_all(folders, tmp_path / "whole")
    for index in (1, 0):
        part = Shard(index, 2)
        plan = make_plan(folders[0], folders[1], part=part)
        list(label_folder(plan, SETTINGS, run_of(SETTINGS), tmp_path / "parts", part=part))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "parts").glob("manifest*"))
    assert names == ["manifest.0-of-2.jsonl", "manifest.1-of-2.jsonl"]
    assert all(isinstance(outcome, Skipped) for outcome in label_all(folders, tmp_path / "parts"))
    with pytest.raises(ArgumentsDiffer, match="overlay: false -> true"):
        label_all(folders, tmp_path / "parts", replace(SETTINGS, overlay=True))


def test_gray_images_and_single_classes_work(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    Image.fromarray(picture(3)[0]).convert("L").save(folders[0] / "a0.png")
    seeds = picture(3)[1]
    write_index(folders[1] / "a0.png", np.where(seeds == 2, 255, seeds))
    (outcome,) = label_all(folders, tmp_path / "out")
    assert isinstance(outcome, Record)
    assert outcome.classes == (0,)
    assert outcome.entropy == pytest.approx(0, abs=1e-6)
    assert (read_index(tmp_path / "out" / "labels" / "a0.png") == 0).all()


def test_labelers_are_plain_values() -> None:
    assert Labeler(Smooth(), Smooth.default_energy, Grid(20.0), MeanColor()) == LABELER


def test_files_that_no_run_wrote_are_not_replaced(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    out = tmp_path / "out"
    (out / "labels").mkdir(parents=True)
    stem = make_plan(folders[0], folders[1]).jobs[-1].stem
    precious = out / "labels" / f"{stem}.png"
    precious.write_bytes(b"precious")
    told = r"exists and is not of an earlier run, as there is no manifest\.jsonl: .* another --out, or --overwrite"
    with pytest.raises(ValueError, match=told):
        label_all(folders, out)
    assert precious.read_bytes() == b"precious"
    label_all(folders, out, overwrite=True)
    assert precious.read_bytes() != b"precious"
