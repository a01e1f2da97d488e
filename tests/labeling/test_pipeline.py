"""The engine of devices, on the CPU: the same bytes as without, and nothing that goes wrong costs more than it must."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.devices import CPU, TALL, Breaking, Cramped, Deadly, Picky, read, with_solver
from support.folders import LABELER, SETTINGS, KillsItself, MeanColor, contents, make_folders, picture, run_of
from support.processes import environment

from selflabel.files.label_files import write_index
from selflabel.labeling.engines import parcels, pipeline, stages
from selflabel.labeling.engines.parcels import OPEN_FILES, Blocks
from selflabel.labeling.engines.processes import can_fork
from selflabel.labeling.engines.stages import (
    DeviceWork,
    Done,
    FileWork,
    Greeting,
    Hello,
    SolveImages,
    Waiting,
    WriteImage,
)
from selflabel.labeling.folder import Outcome, Skipped, label_folder
from selflabel.labeling.lines import Record
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, make_plan
from selflabel.labeling.presets import default_labeler
from selflabel.labeling.settings import LabelingSettings, Soft
from selflabel.solvers import SOLVERS


@pytest.fixture
def forks() -> None:
    """Processes know what the test replaced: they are forks, of a process of one thread."""
    if not can_fork():
        pytest.skip("this process has several threads, and cannot be forked")


needs_shared_memory = pytest.mark.skipif(
    not OPEN_FILES.is_dir(), reason="there is no memory that processes share"
)


def label(
    folders: tuple[Path, ...],
    out: Path,
    settings: LabelingSettings,
    devices: int = 0,
    probs: Path | None = None,
    workers: int = 2,
) -> list[Outcome]:
    plan = make_plan(folders[0], folders[1], probs)
    work = label_folder(plan, settings, run_of(settings), out, workers=workers, devices=(CPU,) * devices)
    return list(work)


def without_seconds(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def add_image(folders: tuple[Path, ...], stem: str, size: tuple[int, int], *, first: bool = False) -> None:
    """One more image; `first`: with a seed at the first pixel."""
    image, seeds, _ = picture(sum(stem.encode()), size)
    if first:
        seeds[0, 0] = 0
    Image.fromarray(image).save(folders[0] / f"{stem}.png")
    write_index(folders[1] / f"{stem}.png", seeds)


# --- the same bytes ---


@pytest.mark.parametrize(("name", "devices"), [*((name, 1) for name in SOLVERS), ("random-walker", 2)])
def test_every_solver_writes_the_same_bytes_as_without_a_device(
    tmp_path: Path, name: str, devices: int
) -> None:
    folders = make_folders(tmp_path, 4)
    add_image(folders, "b0", (TALL, 16))
    labeler = default_labeler(SOLVERS[name]())
    if devices == 1:  # forests take time
        labeler = replace(labeler, annotator=MeanColor())
    settings = LabelingSettings(labeler, soft=Soft.FLOAT16, overlay=True)
    label(folders, tmp_path / "one", settings)
    outcomes = label(folders, tmp_path / "two", settings, devices)
    assert [type(outcome) for outcome in outcomes] == [Record] * 5
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert without_seconds(tmp_path / "two") == without_seconds(tmp_path / "one")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8])
def test_given_predictions_write_the_same_bytes(
    tmp_path: Path, dtype: type, rng: np.random.Generator
) -> None:
    folders, probs = make_folders(tmp_path, 4), tmp_path / "probs"
    probs.mkdir()
    for number in range(4):
        values = rng.dirichlet(np.ones(3), (12, 16)).transpose(2, 0, 1)
        stored = np.round(255 * values) if dtype is np.uint8 else values
        np.save(probs / f"a{number}.npy", stored.astype(dtype))
    labeler = default_labeler(SOLVERS["gradient-descent"](), predicted=True)
    settings = LabelingSettings(labeler, all_classes=True, min_confidence=0.6, soft=Soft.UINT8)
    label(folders, tmp_path / "one", settings, probs=probs)
    outcomes = label(folders, tmp_path / "two", settings, 1, probs)
    assert all(isinstance(outcome, Record) and outcome.changed is not None for outcome in outcomes)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert without_seconds(tmp_path / "two") == without_seconds(tmp_path / "one")


def test_a_batch_has_the_bytes_of_its_images(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 5)
    for name in SOLVERS:
        settings = LabelingSettings(replace(default_labeler(SOLVERS[name]()), annotator=MeanColor()))
        with closing(Blocks()) as blocks:
            work = DeviceWork(settings, CPU)
            images = read(folders, tmp_path / "out", settings, blocks)
            alone = []
            for image in images:
                (done,) = work(SolveImages((image,)))  # type: ignore[misc]
                assert isinstance(done, Done)
                alone.append((done, done.image.parcel.open()["confidence"].copy()))
            together = work(SolveImages(images))
            assert isinstance(together, tuple)
            for done, (single, labels) in zip(together, alone, strict=True):
                assert isinstance(done, Done)
                assert np.array_equal(done.image.parcel.open()["confidence"], labels)
                assert (done.energy, done.steps) == (single.energy, single.steps)


@pytest.mark.usefixtures("forks")
@needs_shared_memory
def test_without_shared_memory_arrays_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_folders(tmp_path, 3)
    label(folders, tmp_path / "one", SETTINGS, 1)
    monkeypatch.setattr(parcels, "OPEN_FILES", tmp_path / "none")
    label(folders, tmp_path / "two", SETTINGS, 1)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_with_little_memory_images_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 4)
    label(folders, tmp_path / "one", SETTINGS)
    lent: list[int] = []
    lend = Blocks.lend

    def counted(self: Blocks) -> str:
        lent.append(len(self.lent))
        return lend(self)

    monkeypatch.setattr(pipeline, "SHARE", 0.0)
    monkeypatch.setattr(Blocks, "lend", counted)
    label(folders, tmp_path / "two", SETTINGS, 1)
    assert max(lent[2:]) == 0  # the first two are read before the size of one is known
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_second_run_has_nothing_to_do_and_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 2)
    label(folders, tmp_path / "out", SETTINGS, 1)
    monkeypatch.setattr(pipeline, "Worker", None)
    assert [type(o) for o in label(folders, tmp_path / "out", SETTINGS, 1)] == [Skipped] * 2


# --- what goes wrong ---


def test_bad_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    (folders[0] / "a1.png").write_bytes(b"no picture")
    Image.fromarray(np.full((12, 16), 255, np.uint8)).save(folders[1] / "a2.png")
    found = [label(folders, tmp_path / str(devices), SETTINGS, devices) for devices in (0, 1)]
    failures = [sorted((o.stem, o.reason) for o in outcomes if isinstance(o, Failure)) for outcomes in found]
    assert [stem for stem, _ in failures[1]] == ["a1", "a2"]
    assert failures[1] == failures[0]
    assert contents(tmp_path / "1") == contents(tmp_path / "0")


def test_an_image_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folders, out = make_folders(tmp_path, 3), tmp_path / "out"
    (out / "labels").mkdir(parents=True)
    (out / "labels" / "a1.png").mkdir()
    plan = make_plan(folders[0], folders[1])
    work = label_folder(plan, SETTINGS, run_of(SETTINGS), out, workers=2, devices=(CPU,), overwrite=True)
    outcomes = {o.stem: type(o) for o in work if isinstance(o, Record | Failure)}
    assert outcomes == {"a0": Record, "a1": Failure, "a2": Record}


def test_a_batch_that_lacks_memory_is_halved_and_an_image_refused_by_name(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 5)
    add_image(folders, "b0", (TALL, 16))
    settings = with_solver(Cramped())
    with closing(Blocks()) as blocks:
        *images, tall = read(folders, tmp_path / "out", settings, blocks)
        work = DeviceWork(settings, CPU)
        assert isinstance(work(Hello()), Greeting)
        done = work(SolveImages(tuple(images)))
        assert isinstance(done, tuple)
        assert [(type(each), each.image.job.stem) for each in done if isinstance(each, Done)] == [
            (Done, f"a{number}") for number in range(5)
        ]
        assert work(SolveImages((tall,))) == (
            Failure(
                "b0",
                "the memory of cpu (cpu) is not enough for 9 x 16 pixels and 2 classes: label this image with "
                "--device cpu",
            ),
        )
    outcomes = label(folders, tmp_path / "out", settings, 1)
    assert [o.stem for o in outcomes if isinstance(o, Failure)] == ["b0"]
    smooth = label(folders, tmp_path / "one", with_solver(Cramped(most=1)))
    assert [o.stem for o in smooth if isinstance(o, Failure)] == ["b0"]
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_an_image_that_a_solver_fails_on_does_not_fail_its_batch(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    add_image(folders, "a2", (12, 16), first=True)
    settings = with_solver(Picky())
    with closing(Blocks()) as blocks:
        images = read(folders, tmp_path / "out", settings, blocks)
        done = DeviceWork(settings, CPU)(SolveImages(images))
    assert isinstance(done, tuple)
    assert [type(each) for each in done] == [Done, Done, Failure, Done]
    assert done[2] == Failure("a2", "ZeroDivisionError: the first pixel")


def test_a_device_that_dies_costs_the_image_that_it_dies_on(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 6)
    add_image(folders, "a3", (12, 16), first=True)
    outcomes = label(folders, tmp_path / "out", with_solver(Deadly()), 1, workers=3)
    assert [(o.stem, o.reason) for o in outcomes if isinstance(o, Failure)] == [
        ("a3", "the process that labeled it was killed by SIGKILL (out of memory?)")
    ]
    assert sum(isinstance(outcome, Record) for outcome in outcomes) == 5


@pytest.mark.usefixtures("forks")
def test_a_device_that_breaks_is_begun_anew_and_costs_the_image_that_breaks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, sign = make_folders(tmp_path, 6), str(tmp_path / "broken")
    add_image(folders, "a3", (12, 16), first=True)
    monkeypatch.setattr(stages, "_works", lambda device: not Path(f"{sign}{os.getpid()}").exists())
    outcomes = label(folders, tmp_path / "out", with_solver(Breaking(sign=sign)), 1, workers=3)
    assert [(o.stem, o.reason) for o in outcomes if isinstance(o, Failure)] == [
        ("a3", "RuntimeError: CUDA error: an illegal memory access was encountered")
    ]
    assert sum(isinstance(outcome, Record) for outcome in outcomes) == 5


def test_a_process_of_files_that_dies_costs_its_image(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    add_image(folders, "a9", (9, 16))
    settings = replace(SETTINGS, labeler=replace(LABELER, annotator=KillsItself()))
    outcomes = label(folders, tmp_path / "out", settings, 1)
    assert [o.stem for o in outcomes if isinstance(o, Failure)] == ["a9"]
    assert sum(isinstance(outcome, Record) for outcome in outcomes) == 4


def test_a_device_that_cannot_be_used_ends_the_run_and_says_so(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    plan = make_plan(folders[0], folders[1])
    work = label_folder(plan, SETTINGS, run_of(SETTINGS), tmp_path / "out", devices=(torch.device("meta"),))
    with pytest.raises(ValueError, match=r"meta cannot be used \(.*give --device cpu"):
        list(work)
    assert [type(o) for o in label(folders, tmp_path / "out", SETTINGS, 1)] == [Record] * 2


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("deaths", [2, 3])
def test_a_process_that_dies_before_its_device_is_ready_is_replaced_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    folders, call = make_folders(tmp_path, 2), DeviceWork.__call__

    def dies(self: DeviceWork, request: Hello | SolveImages) -> object:
        if isinstance(request, Hello) and len(list(tmp_path.glob("dead*"))) < deaths:
            (tmp_path / f"dead{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, request)

    monkeypatch.setattr(DeviceWork, "__call__", dies)
    if deaths == 2:
        assert [type(o) for o in label(folders, tmp_path / "out", SETTINGS, 1)] == [Record] * 2
        return
    with pytest.raises(ValueError, match=r"cpu cannot be used \(the process .* was killed by SIGKILL"):
        label(folders, tmp_path / "out", SETTINGS, 1)


@pytest.mark.usefixtures("forks")
def test_a_defect_of_the_engine_is_no_failure_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FileWork, request: object) -> None:
        raise ZeroDivisionError("seven")

    monkeypatch.setattr(FileWork, "__call__", broken)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: seven"):
        label(make_folders(tmp_path, 2), tmp_path / "out", SETTINGS, 1)


# --- interruptions ---


def test_processes_end_with_the_iterator_and_a_second_run_goes_on(tmp_path: Path) -> None:
    folders, out = make_folders(tmp_path, 8), tmp_path / "out"
    label(folders, tmp_path / "whole", SETTINGS)
    plan = make_plan(folders[0], folders[1])
    work = label_folder(plan, SETTINGS, run_of(SETTINGS), out, workers=2, devices=(CPU,))
    with closing(work):
        next(work)
        assert len(multiprocessing.active_children()) == 3
    deadline = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    outcomes = label(folders, out, SETTINGS, 1)
    assert 1 <= sum(isinstance(outcome, Skipped) for outcome in outcomes) < 8
    assert contents(out) == contents(tmp_path / "whole")
    assert without_seconds(out) == without_seconds(tmp_path / "whole")


ORPHANS = """
import os, signal, sys
from pathlib import Path
import torch
from support.devices import CPU
from support.folders import SETTINGS, run_of
from selflabel.labeling.folder import label_folder
from selflabel.labeling.plan import make_plan

root = Path(sys.argv[1])
plan = make_plan(root / "images", root / "seeds")
for _ in label_folder(plan, SETTINGS, run_of(SETTINGS), root / "out", workers=2, devices=(CPU,)):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="about signals")
def test_processes_end_when_the_run_is_killed_and_the_next_one_goes_on(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 6)
    label(folders, tmp_path / "whole", SETTINGS)
    script = [sys.executable, "-c", ORPHANS, str(tmp_path)]
    # ends when all who could write to the output have
    done = subprocess.run(script, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    label(folders, tmp_path / "out", SETTINGS, 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_seconds_of_an_image_are_those_of_all_stages(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    output = OutputFolder(tmp_path / "out")
    output.prepare()
    with closing(Blocks()) as blocks:
        (image,) = read(folders, tmp_path / "out", SETTINGS, blocks)
        (done,) = DeviceWork(SETTINGS, CPU)(SolveImages((replace(image, seconds=5.0),)))  # type: ignore[misc]
        assert isinstance(done, Done)
        assert isinstance(done.image, Waiting)
        record = FileWork(SETTINGS, output)(WriteImage(replace(done, seconds=7.0)))
    assert isinstance(record, Record)
    assert 12 <= record.seconds < 13
    assert record.device == "cpu"
