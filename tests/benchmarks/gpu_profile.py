"""Where the time of a job of `gpu.py` goes: kernels by the time that the device spends in them, and what it waits."""

import time
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

MOST = 12
"""Kernels that are named."""


def profiled(name: str, work: Callable[[], object]) -> list[str]:
    """Lines about one call: its kernels by their time, the device's and the host's milliseconds."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        work()
        torch.cuda.synchronize()
        host = 1e3 * (time.perf_counter() - began)
    kernels = [each for each in found.key_averages() if each.device_type == DeviceType.CUDA]
    kernels.sort(key=lambda each: -each.self_device_time_total)
    busy = sum(each.self_device_time_total for each in kernels) / 1e3
    launches = sum(each.count for each in kernels)
    lines = [f"{name}: {launches} launches, busy {busy:.2f} ms of {host:.2f} (with the profiler)"]
    for each in kernels[:MOST]:
        ms = each.self_device_time_total / 1e3
        lines.append(f"    {ms:9.3f} ms {each.count:5d} x {1e3 * ms / each.count:9.1f} us  {each.key[:80]}")
    return lines
