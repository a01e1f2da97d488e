"""Nothing is lost: full disks, kills, Ctrl-C, crashes, changed arguments."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support import processes
from support.folders import (
    LABELER,
    SETTINGS,
    KillsItself,
    Smooth,
    contents,
    make_folders,
    picture,
    run_of,
)
from support.processes import Tells, Told, Work, environment

from selflabel.files.atomic import TEMPORARY_SUFFIX
from selflabel.labeling import image as one_image
from selflabel.labeling.engines.processes import THREADS, Crash, _serve, can_fork, forked, run_jobs
from selflabel.labeling.folder import Skipped, label_folder
from selflabel.labeling.lines import Record, Run
from selflabel.labeling.manifest import ArgumentsDiffer, Manifest
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, Job, make_plan
from selflabel.labeling.settings import LabelingSettings, Soft

ALL_OUTPUTS = replace(SETTINGS, soft=Soft.UINT8, overlay=True)


def without_seconds(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def label(
    folders: tuple[Path, ...], out: Path, settings: LabelingSettings = ALL_OUTPUTS, workers: int = 1
) -> list[object]:
    plan = make_plan(folders[0], folders[1])
    return list(label_folder(plan, settings, run_of(settings), out, workers=workers))


# --- interruptions ---


@pytest.mark.parametrize("where", ["before writing", "while writing", "after writing"])
def test_a_resumed_run_gives_the_same_bytes_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folders = make_folders(tmp_path, 6)
    label(folders, tmp_path / "whole")
    write, fsync = OutputFolder.write, os.fsync

    def interrupted(self: OutputFolder, stem: str, image: object, labeled: object) -> Mapping[str, str]:
        if stem == "a3" and where == "before writing":
            raise KeyboardInterrupt
        if stem == "a3" and where == "while writing":
            monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
        digests = write(self, stem, image, labeled)  # type: ignore[arg-type]
        if stem == "a3":
            raise KeyboardInterrupt
        return digests

    monkeypatch.setattr(OutputFolder, "write", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        label(folders, out)
    monkeypatch.setattr(OutputFolder, "write", write)
    monkeypatch.setattr(os, "fsync", fsync)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    assert sum("stem" in json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()) == 3
    outcomes = label(folders, out)
    assert [type(outcome) for outcome in outcomes] == [Skipped] * 3 + [Record] * 3
    assert contents(out) == contents(tmp_path / "whole")
    assert without_seconds(out) == without_seconds(tmp_path / "whole")


def test_closing_the_iterator_early_leaves_the_manifest_in_order(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 3)
    plan = make_plan(folders[0], folders[1])
    with closing(label_folder(plan, SETTINGS, run_of(SETTINGS), tmp_path / "out")) as work:
        next(work)
    assert [line.get("stem") for line in without_seconds(tmp_path / "out")] == [None, "a0"]


def test_what_a_killed_run_left_is_cleaned_up(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    out = tmp_path / "out"
    label(folders, tmp_path / "whole")
    (out / "labels").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    end = f"{dead.pid}.{'0f' * 8}{TEMPORARY_SUFFIX}"
    (out / "labels" / f".a0.png.{end}").write_bytes(b"half")
    (out / f".manifest.jsonl.{end}").write_bytes(b"half")
    label(folders, out)
    assert contents(out) == contents(tmp_path / "whole")
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_a_manifest_line_cut_short_by_a_kill_is_done_again(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 3)
    out = tmp_path / "out"
    label(folders, out)
    whole = without_seconds(out)
    path = out / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    outcomes = label(folders, out)
    assert [type(outcome) for outcome in outcomes] == [Skipped, Skipped, Record]
    assert without_seconds(out) == whole


@pytest.mark.parametrize("line", ["{", "[1]", '{"stem": "a"}', '{"run": "x"}', "7"])
def test_a_damaged_manifest_is_an_error_that_says_where(tmp_path: Path, line: str) -> None:
    folders = make_folders(tmp_path, 1)
    out = tmp_path / "out"
    label(folders, out)
    path = out / "manifest.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1 is damaged"):
        label(folders, out)


# --- disks ---


def test_a_full_disk_is_reported_for_its_image_and_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 3)
    write = OutputFolder.write

    def full(self: OutputFolder, stem: str, image: object, labeled: object) -> Mapping[str, str]:
        def fail(number: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            if stem == "a1":
                patch.setattr(os, "fsync", fail)
            return write(self, stem, image, labeled)  # type: ignore[arg-type]

    monkeypatch.setattr(OutputFolder, "write", full)
    out = tmp_path / "out"
    outcomes = label(folders, out)
    assert [type(outcome) for outcome in outcomes] == [Record, Failure, Record]
    assert "No space left" in outcomes[1].reason  # type: ignore[attr-defined]
    assert {path.split("/")[1].split(".")[0] for path in contents(out)} == {"a0", "a2"}
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_a_manifest_that_cannot_be_appended_to_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 1)
    out = tmp_path / "out"
    (outcome,) = label(folders, out)
    assert isinstance(outcome, Record)
    run = run_of(ALL_OUTPUTS)
    manifest = Manifest.read(out / "manifest.jsonl")
    before = manifest.path.read_bytes()

    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            manifest.append(replace(outcome, stem="b"), run)
    assert manifest.path.read_bytes() == before
    assert list(manifest.records) == ["a0"]


def test_a_full_disk_at_the_manifest_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_folders(tmp_path, 1)

    def fail(self: Manifest, record: Record, run: Run) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Manifest, "append", fail)
    (outcome,) = label(folders, tmp_path / "out")
    assert isinstance(outcome, Failure)
    assert "manifest cannot be written" in outcome.reason


def test_a_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        label(folders, tmp_path / "file" / "out")


# --- arguments ---


def test_other_arguments_are_refused_unless_overwritten(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    out = tmp_path / "out"
    label(folders, out, SETTINGS)
    before = contents(out)
    other = replace(SETTINGS, labeler=replace(LABELER, solver=Smooth(rounds=9)))
    plan = make_plan(folders[0], folders[1])
    with pytest.raises(ArgumentsDiffer, match=r"labeler\.solver.rounds: 3 -> 9.*--out, or --overwrite"):
        list(label_folder(plan, other, run_of(other), out))
    assert contents(out) == before
    first = make_plan(folders[0], folders[1], limit=1)
    list(label_folder(first, other, run_of(other), out, overwrite=True))
    runs = {line["run"] for line in without_seconds(out) if "stem" in line}
    assert len(runs) == 2  # a1 still says what it was made with
    with pytest.raises(ArgumentsDiffer):
        list(label_folder(plan, other, run_of(other), out))
    assert all(isinstance(o, Record) for o in label_folder(plan, other, run_of(other), out, overwrite=True))
    assert len([line for line in without_seconds(out) if "stem" not in line]) == 1
    assert all(isinstance(o, Skipped) for o in label_folder(plan, other, run_of(other), out))


def test_a_new_version_is_another_argument(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    label(folders, tmp_path / "out", SETTINGS)
    plan = make_plan(folders[0], folders[1])
    newer = replace(run_of(SETTINGS), version="newer")
    with pytest.raises(ArgumentsDiffer, match='version: "test" -> "newer"'):
        list(label_folder(plan, SETTINGS, newer, tmp_path / "out"))


# --- processes ---


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_come_back_once_each(workers: int) -> None:
    assert sorted(run_jobs(range(9), Work(), workers)) == [(n, 2 * n) for n in range(9)]
    assert list(run_jobs([], Work(), workers)) == []


def test_a_process_that_dies_costs_its_job_only() -> None:
    found = dict(run_jobs(range(9), Work(dies=True), 2))
    assert sorted(found) == list(range(9))
    assert found.pop(5) == Crash("the process that labeled it ended with exit code 3")
    assert found.pop(6) == Crash("the process that labeled it was killed by SIGKILL (out of memory?)")
    assert found == {n: 2 * n for n in range(9) if n not in (5, 6)}


def test_work_that_raises_is_a_defect() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: seven"):
        list(run_jobs(range(9), Work(raises=True), 2))


def test_jobs_are_taken_only_when_a_process_is_free() -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    with closing(run_jobs(jobs(), Work(), 2)) as work:
        next(work)
        assert len(taken) <= 3


def test_processes_end_with_the_iterator() -> None:
    import multiprocessing

    with closing(run_jobs(range(50), Work(), 2)) as work:
        next(work)
        assert len(multiprocessing.active_children()) == 2
    deadline = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def told_by(outcome: Told | Crash) -> Told:
    assert isinstance(outcome, Told)
    return outcome


def test_processes_that_wait_share_what_is_loaded_and_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_fork():
        pytest.skip("this process has several threads")
    monkeypatch.setattr(processes, "loaded", 1)  # a new process would find 0
    with forked(2) as ready:
        waiting = {worker.process.pid for worker in ready}
        assert len(waiting) == 2
        found = list(dict(run_jobs(range(4), Tells(), 2, ready)).values())
        assert all(told.loaded == 1 and told.process in waiting for told in map(told_by, found))
    assert not any(worker.process.is_alive() for worker in ready)


ORPHANS = """
import os, signal
from support.processes import Tells
from selflabel.labeling.engines.processes import forked, run_jobs

with forked(2) as ready:
    print(*(worker.process.pid for worker in ready), flush=True)
    for _ in run_jobs(range(9), Tells(), 2, ready):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not THREADS.is_dir(), reason="about forks")
def test_processes_end_when_the_one_that_feeds_them_is_killed() -> None:
    script = [sys.executable, "-c", ORPHANS]
    # ends when all who could write to the output have
    done = subprocess.run(script, env=environment(), capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 2


@pytest.mark.skipif(not THREADS.is_dir(), reason="about forks")
def test_a_worker_whose_last_result_nobody_read_ends_quietly() -> None:
    """The system then resets the connection: it is not at its end, as one that was read to the end is."""
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        theirs.send("a result")
        ours.close()
        try:
            _serve(theirs, ())
        except BaseException:
            os._exit(1)
        os._exit(0)
    ours.close()
    theirs.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_process_with_threads_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "loaded", 1)
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    try:
        with forked(2) as ready:
            assert ready == []
            found = list(dict(run_jobs(range(2), Tells(), 2, ready)).values())
            assert [told.loaded for told in map(told_by, found)] == [0, 0]
    finally:
        end.set()
        other.join()


def test_where_threads_are_not_known_processes_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_fork() == (THREADS.is_dir() and len(list(THREADS.iterdir())) == 1)
    monkeypatch.setattr("selflabel.labeling.engines.processes.THREADS", tmp_path / "none")
    assert not can_fork()


def test_processes_give_the_same_files_and_survive_a_crash(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    settings = replace(ALL_OUTPUTS, labeler=replace(LABELER, annotator=KillsItself()))
    label(folders, tmp_path / "one", settings)
    Image.fromarray(picture(1, (9, 16))[0]).save(folders[0] / "a9.png")
    Image.fromarray(picture(1, (9, 16))[1]).save(folders[1] / "a9.png")
    outcomes = label(folders, tmp_path / "two", settings, workers=2)
    assert [o.stem for o in outcomes if isinstance(o, Failure)] == ["a9"]
    assert [o.reason for o in outcomes if isinstance(o, Failure)] == [
        "the process that labeled it was killed by SIGKILL (out of memory?)"
    ]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert without_seconds(tmp_path / "two") == without_seconds(tmp_path / "one")


def test_the_digest_depends_on_every_file(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 2)
    jobs = [
        Job("a", images / "a0.png", seeds / "a0.png"),
        Job("a", images / "a1.png", seeds / "a0.png"),
        Job("a", images / "a0.png", images / "a1.png"),
        Job("a", images / "a0.png", seeds / "a0.png", seeds / "a0.png"),
    ]
    assert len({one_image.digest_of(job) for job in jobs}) == 4
