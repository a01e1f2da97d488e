"""Memory kept while a solver works: fewer faults, settings put back, nothing done where nothing is known."""

import os
import subprocess
import sys

import pytest
import torch
from support.memory_tools import resident_growth

from selflabel.kernels import memory
from selflabel.kernels.memory import (
    ANY,
    LARGE,
    MMAP_MAX,
    MMAP_THRESHOLD,
    NEVER,
    NONE,
    TRIM_THRESHOLD,
    kept_memory,
)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
SMALL_LABELS = torch.empty(LARGE // 4 - 1)
LABELS = torch.empty(LARGE // 4)


class Recorder:
    """A C library that writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.asked.append((parameter, value))

    def malloc_trim(self, pad: int) -> None:
        self.asked.append((pad,))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(memory, "_glibc", lambda: found)
    return found


ENTER = [(TRIM_THRESHOLD, NEVER), (MMAP_MAX, NONE)]
LEAVE = [(MMAP_MAX, ANY), (MMAP_THRESHOLD, memory.LARGEST_THRESHOLD)]


def test_only_large_labels_on_the_cpu_change_anything(recorder: Recorder) -> None:
    for labels in (SMALL_LABELS, torch.empty(LARGE, device="meta")):
        with kept_memory(labels):
            assert not recorder.asked
    with kept_memory(LABELS):
        assert recorder.asked == ENTER
    assert recorder.asked == ENTER + LEAVE


def test_huge_labels_give_their_memory_back(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**28 < memory._machine() < 2**48
    for machine, trimmed in ((65 * LABELS.nbytes, []), (64 * LABELS.nbytes, [(0,)])):
        monkeypatch.setattr(memory, "_machine", lambda bytes_=machine: bytes_)
        recorder.asked.clear()
        with kept_memory(LABELS):
            pass
        assert recorder.asked == [*ENTER, *LEAVE, *trimmed]


def test_the_last_of_several_puts_things_back_after_errors_too(recorder: Recorder) -> None:
    with kept_memory(LABELS):
        with pytest.raises(ZeroDivisionError), kept_memory(LABELS):
            _ = 1 / 0
        assert recorder.asked == 2 * ENTER
    assert recorder.asked == 2 * ENTER + LEAVE


@linux
def test_a_forked_process_has_users_of_its_own(recorder: Recorder) -> None:
    with kept_memory(LABELS):
        child = os.fork()
        if child == 0:  # pragma: no cover - in another process
            with kept_memory(LABELS):
                pass
            os._exit(int(recorder.asked != 2 * ENTER + LEAVE))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@linux
def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    assert memory._glibc.__wrapped__() is not None
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert memory._glibc.__wrapped__() is None


FAULTS = """
import resource, torch
from selflabel.kernels.memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(10_000_000)
    for _ in range(9):
        x = x * 2 + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

labels = torch.empty(5_000_000)
without = faults()
with kept_memory(labels):
    faults()
    print(without, faults())
"""


@linux
def test_large_blocks_are_used_again() -> None:
    """Nineteen blocks of 40 MB are 186,000 pages; in a process of its own, as it depends on what was freed before."""
    script = [sys.executable, "-c", FAULTS]
    done = subprocess.run(script, check=True, capture_output=True, text=True, env=_plain_environment())
    without, kept = map(int, done.stdout.split())
    assert without > 150_000
    assert kept < 20_000


def _plain_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}


@linux
def test_resident_growth_sees_the_peak() -> None:
    def work() -> None:
        torch.ones(25_000_000)

    assert 95e6 < resident_growth(work) < 130e6
