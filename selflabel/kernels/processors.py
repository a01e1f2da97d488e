"""`share_processors`: a program's choice to leave processors to others while its threads wait. No library makes it.

Threads of OpenMP, which torch uses, wait for each other in a loop that keeps a processor busy. Where other programs
want the processors, too, a thread waits in that loop for one that cannot run: on two busy processors `selflabel demo`
took 62 seconds with two threads that wait so, 27 with one, 15 with two that sleep.
"""

import os
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
SPINS = "1000"
"""Turns of the loop before a thread of GNU's OpenMP sleeps: some microseconds. Theirs are 300,000."""
SPIN_MILLISECONDS = "1"
"""The same of LLVM's and Intel's; theirs are 200."""


def usable_processors() -> int:
    """How many processors this process may use: those it is bound to, or as many as the quota of its container pays."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_quotas()]))


def share_processors() -> None:
    """Have threads of libraries that are loaded from now on sleep soon when they wait, and be no more than processors.

    Variables that the user has set stay as they are. Call it before torch is imported.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
        os.environ["GOMP_SPINCOUNT"] = SPINS
        os.environ["KMP_BLOCKTIME"] = SPIN_MILLISECONDS
    if _quotas():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_processors()))


def _quotas() -> list[int]:
    """What containers allow: processors for the same time, rounded up; empty without a limit."""
    found = []
    for folder in _cgroups():
        try:  # version 2: "200000 100000", or "max 100000"
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(ceil(int(quota) / int(period)))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    try:  # version 1; -1: no limit
        quota, period = ((CGROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        found.append(ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return [count for count in found if count > 0]


def _cgroups() -> list[Path]:
    """The groups that this process is in, the innermost first."""
    try:
        (line,) = [line for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):
        return [CGROUPS]
    own = CGROUPS / line.removeprefix("0::").strip("/")
    return [own, *(each for each in own.parents if each.is_relative_to(CGROUPS))]
