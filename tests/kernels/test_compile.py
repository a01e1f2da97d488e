"""Machine code that Numba keeps on disk, from one process and one version of the library to the next."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = """
from typing import Any, NamedTuple
import numpy as np
from selflabel.kernels.cpu.compile import kernel

class {record}(NamedTuple):
    row: Any

@kernel
def first(record):
    return record.row[0]

print(first({record}(np.ones(3))), sum(first.stats.cache_hits.values()))
"""


def run(folder: Path, record: str, source: str = SOURCE) -> str:
    """What a process prints that compiles the source, with its warnings; its cache is `folder`/cache."""
    (folder / "kernels.py").write_text(source.format(record=record))
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); import kernels"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.count("RuntimeWarning") == done.stderr.count("compiled code on disk")
    return done.stdout.strip() + " warned" * done.stderr.count("RuntimeWarning")


def cached(folder: Path, suffix: str) -> list[Path]:
    """The files of the cache."""
    return sorted((folder / "cache").rglob(f"*{suffix}"))


def test_records_may_be_renamed_from_one_version_to_the_next(tmp_path: Path) -> None:
    assert run(tmp_path, "One") == "1.0 0"
    assert run(tmp_path, "Another") == "1.0 0"
    assert run(tmp_path, "Another") == "1.0 1"


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def garbled(file: Path) -> None:
    file.write_bytes(bytes(len(file.read_bytes())))


def flipped(file: Path) -> None:
    """A bit in the middle, which is machine code in the second kind of file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def removed(file: Path) -> None:
    file.unlink()


def replaced(file: Path) -> None:
    """By what can neither be read nor written."""
    file.unlink()
    file.mkdir()


DAMAGES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    *((".nbi", damage) for damage in (truncated, emptied, garbled, replaced)),
    *((".nbc", damage) for damage in (truncated, emptied, garbled, flipped, removed)),
)
"""Of indexes, and of machine code."""

KERNELS = """
import warnings
import numpy as np
from selflabel.kernels.cpu import compile

def said(kernel):
    compile._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        print(kernel(np.ones(3)), sum(kernel.stats.cache_hits.values()), *["warned"] * len(found))
""" + "".join(
    f"""
@compile.kernel
def damaged_{number}(row):
    return row[0]

said(damaged_{number})
"""
    for number in range(len(DAMAGES))
)
"""A kernel for each damage."""


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What three processes say of each kernel, whose file on disk is damaged after the first one."""
    folder = tmp_path_factory.mktemp("damaged")
    said = [run(folder, "", KERNELS).splitlines()]
    for number, (suffix, damage) in enumerate(DAMAGES):
        (file,) = (file for file in cached(folder, suffix) if f"damaged_{number}" in file.name)
        damage(file)
    said += [run(folder, "", KERNELS).splitlines() for _ in range(2)]
    return [list(each) for each in zip(*said, strict=True)]


@pytest.mark.parametrize("number", range(len(DAMAGES)), ids=[f"{s}-{d.__name__}" for s, d in DAMAGES])
def test_what_is_damaged_is_compiled_again(lives: list[list[str]], number: int) -> None:
    """With a warning, unless it is gone; the process after that finds it whole, if it can be written."""
    _, damage = DAMAGES[number]
    again = "1.0 0" if damage is removed else "1.0 0 warned"
    assert lives[number] == ["1.0 0", again, again if damage is replaced else "1.0 1"]


def test_code_for_other_types_is_compiled_again(tmp_path: Path) -> None:
    """Two processes that save code for different types at once may give both the same file."""
    both = SOURCE + "\nprint(first({record}(np.ones(3, np.float32))), sum(first.stats.cache_hits.values()))"
    assert run(tmp_path, "One", both).split() == ["1.0", "0", "1.0", "0"]
    one, other = cached(tmp_path, ".nbc")
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    assert run(tmp_path, "One", both).split() == ["1.0", "0", "1.0", "0"]


def test_functions_without_a_place_for_a_cache_are_compiled(tmp_path: Path) -> None:
    """As where neither the package's folder nor the user's can be written to: Numba finds no locator."""
    lines = SOURCE.replace("sum(first.stats.cache_hits.values())", "0")
    nowhere = f"exec(compile({lines!r}, '<nowhere>', 'exec'), {{{{'__name__': 'nowhere'}}}})"
    assert run(tmp_path, "One", nowhere.replace("{record}", "One")) == "1.0 0 warned"


def test_processes_may_compile_at_once(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(run(tmp_path, "One"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(line.startswith("1.0") and "warned" not in line for line in found)
    assert run(tmp_path, "One") == "1.0 1"
