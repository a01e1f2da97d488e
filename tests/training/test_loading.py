"""Batches that other processes load: the same, in the same order, and their errors."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.cases import CLASSES, Constant, batch, network, sample, samples
from support.processes import environment
from support.runs import make_data
from torch import Tensor

from selflabel.datasets import kept
from selflabel.datasets.augment import Augmentation
from selflabel.datasets.kept import KeptArrays
from selflabel.datasets.samples import Batch, Folder, Sample
from selflabel.training import (
    Batches,
    Process,
    SeedsOnly,
    TrainingError,
    TrainingSettings,
    load_checkpoint,
    loading,
    train,
)
from selflabel.training.distributed import ALONE
from selflabel.training.fork_server import context_of_workers
from selflabel.training.loading import default_workers, load

TURNS = Augmentation(flip=True, rotate90=True, degrees=10.0, brightness=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = make_data(tmp_path_factory.mktemp("data"), train=5)
    found = Folder(root, tuple(f"t{n}" for n in range(5)), 2, size=32, masks="masks")
    for number in range(5):
        found[number]
    return found


def same(one: Batch, other: Batch) -> bool:
    assert one.masks is not None
    assert other.masks is not None
    tensors = ((one.images, other.images), (one.seeds, other.seeds), (one.masks, other.masks))
    return (one.stems, one.moved) == (other.stems, other.moved) and all(torch.equal(a, b) for a, b in tensors)


@dataclass(frozen=True)
class Failing:
    """Samples of which one cannot be read."""

    there: list[Sample]

    def __len__(self) -> int:
        return len(self.there)

    def __getitem__(self, number: int, /) -> Sample:
        if number == 3:
            raise ValueError("im3.png is damaged")
        return self.there[number]


def drained(batches: Generator[Batch, None, None]) -> list[Batch]:
    found = list[Batch]()
    with pytest.raises(ValueError, match=r"^im3\.png is damaged$"):
        found.extend(batches)
    return found


def test_workers_load_the_same_batches(folder: Folder) -> None:
    """Whole epochs in order, from any step on, and errors as they are; the images are in shared memory once."""
    data = Batches(folder, 2, 2, seed=9, augmentation=TURNS)
    with_workers = list(load(data, range(3, 9), ALONE, workers=2))
    assert len(with_workers) == 6
    for step, one in enumerate(with_workers, start=3):
        assert same(one, data.training(step))
        assert one.num_classes == 2
    assert all(same(a, b) for a, b in zip(load(data, range(3, 9), ALONE), with_workers, strict=True))
    bad = Batches(Failing(samples(4)), CLASSES, 1)
    assert len(drained(load(bad, range(9), ALONE, workers=1))) == len(drained(load(bad, range(9), ALONE)))


@dataclass(frozen=True)
class Dying:
    """Samples that end the process that reads the third one."""

    there: list[Sample]

    def __len__(self) -> int:
        return len(self.there)

    def __getitem__(self, number: int, /) -> Sample:
        if number == 2:
            os._exit(3)
        return self.there[number]


SCRIPT = """
import os, signal, sys
from dataclasses import dataclass, replace
from support.cases import CLASSES, batch
from selflabel.training.distributed import ALONE
from selflabel.training.loading import load

@dataclass(frozen=True)
class Telling:
    classes: int = CLASSES
    fixed: bool = True
    def training(self, step, process):
        told = str(os.getpid()), sys.modules["numpy"].__file__, str("json.tool" in sys.modules)
        return replace(batch(), stems=told)

if __name__ == "__main__":
"""
"""A worker that tells of itself: its number, where it has NumPy from, and whether it has what others want."""

KILLED = """
    print(next(load(Telling(), range(9), ALONE, workers=1)).stems[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_workers_end_with_the_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + KILLED)
    done = subprocess.run(
        [sys.executable, str(script)], env=environment(), stdout=subprocess.PIPE, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while is_there(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_there(pid: int) -> bool:
    """True if a process runs; one that has ended may wait for its parent to ask how."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_that_is_killed() -> None:
    with pytest.raises(
        TrainingError, match=r"has ended, perhaps for lack of memory: give fewer workers \(0: "
    ):
        list(load(Batches(Dying(samples(4)), CLASSES, 1), range(9), ALONE, workers=1))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DataLoader worker (pid 7) is killed"), ConnectionResetError("by peer"), EOFError()],
    ids=["killed", "reset", "cut"],
)
def test_whatever_torch_says_of_a_worker_that_is_killed(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of one that is: without workers errors stay what they are."""

    def ended(*args: object, **options: object) -> Iterator[Batch]:
        yield from ()
        raise error

    class CannotBegin:
        """The server ends before it has started a worker."""

        def __iter__(self) -> Iterator[Batch]:
            raise error

    for loader in (ended, lambda *_, **__: CannotBegin()):
        monkeypatch.setattr(loading, "DataLoader", loader)
        with pytest.raises(TrainingError, match="has ended"):
            next(load(Constant(batch()), range(1), ALONE, workers=1))
    with pytest.raises(type(error)) as raised:
        next(load(Constant(batch()), range(1), ALONE))
    assert raised.value is error


def test_a_part_of_each_batch_for_each_process(folder: Folder) -> None:
    data = Batches(folder, 2, 3, seed=9)
    part = list(load(data, range(2), Process(1, 2)))
    assert all(same(one, data.training(step, Process(1, 2))) for step, one in enumerate(part))
    assert list(load(data, range(4, 4), ALONE, workers=2)) == []


def test_labels_that_are_no_classes_are_found_before_the_step() -> None:
    wrong = batch()
    wrong.seeds[0, 0, 0] = CLASSES
    with pytest.raises(ValueError, match=r"expected seeds in 0\.\.2 or 255"):
        next(load(Constant(wrong), range(1), ALONE))
    assert wrong.masks is not None
    wrong = batch()
    assert wrong.masks is not None
    wrong.masks[0, 0, 0] = CLASSES
    with pytest.raises(ValueError, match=r"expected seeds in 0\.\.2 or 255"):
        next(load(Constant(wrong), range(1), ALONE))


def test_a_run_does_not_depend_on_workers(folder: Folder, tmp_path: Path) -> None:
    """Not on their number, not on that of a run it goes on with; the network's random numbers are its own."""
    data = Batches(folder, CLASSES, 2, seed=9, augmentation=TURNS, held_out=folder)
    settings = TrainingSettings(steps=4, checkpoint_every=2, validate_every=0, measure_every=0)
    for workers in (0, 1):
        train(
            network(dropout=0.3),
            SeedsOnly(),
            data,
            replace(settings, workers=workers),
            tmp_path / str(workers),
        )
    one, other = (load_checkpoint(tmp_path / name / "last.pt").network for name in "01")
    assert all(torch.equal(one[key], other[key]) for key in one)
    train(network(), SeedsOnly(), data, settings, tmp_path / "1", resume=True)  # finished: no other settings


# --- memory -------------------------------------------------------------------------------------------------------


def test_a_folder_is_sent_without_a_copy_of_its_images(folder: Folder) -> None:
    """Few bytes beside the two blocks of shared memory; this process has its images there, too."""
    before = [folder[number] for number in range(5)]
    sent = bytes(ForkingPickler.dumps(folder))
    assert len(sent) < 8000 < folder.kept_bytes == 5 * 32 * 32 * (4 + 1 + 1)
    again = pickle.loads(sent)
    for number, one in enumerate(before):
        for found in (again[number], folder[number]):
            assert torch.equal(found.image, one.image)
            assert torch.equal(found.seeds, one.seeds)
            assert found.mask is not None
            assert one.mask is not None
            assert torch.equal(found.mask, one.mask)
    assert again.read
    blocks = folder._kept.packed[1]
    ForkingPickler.dumps(folder)
    assert folder._kept.packed[1] is blocks
    blocks[0] += 1  # seen by both: it is one memory
    assert torch.equal(again[0].image, folder[0].image)
    blocks[0] -= 1
    assert pickle.loads(bytes(ForkingPickler.dumps(KeptArrays()))).found == {}


def test_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch, folder: Folder) -> None:
    """By default there are no workers then; who asks for them is told what to do."""

    def full(self: Tensor) -> None:
        raise RuntimeError("No space left on device (28)")

    data, gpu = Batches(folder, 2, 2), torch.device("cuda")
    monkeypatch.setattr(loading, "usable_processors", lambda: 8)
    for free, workers in ((2**26, 0), (2**40, loading.MOST_WORKERS)):
        monkeypatch.setattr(loading, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert default_workers(gpu, data) == workers
        assert default_workers(torch.device("cpu"), data) == 0
    monkeypatch.setattr(loading, "usable_processors", lambda: 2)
    assert default_workers(gpu, Batches([sample(0)], CLASSES, 1)) == 1
    monkeypatch.setattr(Tensor, "share_memory_", full)
    with pytest.raises(MemoryError, match=r"MB of shared memory .*No space left.*give 0 workers.*--shm-size"):
        kept._shared([torch.zeros(3)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to pin memory for")
def test_copies_wait_unless_they_come_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[bool] = []
    original = Tensor.to

    def noted(self: Tensor, *args: object, non_blocking: bool = False) -> Tensor:
        flags.append(non_blocking)
        return original(self, *args)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(Tensor, "to", noted)
    given = batch().checked(CLASSES)
    assert given.to("cpu").num_classes == CLASSES
    assert flags == [False] * 3
    monkeypatch.setattr(Tensor, "is_pinned", lambda self: True)
    given.to("cpu")
    assert flags == [False] * 3 + [True] * 3
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self + 1)
    assert torch.equal(given.pin_memory().seeds, given.seeds + 1)


OTHER_FOLDER = """
    from multiprocessing import forkserver, set_forkserver_preload
    set_forkserver_preload(["__main__", "json.tool"])
    print(*next(load(Telling(), range(2), ALONE, workers=1)).stems[1:])
    print("selflabel.training.loading" in forkserver._forkserver._preload_modules)
"""


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="there is no fork server"
)
def test_workers_import_from_where_this_process_does(tmp_path: Path) -> None:
    """Not from the current folder, which a server that Python starts looks into first; what others want is kept."""
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "script.py"
    script.write_text(SCRIPT + OTHER_FOLDER)
    for name in ("numpy", "queue", "typing_extensions"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(np.__file__), "True", "True"]


def test_without_a_fork_server_workers_are_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert context_of_workers("selflabel").get_start_method() == "spawn"


def test_the_environment_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    context_of_workers("selflabel.training.loading")
    assert dict(os.environ) == before
