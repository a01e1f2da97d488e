"""The peak memory of a piece of work: of torch's tensors, or of the whole process."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def peak_bytes(work: Callable[[], object]) -> int:
    """The peak of the tensors on the CPU in bytes, beyond those that were there before, from the profiler's log."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    changes = sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: float(event["ts"]))
    return int(np.cumsum([event["args"]["Bytes"] for event in changes]).max())


def resident_growth(work: Callable[[], object]) -> int:
    """The peak of this process's resident memory in bytes, beyond what was there before: tensors and all else.

    Linux only. Memory that was freed before and is kept by the process does not count: measure in a process that has
    done little else.
    """
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _from_status("VmRSS")
    work()
    return _from_status("VmHWM") - before


def _from_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kilobytes)
