"""Two runs and one folder: one owner, parts beside each other, and no record of another run's file."""

import json
import os
import re
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.folders import LABELER, SETTINGS, Smooth, contents, make_folders, run_of

from selflabel.files.digest import digest
from selflabel.files.lock import Occupied, held
from selflabel.labeling import ownership
from selflabel.labeling.folder import Outcome, Skipped, Stale, label_folder
from selflabel.labeling.lines import Record
from selflabel.labeling.manifest import ArgumentsDiffer, parts_of
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.ownership import opening, owned
from selflabel.labeling.plan import WHOLE, Shard, make_plan
from selflabel.labeling.settings import LabelingSettings

pytestmark = pytest.mark.quick

OTHER = replace(SETTINGS, labeler=replace(LABELER, solver=Smooth(rounds=9)))
FIRST, SECOND = Shard(0, 2), Shard(1, 2)


def work(
    folders: tuple[Path, ...],
    out: Path,
    settings: LabelingSettings = SETTINGS,
    part: Shard = WHOLE,
    stems: tuple[str, ...] | None = None,
    **options: bool,
) -> "closing[Generator[Outcome, None, None]]":
    """The iterator over a run, closed at the end of a block."""
    plan = make_plan(folders[0], folders[1], part=part, stems=stems)
    return closing(label_folder(plan, settings, run_of(settings), out, part=part, **options))  # type: ignore[arg-type]


def outcomes(
    folders: tuple[Path, ...],
    out: Path,
    settings: LabelingSettings = SETTINGS,
    part: Shard = WHOLE,
    stems: tuple[str, ...] | None = None,
    **options: bool,
) -> list[Outcome]:
    with work(folders, out, settings, part, stems, **options) as running:
        return list(running)


def records(out: Path) -> dict[str, list[dict[str, object]]]:
    """The records of each image in all manifests."""
    found: dict[str, list[dict[str, object]]] = {}
    for path in out.glob("manifest*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            if "stem" in line:
                found.setdefault(line["stem"], []).append(line)
    return found


def check_records(out: Path, names: set[str]) -> None:
    """Each image has one record, and its files are those of the record."""
    found = records(out)
    assert found.keys() == names
    for stem, lines in found.items():
        (line,) = lines
        outputs = line["outputs"]
        assert isinstance(outputs, dict)
        files = {path.parent.name: path for path in out.rglob(f"{stem}.*")}
        assert outputs == {folder: digest([path.read_bytes()]) for folder, path in files.items()}


# --- one owner ---


@pytest.mark.parametrize("settings", [SETTINGS, OTHER], ids=["same arguments", "other arguments"])
@pytest.mark.parametrize("stems", [None, ("a0",), ("a2", "a3")])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_is_refused_before_it_writes(
    tmp_path: Path, settings: LabelingSettings, stems: tuple[str, ...] | None, overwrite: bool
) -> None:
    folders = make_folders(tmp_path, 4)
    out = tmp_path / "out"
    with work(folders, out, stems=("a0", "a1")) as first:
        next(first)
        before = contents(out), (out / "manifest.jsonl").read_bytes()
        message = rf"process {os.getpid()} on .*, since 20.* \(all images\): wait for it to end"
        with pytest.raises(Occupied, match=message):
            outcomes(folders, out, settings, stems=stems, overwrite=overwrite)
        assert (contents(out), (out / "manifest.jsonl").read_bytes()) == before
        assert len(list(first)) == 1
    check_records(out, {"a0", "a1"})
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_a_folder_made_for_a_run_that_is_refused_goes(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    out = tmp_path / "new"
    with pytest.raises(RuntimeError, match="no"), owned(out, WHOLE):
        raise RuntimeError("no")
    assert not out.exists()
    outcomes(folders, out)
    assert (out / "labels" / "a0.png").is_file()


def test_parts_of_one_count_run_at_once(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    out = tmp_path / "out"
    outcomes(folders, tmp_path / "whole")
    with work(folders, out, part=FIRST) as first, work(folders, out, part=SECOND) as second:
        turns = [next(each) for each in (first, second, first, second)]
        assert [turn.stem for turn in turns if isinstance(turn, Record)] == ["a0", "a1", "a2", "a3"]
        with pytest.raises(Occupied, match=r"\(part 1 of 2\)"):
            outcomes(folders, out, part=SECOND)
    assert contents(out) == contents(tmp_path / "whole")
    check_records(out, {"a0", "a1", "a2", "a3"})


@pytest.mark.parametrize(
    ("one", "other"), [(WHOLE, FIRST), (SECOND, WHOLE), (FIRST, Shard(1, 3)), (Shard(2, 3), Shard(3, 4))]
)
def test_parts_that_may_share_images_exclude_each_other(tmp_path: Path, one: Shard, other: Shard) -> None:
    folders = make_folders(tmp_path, 4)
    out = tmp_path / "out"
    with work(folders, out, part=one) as first:
        next(first)
        with pytest.raises(Occupied, match="another process that works in it"):
            outcomes(folders, out, part=other)
    outcomes(folders, out, part=other)


@pytest.mark.parametrize("overwrite", [False, True])
def test_parts_at_once_have_the_same_arguments(tmp_path: Path, overwrite: bool) -> None:
    """The first has no record yet: what counts is that it is at work."""
    folders = make_folders(tmp_path, 4)
    (folders[0] / "a0.png").write_bytes(b"no image")
    out = tmp_path / "out"
    with work(folders, out, part=FIRST) as first:
        next(first)
        assert records(out) == {}
        with pytest.raises(ArgumentsDiffer, match=r"gets labels from another process.*rounds: 3 -> 9.*wait"):
            outcomes(folders, out, OTHER, part=SECOND, overwrite=overwrite)
    outcomes(folders, tmp_path / "other", part=FIRST)
    assert len(outcomes(folders, tmp_path / "other", OTHER, part=SECOND, overwrite=True)) == 2


def test_who_opens_a_manifest_for_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "OPENING_SECONDS", 0.1)
    with (
        held(tmp_path / ownership.OPENING, "something"),
        pytest.raises(Occupied, match=r"\(something\)"),
        opening(tmp_path),
    ):
        pass


def test_manifests_are_known_by_their_names() -> None:
    names = ["manifest.jsonl", "manifest.1-of-2.jsonl", "manifest.10-of-11.jsonl"]
    others = [
        "manifest.2-of-2.jsonl",
        "manifest.01-of-2.jsonl",
        "manifest.0-of-1.jsonl",
        "manifest old.jsonl",
    ]
    others += ["manifest.jsonl.bak", "Manifest.jsonl", "manifest.1-of-2.jsonl\n", "manifest.²-of-3.jsonl"]
    assert list(parts_of([*names, *others])) == [SECOND, Shard(10, 11), WHOLE]


# --- records and files ---


def watched(monkeypatch: pytest.MonkeyPatch, out: Path) -> list[str]:
    """The images that are written from now on; each must have no record then, in no manifest."""
    write, seen = OutputFolder.write, list[str]()

    def checked(self: OutputFolder, stem: str, image: object, labeled: object) -> Mapping[str, str]:
        assert stem not in records(out)
        seen.append(stem)
        return write(self, stem, image, labeled)  # type: ignore[arg-type]

    monkeypatch.setattr(OutputFolder, "write", checked)
    return seen


def test_files_lose_their_record_before_they_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 3)
    out = tmp_path / "out"
    outcomes(folders, out)
    seen = watched(monkeypatch, out)
    outcomes(folders, out, OTHER, stems=("a0", "a1"), overwrite=True)
    assert seen == ["a0", "a1"]
    check_records(out, {"a0", "a1", "a2"})
    assert len({str(line["run"]) for lines in records(out).values() for line in lines}) == 2


def test_damaged_files_lose_their_record_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_folders(tmp_path, 2)
    out = tmp_path / "out"
    outcomes(folders, out)
    (out / "labels" / "a1.png").write_bytes(b"edited")
    seen = watched(monkeypatch, out)
    outcomes(folders, out)
    assert seen == ["a1"]
    check_records(out, {"a0", "a1"})


@pytest.mark.parametrize("parts", [(WHOLE, FIRST), (SECOND, WHOLE), (Shard(0, 3), FIRST)])
def test_records_of_other_manifests_are_lost_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[Shard, Shard]
) -> None:
    folders = make_folders(tmp_path, 4)
    out = tmp_path / "out"
    outcomes(folders, out, part=parts[0])
    before = set(records(out))
    seen = watched(monkeypatch, out)
    outcomes(folders, out, OTHER, part=parts[1], overwrite=True)
    check_records(out, before | set(seen))


def test_records_of_a_part_at_work_are_not_touched(tmp_path: Path) -> None:
    """Parts share no images, unless the folder of images grew meanwhile."""
    folders = make_folders(tmp_path, 3)
    out = tmp_path / "out"
    with work(folders, out, part=SECOND, stems=("a0", "a1")) as first:
        next(first)
        before = (out / "manifest.1-of-2.jsonl").read_bytes()
        with pytest.raises(Occupied, match=r"\(part 1 of 2\)"):
            outcomes(folders, out, part=FIRST, stems=("a1", "a2"), overwrite=True)
        assert (out / "manifest.1-of-2.jsonl").read_bytes() == before


# --- outputs that are not as they were written ---


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edited(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "is missing"),
        (emptied, "is empty"),
        (cut, "is not as it was written"),
        (edited, "is not as it was written"),
    ],
)
@pytest.mark.parametrize("name", ["labels/a1.png", "confidence/a1.png", "soft/a1.npz", "overlays/a1.png"])
def test_outputs_that_changed_are_written_again_and_named(
    tmp_path: Path, change: object, reason: str, name: str
) -> None:
    from selflabel.labeling.settings import Soft

    settings = replace(SETTINGS, soft=Soft.FLOAT16, overlay=True)
    folders = make_folders(tmp_path, 3)
    out = tmp_path / "out"
    outcomes(folders, out, settings)
    before = contents(out)
    assert callable(change)
    change(out / name)
    again = outcomes(folders, out, settings)
    assert [type(each) for each in again] == [Skipped, Stale, Skipped, Record]
    assert [each for each in again if isinstance(each, Stale)] == [Stale("a1", f"{name} {reason}")]
    assert contents(out) == before
    check_records(out, {"a0", "a1", "a2"})


def test_an_output_that_is_a_folder_fails_that_image(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    out = tmp_path / "out"
    outcomes(folders, out)
    made_a_folder(out / "labels" / "a1.png")
    stale, failure = outcomes(folders, out)[1:]
    assert isinstance(stale, Stale)
    assert stale.reason == "labels/a1.png expected a file, got a folder"
    assert re.search("Is a directory: '.*a1.png'$", failure.reason)  # type: ignore[union-attr]


# --- links ---


@pytest.mark.parametrize("folder", ["labels", "confidence"])
def test_a_folder_of_outputs_is_no_link(tmp_path: Path, folder: str) -> None:
    folders = make_folders(tmp_path, 1)
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / folder).symlink_to(elsewhere)
    with pytest.raises(
        ValueError, match=rf"{folder} is a link \(to .*elsewhere\): remove it, or write elsewhere"
    ):
        outcomes(folders, out)
    assert list(elsewhere.iterdir()) == []


def test_an_output_that_is_a_link_fails_its_image(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    out, precious = tmp_path / "out", tmp_path / "precious"
    precious.write_text("precious")
    (out / "labels").mkdir(parents=True)
    (out / "labels" / "a1.png").symlink_to(precious)
    with pytest.raises(ValueError, match="exists and is not of an earlier run"):
        outcomes(folders, out)
    done, failure = outcomes(folders, out, overwrite=True)
    assert isinstance(done, Record)
    assert "a1.png is a link" in failure.reason  # type: ignore[union-attr]
    assert precious.read_text() == "precious"
    assert (out / "labels" / "a1.png").is_symlink()


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.1-of-2.jsonl"])
def test_a_manifest_is_no_link(tmp_path: Path, name: str) -> None:
    folders = make_folders(tmp_path, 1)
    out, precious = tmp_path / "out", tmp_path / "precious"
    precious.write_text("")
    out.mkdir()
    (out / name).symlink_to(precious)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=rf"{name} is a link"):
            outcomes(folders, out, overwrite=overwrite)
    assert precious.read_text() == ""
