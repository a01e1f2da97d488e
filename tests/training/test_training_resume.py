"""Runs that stop anywhere and go on: the same rows and weights as runs that do not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cases import CLASSES, batches, network, samples
from support.processes import environment

from selflabel.affinity.builders import Dense
from selflabel.datasets.augment import Augmentation
from selflabel.datasets.symmetry import UNMOVED
from selflabel.files.lock import sole_user
from selflabel.solvers import GradientDescent, GraphCut, MeanField
from selflabel.training import (
    SGD,
    Batches,
    DiskStore,
    History,
    MemoryStore,
    Objective,
    Row,
    SeedsOnly,
    SelfLabeling,
    TrainingSettings,
    load_checkpoint,
    load_weights,
    read_history,
    train,
)
from selflabel.training.sealed import save_sealed

SOFT = SelfLabeling(GradientDescent.default_energy, GradientDescent(), max_steps=5)
HARD = SelfLabeling(GraphCut.default_energy, GraphCut(), weight=0.2, error_probability=0.1)
DENSE = SelfLabeling(MeanField.default_energy, MeanField(), Dense(15.0, 8.0), max_steps=3, weight=0.1)
SETTINGS = TrainingSettings(
    steps=9,
    pretrain_steps=2,
    warmup_steps=3,
    learning_rate=0.01,
    validate_every=2,
    measure_every=3,
    checkpoint_every=4,
)


class Stopped(Exception):
    """Stands for a power cut between two steps."""


def stop_after(step: int) -> Callable[[Row], None]:
    def callback(row: Row) -> None:
        if row["step"] == step:
            raise Stopped

    return callback


def timeless(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def run(
    objective: Objective,
    settings: TrainingSettings,
    out: Path,
    *,
    disk: bool = False,
    resume: bool = False,
    stop: int | None = None,
    data: Batches | None = None,
) -> History:
    store = DiskStore(out / "labels") if disk else MemoryStore()
    callbacks = [] if stop is None else [stop_after(stop)]
    net = network(11 if resume else 3, norm=True, dropout=0.3)  # other weights, which resuming must replace
    return train(
        net, objective, data or batches(), settings, out, store=store, callbacks=callbacks, resume=resume
    )


def check_same(one: Path, other: Path) -> None:
    """Rows and files of two finished runs."""
    for name in ("history.jsonl", "history.csv"):
        assert len((one / name).read_text().splitlines()) == len((other / name).read_text().splitlines())
    assert timeless(read_history(one / "history.jsonl")) == timeless(read_history(other / "history.jsonl"))
    for name in ("last.pt", "best.pt"):
        a, b = load_checkpoint(one / name), load_checkpoint(other / name)
        assert (a.step, len(a.rows), a.best) == (b.step, len(b.rows), b.best)
        for mine, theirs in ((a.network, b.network), (a.average or {}, b.average or {})):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert str(a.optimizer) == str(b.optimizer)


@pytest.mark.parametrize(
    ("objective", "settings", "disk", "stop"),
    [
        (SeedsOnly(), replace(SETTINGS, average=0.7, optimizer=SGD()), False, 1),
        (SOFT, replace(SETTINGS, warm_start=True), True, 7),
        (SOFT, replace(SETTINGS, warm_start=True), False, 5),
        (HARD, replace(SETTINGS, relabel_every=3), False, 7),
        (DENSE, replace(SETTINGS, network_steps=2), False, 4),
    ],
    ids=["average", "warm start on disk", "warm start", "by epoch", "dense"],
)
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    objective: Objective, settings: TrainingSettings, disk: bool, stop: int, tmp_path: Path
) -> None:
    whole = run(objective, settings, tmp_path / "whole", disk=disk)
    with pytest.raises(Stopped):
        run(objective, settings, tmp_path / "parts", disk=disk, stop=stop)
    with open(tmp_path / "parts" / "history.jsonl", "ab") as file:
        file.write(b'{"step": 99, "lo')  # and the machine lost power
    history = run(objective, settings, tmp_path / "parts", disk=disk, resume=True)
    assert timeless(history.rows) == timeless(whole.rows)
    check_same(tmp_path / "whole", tmp_path / "parts")
    assert whole.rows != timeless(whole.rows)


def test_starts_that_are_kept_are_those_of_a_run_that_was_not_stopped(tmp_path: Path) -> None:
    """A resumed run meets images otherwise turned and in other company than when their labels were kept."""
    known = [replace(one, moved=UNMOVED) for one in samples(5)]
    turns = Augmentation(flip=True, flip_rows=True, rotate90=True)
    data = Batches(known, CLASSES, 3, seed=5, augmentation=turns, held_out=samples(2))
    run(SOFT, SETTINGS, tmp_path / "whole", data=data)
    with pytest.raises(Stopped):
        run(SOFT, SETTINGS, tmp_path / "parts", data=data, stop=6)
    run(SOFT, SETTINGS, tmp_path / "parts", data=data, resume=True)
    check_same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    whole = run(SeedsOnly(), SETTINGS, tmp_path)
    before = (tmp_path / "last.pt").stat().st_mtime_ns
    assert run(SeedsOnly(), SETTINGS, tmp_path, resume=True, stop=1).rows == whole.rows
    assert (tmp_path / "last.pt").stat().st_mtime_ns == before


def test_seconds_go_on(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(SeedsOnly(), SETTINGS, tmp_path, stop=5)
    history = run(SeedsOnly(), SETTINGS, tmp_path, resume=True)
    seconds = [row["seconds"] or 0 for row in history.rows]
    assert seconds == sorted(seconds)


SCRIPT = """
import sys, time
from pathlib import Path
import test_training_resume as t
from selflabel.training import MemoryStore, train
train(t.network(3, norm=True, dropout=0.3), t.SOFT, t.batches(), t.KILLED, Path(sys.argv[1]),
      callbacks=[lambda row: time.sleep(0.01)], resume=True)
"""
KILLED = replace(SETTINGS, steps=24, checkpoint_every=3, validate_every=5, warm_start=True)


def test_a_run_killed_at_any_moment_loses_the_steps_since_its_checkpoint(tmp_path: Path) -> None:
    """SIGKILL while a run trains, writes a row or saves: it always goes on from its files."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(killed)], env=environment(Path(__file__).parent)
    )
    try:
        deadline = time.monotonic() + 60
        while not (killed / "last.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(0.2 * int.from_bytes(os.urandom(2), "big") / 65535)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    rows = read_history(killed / "history.jsonl")
    checkpoint = load_checkpoint(killed / "last.pt")
    text = (killed / "history.jsonl").read_bytes() + (killed / "history.csv").read_bytes()
    assert text.count(b"\n") == len(text.splitlines()) >= 2 * len(rows)  # complete lines or none
    assert checkpoint.step <= len(rows) <= checkpoint.step + KILLED.checkpoint_every
    run(SOFT, KILLED, killed, resume=True)
    run(SOFT, KILLED, whole)
    check_same(killed, whole)
    assert not [path.name for path in killed.iterdir() if path.name.startswith(".")]


# --- folders and files that do not fit -----------------------------------------------------------------------------


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(SeedsOnly(), SETTINGS, tmp_path, stop=1)
    with pytest.raises(
        ValueError, match=r"holds a run already \(last\.pt, history\.jsonl, history\.csv\): resume it"
    ):
        run(SeedsOnly(), SETTINGS, tmp_path)


def test_a_run_of_other_settings_is_not_resumed(tmp_path: Path) -> None:
    def again(settings: TrainingSettings, about: Mapping[str, object]) -> None:
        train(network(), SeedsOnly(), batches(), settings, tmp_path, resume=True, about=about)

    settings, about = replace(SETTINGS, steps=4), {"data": {"size": 16}, "net": ("a", 1)}
    again(settings, about)
    assert load_checkpoint(tmp_path / "best.pt").about == {"data": {"size": 16}, "net": ["a", 1]}
    again(replace(settings, checkpoint_every=1), about)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate, optimizer\)"):
        again(replace(settings, learning_rate=0.5, optimizer=SGD()), about)
    with pytest.raises(ValueError, match=r"other settings \(data, more\)"):
        again(settings, {**about, "data": {"size": 32}, "more": 1})
    with pytest.raises(ValueError, match="JSON values in `about`"):
        again(settings, {"path": tmp_path})


def test_a_run_of_another_objective_or_store_is_not_resumed(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=4, warm_start=True)
    out, folder = tmp_path / "run", tmp_path / "labels"
    run(SOFT, settings, out)
    with pytest.raises(ValueError, match="the terms of the objective"):
        train(network(norm=True, dropout=0.3), DENSE, batches(), settings, out, resume=True)
    longer = replace(settings, checkpoint_every=1)
    with pytest.raises(ValueError, match="versions of files in the checkpoint, got labels"):
        train(
            network(norm=True, dropout=0.3),
            SOFT,
            batches(),
            longer,
            out,
            resume=True,
            store=DiskStore(folder),
        )
    train(
        network(norm=True, dropout=0.3),
        SOFT,
        batches(),
        settings,
        tmp_path / "other",
        store=DiskStore(folder),
    )
    with pytest.raises(ValueError, match="labels in the checkpoint, got versions of files"):
        train(network(norm=True, dropout=0.3), SOFT, batches(), settings, tmp_path / "other", resume=True)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    with sole_user(tmp_path), pytest.raises(ValueError, match="another process that works in it"):
        run(SeedsOnly(), SETTINGS, tmp_path)
    run(SeedsOnly(), SETTINGS, tmp_path)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(ValueError, match=r"last\.pt cannot be read as a checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"not at all")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    save_sealed(path, {"weights": 1})
    with pytest.raises(ValueError, match=r"is no checkpoint of selflabel \(format 2\)"):
        load_checkpoint(path)
    save_sealed(path, {"format": 2, "x": 2})
    with pytest.raises(ValueError, match="is no checkpoint of this version"):
        load_checkpoint(path)
    run(SeedsOnly(), replace(SETTINGS, steps=2), tmp_path / "run")
    whole = (tmp_path / "run" / "last.pt").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="do not fit the network"):
        load_weights(tmp_path / "run" / "last.pt", torch.nn.Conv2d(1, 2, 3))


def test_an_optimizer_state_that_does_not_fit(tmp_path: Path) -> None:
    run(SeedsOnly(), replace(SETTINGS, steps=2), tmp_path)
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    groups = [{**group, "params": [0]} for group in checkpoint.optimizer["param_groups"]]
    replace(checkpoint, optimizer={"state": {}, "param_groups": groups}).save(tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"the optimizer's state in .*last\.pt does not fit"):
        run(SeedsOnly(), replace(SETTINGS, steps=2), tmp_path, resume=True)


def test_checkpoints_are_tensors_and_plain_values(tmp_path: Path) -> None:
    run(SOFT, replace(SETTINGS, warm_start=True, steps=4), tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(content["labels"]) <= {f"im{number}" for number in range(6)}
    stored = content["labels"]["im0"]["labels"]
    assert stored.dtype in (torch.float16, torch.uint8)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".pt", ".csv", ".jsonl")]


def test_resuming_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="a folder `out` to resume from"):
        train(network(), SeedsOnly(), Batches(samples(2), CLASSES, 1), SETTINGS, resume=True)
