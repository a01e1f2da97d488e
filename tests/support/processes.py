"""Work for the tests of processes, in a module that imports nothing heavy: processes start at once."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

loaded = 0
"""Stands for what a process has loaded."""


def environment(*folders: Path) -> dict[str, str]:
    """The environment of a process that imports from these folders first, then from the tests and this checkout."""
    own = os.environ.get("PYTHONPATH")
    paths = [*map(str, (*folders, ROOT / "tests", ROOT)), *([own] if own else [])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Work:
    """Doubles; dies at 5 and at 6, or raises at 7, if asked to."""

    dies: bool = False
    raises: bool = False

    def __call__(self, number: int) -> int:
        """Twice the number."""
        if self.dies and number == 5:
            os._exit(3)
        if self.dies and number == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises and number == 7:
            raise ZeroDivisionError("seven")
        return 2 * number


@dataclass(frozen=True)
class Told:
    """The report of a process: its `loaded` and its number."""

    loaded: int
    process: int


@dataclass(frozen=True)
class Tells:
    """Reports on the process that runs it."""

    def __call__(self, number: int) -> Told:
        """Sleep first, so that no process gets all jobs."""
        time.sleep(0.05)
        return Told(loaded, os.getpid())
