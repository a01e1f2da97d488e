"""Runs of the command that are to be killed: in process groups of their own, as forks of this process or new ones."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from selflabel.cli import main

SUBREAPER = 36
"""Of ``prctl``: workers that outlive a run become our children, so that we see them end."""


class Fault(Exception):
    """Something is not as it must be."""


@dataclass
class Run:
    """A run of the command in a process group of its own."""

    pid: int
    log: Path
    began: float = field(default_factory=time.monotonic)
    code: int | None = None

    def end(self) -> int:
        """The exit code of the run, when all its processes have ended."""
        while self.code is None or self._left():
            with suppress(ChildProcessError):
                pid, status = os.waitpid(-self.pid, 0)
                if pid == self.pid:
                    self.code = os.waitstatus_to_exitcode(status)
        if "Traceback" in self.log.read_text():
            raise Fault(f"a traceback:\n{self.log.read_text()}")
        return self.code

    def _left(self) -> bool:
        try:
            return os.waitid(os.P_PGID, self.pid, os.WEXITED | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def is_over(self) -> bool:
        """True if the process itself has ended; its workers may live."""
        with suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == self.pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def workers(self) -> list[int]:
        """The processes that it started."""
        with suppress(OSError):
            return [
                int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        return []


def adopt_orphans() -> None:
    """Have workers that outlive their run become children of this process."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1)


def started(arguments: Sequence[str], log: Path, fresh: bool) -> Run:
    """A run of the command that has begun, its output in a file. fresh: a new process in place of a fork."""
    log.write_text("")
    if fresh:
        with log.open("w") as file:
            command = [sys.executable, "-m", "selflabel", *arguments]
            return Run(subprocess.Popen(command, start_new_session=True, stdout=file, stderr=file).pid, log)
    pid = os.fork()
    if pid == 0:
        _become(arguments, log)
    with suppress(OSError):  # the child does it, too: whoever is first
        os.setpgid(pid, pid)
    return Run(pid, log)


def _become(arguments: Sequence[str], log: Path) -> None:
    """In a fork: run the command and end."""
    code = 1
    try:
        os.setpgid(0, 0)
        file = os.open(log, os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = ["selflabel", *arguments]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)
