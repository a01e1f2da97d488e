"""How much memory a process can get, and the refusal of more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import environment

from selflabel.kernels import memory
from selflabel.kernels.memory import available_memory, require_memory


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the files of the system: 3 GB free, 1 GB of swap; no limits."""
    (tmp_path / "meminfo").write_text(
        f"MemTotal: 9 kB\nMemAvailable: {3 << 20} kB\nSwapFree: {1 << 20} kB\nHuge: 1\n"
    )
    monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP_FOLDERS", (tmp_path / "2", tmp_path / "1"))
    monkeypatch.setattr(memory, "_left_to_process", lambda: None)
    return tmp_path


def group(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def test_free_memory_and_swap_count(system: Path) -> None:
    assert available_memory() == 4 << 30


def test_a_container_leaves_less(system: Path) -> None:
    group(system / "2", memory_stat="inactive_file 1000\nactive_file 24\nanon 7\n", memory_current="2048\n")
    (system / "2" / "memory.max").write_text("max\n")
    assert available_memory() == 4 << 30
    (system / "2" / "memory.max").write_text("4096\n")
    assert available_memory() == 4096 - 2048 + 1024
    (system / "2" / "memory.max").write_text("1000\n")  # lowered meanwhile
    assert available_memory() == 0
    (system / "2" / "memory.current").unlink()
    group(system / "1", memory_stat="", memory_limit_in_bytes="500", memory_usage_in_bytes="100")
    assert available_memory() == 400


def test_where_nothing_is_told_everything_is_tried(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "meminfo").unlink()
    assert available_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(memory, "_free", lambda: None)
    assert available_memory() is None
    require_memory(1 << 60, "all pixels of the world", "wait")


def test_more_than_there_is_is_refused(system: Path) -> None:
    require_memory(4 << 30, "so many pixels", "use fewer")
    with pytest.raises(
        MemoryError, match=r"^so many pixels take 4.5 GB of memory, and 4.0 GB are free: use fewer$"
    ):
        require_memory(9 << 29, "so many pixels", "use fewer")
    (system / "meminfo").write_text("MemAvailable: 0 kB\n")
    require_memory(1 << 20, "a few pixels", "")  # not worth a look


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process on Linux")
def test_a_cut_beyond_the_limit_of_the_process_is_an_error_not_its_end() -> None:
    """PyMaxflow ends the process where it gets no memory: exit code 1 and no word."""
    script = """
import resource
import numpy as np
from selflabel.kernels.memory import available_memory
from selflabel.numerics.cuts.minimum_cut import minimum_cut
nodes = np.arange(800_000)
cost, strong = np.where(nodes % 2, 1.0, -1.0), np.full(len(nodes) - 1, 9.0)
minimum_cut(cost[:9], nodes[:8], nodes[1:9], strong[:8])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
try:
    minimum_cut(cost, nodes[:-1], nodes[1:], strong)
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a minimum cut of 800000 pixels and 799999 pairs take 0.1 GB" in done.stdout
