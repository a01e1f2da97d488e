"""Commands of `selflabel` in processes of their own, forked from one that has imported everything."""

import faulthandler
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LONGEST = 120.0
"""Seconds that a command may take."""
MEMORY = 12 << 30
"""Bytes of addresses that a command may ask for."""
ENDINGS = {0, 1, 2}
CRASHES = (
    "Traceback (most recent call last)",
    "Fatal Python error",
    "Aborted",
    "Segmentation fault",
    "<_io.",
    " at 0x",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: None if it had to be killed."""

    arguments: tuple[str, ...]
    code: int | None
    output: str
    seconds: float

    def faults(self) -> list[str]:
        """What must never be: hangs, crashes, tracebacks, exit codes that mean nothing."""
        found = [f"hangs: more than {LONGEST:.0f} s"] if self.code is None else []
        if self.code is not None and self.code not in ENDINGS:
            found.append(f"ends with {self.code}")
        found += [f"says {mark!r}" for mark in CRASHES if mark in self.output]
        if self.code in (1, 2) and not self.output.strip():
            found.append("fails without a word")
        return found


def run(arguments: list[object], log: Path) -> Ended:
    """Run ``selflabel ARGUMENTS``."""
    words = tuple(map(str, arguments))
    sys.stdout.flush()
    start, child = time.monotonic(), os.fork()
    if child == 0:
        _command(words, log)
    code: int | None = None
    while time.monotonic() - start < LONGEST:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.005)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    seconds = time.monotonic() - start
    return Ended(words, code, log.read_text(encoding="utf-8", errors="replace"), seconds)


def _command(words: tuple[str, ...], log: Path) -> None:
    code = 70
    try:
        os.setsid()
        here = log.parent / "here"  # where odd values of --out lead
        here.mkdir(exist_ok=True)
        os.chdir(here)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0), os.dup2(file, 1), os.dup2(file, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        faulthandler.dump_traceback_later(LONGEST - 5, file=sys.__stderr__)
        os.environ["COLUMNS"] = "400"
        from selflabel.cli import main

        sys.argv = ["selflabel", *words]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        sys.stdout.flush(), sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
