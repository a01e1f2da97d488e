"""Locks: one process at a time, who it is, and none that outlives its process."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import environment

from selflabel.files import lock
from selflabel.files.lock import LOCK, Occupied, Owner, held, is_held, owner_of, sole_user

HOLDS = """
import sys, time
from pathlib import Path
from selflabel.files.lock import held
with held(Path(sys.argv[1]), "all of it"):
    print("held", flush=True)
    time.sleep(60)
"""
FORKS = """
import os, sys, time
from pathlib import Path
from selflabel.files.lock import held
with held(Path(sys.argv[1]), "all of it"):
    if os.fork() == 0:
        time.sleep(float(sys.argv[2]))
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process that holds the lock when this returns."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert not is_held(path)
    first = start(HOLDS, path)
    try:
        assert is_held(path)
        wanted = (
            rf"expected {re.escape(str(tmp_path))} to itself, got another process that works in it: "
            rf"process {first.pid} on {re.escape(platform.node())}, since 20\d\d-.*\(all of it\): "
            rf"wait for it to end, or choose another folder"
        )
        with pytest.raises(Occupied, match=wanted), held(path, "other"):
            pass
    finally:
        end(first)


def test_a_killed_process_holds_nothing_and_what_it_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    end(start(HOLDS, path))
    assert path.exists()
    assert not is_held(path)
    with held(path, "mine"):
        owner = owner_of(path)
        assert owner is not None
        assert (owner.pid, owner.host, owner.task) == (os.getpid(), platform.node(), "mine")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="about forks")
def test_forks_hold_it_until_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    monkeypatch.setattr(lock, "DYING_SECONDS", 0.1)
    first = start(FORKS, path, 1.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with pytest.raises(Occupied, match="which ended, but its worker processes have not"), held(path, ""):
        pass
    monkeypatch.setattr(lock, "DYING_SECONDS", 30)  # a dead owner's forks are waited for
    with held(path, ""):
        pass
    end(first)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="about forks")
def test_the_end_of_the_block_lets_go_for_forks_too(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with held(path, ""):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with held(path, ""):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_of_many_at_a_time(tmp_path: Path) -> None:
    """Processes that add one to a number, each reading and writing it in two steps, lose no count."""
    script = """
import sys
from pathlib import Path
from selflabel.files.lock import held
path = Path(sys.argv[1])
for _ in range(25):
    with held(path / "x.lock", "count", patience=60):
        count = int((path / "count").read_text())
        (path / "count").write_text(str(count + 1))
"""
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", script, str(tmp_path)]
    each = [subprocess.Popen(command, env=environment()) for _ in range(4)]
    assert [process.wait() for process in each] == [0] * 4
    assert (tmp_path / "count").read_text() == "100"
    assert os.listdir(tmp_path) == ["count"]


@pytest.mark.parametrize("note", ["", "{", "[]", "7", '{"pid": 1}', "\0\0", '{"pid": "x", "host": 1}'])
def test_what_is_written_in_the_file_does_not_matter(tmp_path: Path, note: str) -> None:
    path = tmp_path / "x.lock"
    path.write_text(note)
    assert owner_of(path) is None
    with held(path, ""):
        assert is_held(path)


def test_a_lock_is_never_a_link_nor_a_pipe(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    path = tmp_path / "x.lock"
    path.symlink_to(precious)
    with pytest.raises(OSError, match="is a link: remove it"), held(path, ""):
        pass
    assert precious.read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="is no file"), held(path, ""):
        pass


def test_an_owner_elsewhere_is_not_known_to_be_dead() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert Owner(dead.pid, platform.node(), "", "").is_dead
    assert not Owner(dead.pid, "another-host", "", "").is_dead
    assert not Owner(os.getpid(), platform.node(), "", "").is_dead


def test_a_folder_has_one_user(tmp_path: Path) -> None:
    with sole_user(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        with pytest.raises(Occupied, match="another process that works in it"), sole_user(tmp_path):
            pass
    assert os.listdir(tmp_path) == []
