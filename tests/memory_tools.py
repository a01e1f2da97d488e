"""How much memory a piece of work takes at once."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that tensors take on the CPU at one moment, beyond what was there, from the profiler's log."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    changes = sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: float(event["ts"]))
    return int(np.cumsum([event["args"]["Bytes"] for event in changes]).max())
