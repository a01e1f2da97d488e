"""Manifests that were edited or damaged: each an error with file, line and remedy, and never a wrong record."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.folders import SETTINGS, contents, make_folders, run_of
from typer.testing import CliRunner

from selflabel.cli import app
from selflabel.labeling.folder import Skipped, label_folder
from selflabel.labeling.lines import Record, Run
from selflabel.labeling.manifest import ArgumentsDiffer, Manifest
from selflabel.labeling.plan import make_plan
from selflabel.labeling.settings import describe

Line = dict[str, object]
ABSENT = object()


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a manifest: a run, and two images."""
    root = tmp_path_factory.mktemp("whole")
    folders = make_folders(root, 2)
    list(label_folder(make_plan(folders[0], folders[1]), SETTINGS, run_of(SETTINGS), root / "out"))
    return (root / "out" / "manifest.jsonl").read_bytes().splitlines(keepends=True)


def read(tmp_path: Path, content: bytes) -> Manifest:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    return Manifest.read(path)


def changed(line: bytes, *keys: str, value: object) -> bytes:
    """The line with the value at the place of the keys, or without it."""
    entry = json.loads(line)
    place = entry
    for key in keys[:-1]:
        place = place[key]
    if value is ABSENT:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return json.dumps(entry).encode() + b"\n"


def refused(tmp_path: Path, content: bytes, number: int, reason: str = "") -> None:
    """The content is refused, with file, line, reason and remedy."""
    wanted = (
        rf"manifest\.jsonl, line {number} is damaged: .*{reason}.*; restore the file, or delete the line "
    )
    with pytest.raises(ValueError, match=wanted) as caught:
        read(tmp_path, content)
    assert str(caught.value).endswith("or give another --out")


def test_what_a_run_writes_is_read(tmp_path: Path, lines: list[bytes]) -> None:
    manifest = read(tmp_path, b"".join(lines))
    assert list(manifest.records) == ["a0", "a1"]
    manifest.finish()
    assert manifest.path.read_bytes() == b"".join(lines)


def test_blank_lines_are_passed_over(tmp_path: Path, lines: list[bytes]) -> None:
    manifest = read(tmp_path, b"\n".join([lines[0], b"", b"  \r", *lines[1:], b""]))
    assert list(manifest.records) == ["a0", "a1"]
    manifest.finish()
    assert manifest.path.read_bytes() == b"".join(lines)


WRONG_VALUES = ["", "x", 0.5, -1, 10**30, 10**400, True, None, [], {}, [None], {"a": 1}, "NaN"]
TAKES: dict[str, Callable[[object], bool]] = {
    "stem": lambda value: isinstance(value, str) and value != "",
    "steps": lambda value: value == 0,
    "bound": lambda value: value is None or _is_float(value),
    "energy_before": lambda value: value is None or _is_float(value),
    "energy_after": lambda value: value is None or _is_float(value),
    "entropy": lambda value: value is None or _is_float(value),
    "seeded": lambda value: _is_float(value) and 0 <= value <= 1,  # type: ignore[operator]
    "labeled": lambda value: _is_float(value) and 0 <= value <= 1,  # type: ignore[operator]
    "changed": lambda value: value is None or (_is_float(value) and 0 <= value <= 1),  # type: ignore[operator]
    "empty_boxes": lambda value: value is None,
    "changed_far": lambda value: value is None or (_is_float(value) and 0 <= value <= 1),  # type: ignore[operator]
    "seconds": lambda value: _is_float(value) and value >= 0,  # type: ignore[operator]
}
"""The values that a field may have, where it may have some of these."""


def _is_float(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023


@pytest.mark.parametrize("field", [*Record.__dataclass_fields__, "run"])
@pytest.mark.parametrize("value", [*WRONG_VALUES, ABSENT], ids=lambda value: repr(value)[:20])
def test_a_record_of_wrong_values_is_refused(
    tmp_path: Path, lines: list[bytes], field: str, value: object
) -> None:
    if value is not ABSENT and field in TAKES and TAKES[field](value):
        return
    edited = changed(lines[1], field, value=value)
    refused(tmp_path, lines[0] + edited + lines[2], 2, field if value is ABSENT else "")


@pytest.mark.parametrize("field", [*Run.__dataclass_fields__, "run"])
@pytest.mark.parametrize("value", [*WRONG_VALUES, ABSENT], ids=lambda value: repr(value)[:20])
def test_a_run_of_wrong_values_is_refused(
    tmp_path: Path, lines: list[bytes], field: str, value: object
) -> None:
    free = field in ("images", "seeds", "probs")  # where the files were
    if (free and isinstance(value, str)) or (field in ("seeds", "probs") and value is None):
        return
    refused(tmp_path, changed(lines[0], field, value=value) + lines[1], 1)


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("outputs", "labels"), "0" * 15, "16 hexadecimal digits, got '0{15}'"),
        (("outputs", "labels"), "X" * 16, "16 hexadecimal digits"),
        (("outputs", "more"), "0" * 16, "for some of labels, confidence, soft, overlays"),
        (("classes",), [0, 0], "each class once"),
        (("classes",), [0, 255], r"a class as a whole number in 0\.\.254, got 255"),
        (("classes",), [0.0], "a class as a whole number"),
        (("result",), "fine", "a result out of converged, max_steps, nonfinite, got 'fine'"),
        (("seeded",), 1.5, r"seeded as a number in 0\.\.1, got 1\.5"),
        (("seconds",), -0.5, r"seconds as a number from 0, got -0\.5"),
        (("note",), "mine", "there is no key 'note'"),
        (("stem",), ABSENT, "expected the key"),
    ],
)
def test_records_say_what_is_wrong(
    tmp_path: Path, lines: list[bytes], keys: tuple[str, ...], value: object, reason: str
) -> None:
    refused(tmp_path, lines[0] + changed(lines[1], *keys, value=value), 2, reason)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("arguments", "overlay"), True),
        (("arguments", "labeler", "solver", "rounds"), 4),
        (("arguments", "new"), 1),
        (("version",), "other"),
        (("run",), "0" * 12),
    ],
)
def test_edited_arguments_are_noticed(
    tmp_path: Path, lines: list[bytes], keys: tuple[str, ...], value: object
) -> None:
    reason = "it was edited: the digest of its version and arguments is"
    refused(tmp_path, changed(lines[0], *keys, value=value) + lines[1], 1, reason)


def test_lines_that_do_not_fit_each_other_are_refused(tmp_path: Path, lines: list[bytes]) -> None:
    head, one, two = lines
    refused(tmp_path, head + one + two + one, 4, "image 'a0' is there twice")
    refused(tmp_path, head + head + one, 2, "run [0-9a-f]{12} is there twice")
    refused(tmp_path, one + two, 1, "there is no line of run [0-9a-f]{12} before it")
    refused(tmp_path, head + changed(one, "run", value="0" * 12), 2, "it was edited")


@pytest.mark.parametrize("seed", range(40))
def test_bytes_at_random_never_end_in_a_traceback(tmp_path: Path, lines: list[bytes], seed: int) -> None:
    """A manifest with bytes changed, removed or doubled is refused with its line, or read as what it says."""
    random = np.random.default_rng(seed)
    data = bytearray(b"".join(lines))
    for _ in range(random.integers(1, 4)):
        place, count = int(random.integers(len(data))), int(random.integers(1, 40))
        kind = random.integers(4)
        if kind == 0:
            data[place] = int(random.integers(256))
        elif kind == 1:
            del data[place : place + count]
        elif kind == 2:
            data[place:place] = data[place : place + count]
        else:
            del data[place:]
    refusal = ""
    try:
        manifest = read(tmp_path, bytes(data))
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert re.search(r"manifest\.jsonl, line \d is damaged: .*give another --out$", refusal, re.DOTALL)
    else:
        assert all(name in manifest.runs for name, _ in manifest.records.values())


@pytest.mark.parametrize("end", [0, 1, 20])
def test_half_a_last_line_does_not_count(tmp_path: Path, lines: list[bytes], end: int) -> None:
    whole = b"".join(lines)
    manifest = read(tmp_path, whole[: len(whole) - end])
    assert list(manifest.records) == (["a0", "a1"] if end == 0 else ["a0"])


def test_nothing_is_labeled_with_a_damaged_manifest(tmp_path: Path) -> None:
    """The command names file, line and remedy, once, and leaves all as it is; also with --overwrite."""
    images, seeds, _ = make_folders(tmp_path, 2)
    out = tmp_path / "out"
    command = ["label", *map(str, (images, "--seeds", seeds, "--out", out, "--workers", 1))]
    assert CliRunner().invoke(app, command).exit_code == 0
    path = out / "manifest.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"height": 12', b'"height": NaN', 1))
    before = contents(tmp_path), path.read_bytes()
    for more in ([], ["--overwrite"]):
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 2
        assert result.output.count("line 2 is damaged: NaN is no number in JSON; restore the file") == 1
        assert "Traceback" not in result.output
    assert (contents(tmp_path), path.read_bytes()) == before
    assert not [name for name in os.listdir(out) if name.startswith(".")]


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.0-of-2.jsonl"])
def test_a_manifest_is_a_file(tmp_path: Path, name: str) -> None:
    folders = make_folders(tmp_path, 1)
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    plan = make_plan(folders[0], folders[1])
    with pytest.raises(ValueError, match=rf"expected .*{name} to be a file, got a folder: remove it"):
        list(label_folder(plan, SETTINGS, run_of(SETTINGS), out))


def test_arguments_that_json_does_not_have_come_back(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    run = Run("test", {"limit": describe(float("inf")), "none": describe(float("nan"))})
    plan, out = make_plan(folders[0], folders[1]), tmp_path / "out"
    list(label_folder(plan, SETTINGS, run, out))
    assert [type(each) for each in label_folder(plan, SETTINGS, run, out)] == [Skipped]
    other = Run("test", {"limit": None, "none": None})
    with pytest.raises(ArgumentsDiffer, match='limit: "inf" -> null'):
        list(label_folder(plan, SETTINGS, other, out))


@pytest.mark.parametrize(("field", "value"), [("energy_after", 9.5), ("seeded", 0.5), ("stem", "other")])
def test_values_that_could_be_but_were_not_written_are_refused(
    tmp_path: Path, lines: list[bytes], field: str, value: object
) -> None:
    edited = changed(lines[1], field, value=value)
    refused(tmp_path, lines[0] + edited + lines[2], 2, "it was edited: the checksum of its values")
