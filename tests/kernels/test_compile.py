"""Machine code that Numba keeps on disk, from one process and one version of the library to the next."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from selflabel.kernels.cpu import cache
from selflabel.kernels.cpu.compile import Array, kernel

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


def run(folder: Path, record: str, source: str = SOURCE, environment: Mapping[str, str] | None = None) -> str:
    """What a process prints that compiles the source, with its warnings.

    environment: variables that say where the cache is; without, it is `folder`/cache.
    """
    (folder / "kernels.py").write_text(source.format(record=record))
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); import kernels"]
    given = environment or {"NUMBA_CACHE_DIR": str(folder / "cache")}
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env={**env, **given})
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
from selflabel.kernels.cpu import cache, compile

def said(kernel):
    cache._warn_once.cache_clear()
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


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Variables of a user whose folder of caches is ``tmp_path / "caches"``."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("the folder is not said by a variable")
    return {"XDG_CACHE_HOME": str(tmp_path / "caches")}


def test_nothing_lies_beside_the_source(tmp_path: Path, home: dict[str, str]) -> None:
    """It would stay there when the package is removed, and hide the next installation."""
    assert run(tmp_path, "One", environment=home) == "1.0 0"
    assert run(tmp_path, "One", environment=home) == "1.0 1"
    (code,) = tmp_path.rglob("*.nbc")
    assert code.parents[1] == tmp_path / "caches" / "selflabel"
    assert [folder.stat().st_mode & 0o777 for folder in code.parents[:2]] == [0o700, 0o700]


def test_checkouts_do_not_share_code(tmp_path: Path, home: dict[str, str]) -> None:
    """Files of one name and functions on one line, in two folders: each finds its own again."""
    one, other = tmp_path / "one" / "kernels", tmp_path / "other" / "kernels"
    for place in (one, other):
        place.mkdir(parents=True)
    assert run(one, "One", SOURCE, home) == "1.0 0"
    assert run(other, "One", SOURCE.replace("row[0]", "row[0] + 1"), home) == "2.0 0"
    assert run(one, "One", SOURCE, home) == "1.0 1"


def test_code_is_stale_when_another_kernel_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba compiles functions of other files into those that call them, and asks for the time of one file only."""
    monkeypatch.setattr(cache, "KERNELS", tmp_path)
    (tmp_path / "rows.py").write_text("ONE = 1")
    locator = cache._Locator(Path(__file__), 1)
    before = locator.get_source_stamp()
    assert locator.get_source_stamp() == before
    (tmp_path / "rows.py").write_text("ONE = 10")
    assert locator.get_source_stamp() != before


def test_a_folder_of_others_is_not_trusted(tmp_path: Path, home: dict[str, str]) -> None:
    """Code from there would be run."""
    assert run(tmp_path, "One", environment=home) == "1.0 0"
    (tmp_path / "caches" / "selflabel").chmod(0o777)
    lines = SOURCE.replace("sum(first.stats.cache_hits.values())", "0")
    assert run(tmp_path, "One", lines, home) == "1.0 0 warned"


def linked(folder: Path) -> None:
    """A link to a folder that could be trusted."""
    (folder.parent / "elsewhere").mkdir(0o700)
    folder.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "said"),
    [(linked, "a link or a file"), (Path.touch, "a link or a file"), (Path.mkdir, "other users")],
)
@pytest.mark.skipif(sys.platform == "win32", reason="folders of users are protected by the system")
def test_what_is_in_the_place_of_the_folder(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    folder = tmp_path / "caches"
    make(folder)
    if folder.is_dir() and not folder.is_symlink():
        folder.chmod(0o770)
    with pytest.raises(PermissionError, match=said):
        cache._make_private(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="folders of users are protected by the system")
def test_folders_of_another_user_are_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "caches"
    cache._make_private(folder)
    cache._make_private(folder)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="other users may write to"):
        cache._make_private(folder)


@pytest.mark.usefixtures("home")
def test_a_folder_that_depends_on_where_one_is_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a home; it would be made in each folder from which a command is started."""
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    with pytest.raises(FileNotFoundError, match="caches/selflabel is not a full path"):
        cache._folder(Path(__file__))


def doubled(values: Array) -> float:
    return 2.0 * values[0]  # type: ignore[no-any-return]


def test_compiling_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a process, for all functions; not where they are read from disk."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    caplog.set_level(logging.INFO, logger="selflabel")

    def told() -> int:
        cache._tell_once.cache_clear()  # as in a new process
        caplog.clear()
        made = kernel(doubled)
        assert made(np.ones(1)) == made(np.ones(1, np.float32)) == 2
        return sum("kernels are compiled" in record.message for record in caplog.records)

    assert (told(), told()) == (1, 0)
