"""Where the time of a job of `gpu.py` goes: kernels by the time that the device spends in them, and what it waits."""

import time
from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

MOST = 12
"""Kernels that are named, and calls of the host."""


def profiled(name: str, work: Callable[[], object]) -> list[str]:
    """Lines about one call: kernels by the device's time, the host's calls by its own, with the profiler's overhead."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        work()
        torch.cuda.synchronize()
        host = 1e3 * (time.perf_counter() - began)
    every = found.key_averages()
    kernels = [each for each in every if each.device_type == DeviceType.CUDA]
    busy = sum(each.self_device_time_total for each in kernels) / 1e3
    launches = sum(each.count for each in kernels)
    lines = [f"{name}: {launches} launches, busy {busy:.2f} ms of {host:.2f}"]
    lines += _table((each.self_device_time_total, each.count, each.key) for each in kernels)
    calls = ((each.self_cpu_time_total, each.count, each.key) for each in every)
    return [*lines, "  host:", *_table(calls)]


def _table(rows: Iterable[tuple[float, int, str]]) -> list[str]:
    """Of microseconds, counts and names."""
    longest = sorted(rows, reverse=True)[:MOST]
    return [
        f"    {us / 1e3:9.3f} ms {count:5d} x {us / count:9.1f} us  {name[:80]}"
        for us, count, name in longest
    ]
