"""Freed memory is kept where a program asks for it: fewer faults; nobody else changes malloc."""

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import selflabel.cli
from selflabel.kernels import malloc
from selflabel.kernels.malloc import MMAP_MAX, NEVER, NO_BLOCKS, TRIM_THRESHOLD, keep_freed_memory

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")


class Recorder:
    """A C library that writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.asked.append((parameter, value))


def test_nothing_is_trimmed_or_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(malloc, "_glibc", lambda: recorder)
    assert keep_freed_memory()
    assert recorder.asked == [(TRIM_THRESHOLD, NEVER), (MMAP_MAX, NO_BLOCKS)]


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert malloc._glibc() is None
    assert not keep_freed_memory()


@linux
def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    assert malloc._glibc() is not None
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert malloc._glibc() is None


def test_only_processes_of_the_command_change_malloc() -> None:
    """The command and its workers; not `solve`, nor anything else that runs in a process of others."""
    callers = {
        str(path.relative_to(ROOT))
        for folder in ("selflabel", "solvers")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"(?<!def )keep_freed_memory\(\)", path.read_text())
    }
    assert callers == {"selflabel/cli/__init__.py", "selflabel/labeling/engines/processes.py"}


@pytest.mark.parametrize(
    ("words", "asks"), [(["score", "none", "none"], True), (["score", "--help"], False), (["--help"], False)]
)
def test_commands_ask_for_it(words: list[str], asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Help does not: it would wait for that."""
    asked: list[bool] = []
    monkeypatch.setattr("selflabel.kernels.malloc.keep_freed_memory", lambda: asked.append(True))
    monkeypatch.setattr(sys, "argv", ["selflabel", *words])
    with pytest.raises(SystemExit):
        selflabel.cli.main()
    gc.unfreeze()
    assert asked == [True] * asks


FAULTS = """
import resource, sys, torch

def faults(job):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(10_000_000)
    for _ in range(9):
        x = x * 2 + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
HERE = """
from selflabel.kernels.malloc import keep_freed_memory
without = faults(0)
keep_freed_memory()
faults(0)
print(without, faults(0))
"""
GROWTH = """
from support.memory import resident_growth
print(resident_growth(lambda: torch.ones(25_000_000)))
"""
IN_WORKERS = """
from selflabel.labeling.engines.processes import forked, run_jobs
with forked(2) as ready:
    print(*sorted(count for _, count in run_jobs(range(4), faults, 2, ready)))
"""


def run(script: str) -> list[int]:
    """In a new process: how often it faults, and how far it grows, depends on what was freed before."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    plain |= {"OMP_NUM_THREADS": "1"}  # workers are forks of a process of one thread, and know its functions
    command = [sys.executable, "-c", FAULTS + script]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=plain, cwd=ROOT / "tests")
    return [int(x) for x in ended.stdout.split()]


@linux
def test_large_blocks_are_used_again() -> None:
    """Nineteen blocks of 40 MB are 186,000 pages."""
    without, kept = run(HERE)
    assert without > 150_000
    assert kept < 20_000


@linux
def test_workers_use_large_blocks_again() -> None:
    """From their second job on."""
    assert run(IN_WORKERS)[0] < 20_000


@linux
def test_resident_growth_sees_the_peak() -> None:
    [growth] = run(GROWTH)
    assert 95e6 < growth < 130e6
