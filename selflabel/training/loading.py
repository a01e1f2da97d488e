"""The batches of a run, loaded by other processes while this one trains, if there are any."""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from shutil import disk_usage
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from selflabel.datasets.samples import Batch, Folder
from selflabel.kernels.processors import usable_processors
from selflabel.training.batches import Batches, DataSource
from selflabel.training.distributed import Process
from selflabel.training.fork_server import context_of_workers
from selflabel.training.step import TrainingError

MOST_WORKERS = 4
"""Processes that load for a GPU by default: four decode as fast as it trains a small U-Net."""

SHARED_MEMORY = Path("/dev/shm")
SPARE_BYTES = 2**29
"""Of shared memory, for the batches on their way."""

AHEAD = 2
"""Batches that each process loads before they are asked for."""


def default_workers(device: torch.device, data: DataSource) -> int:
    """None on the CPU, which a process beside would share; up to `MOST_WORKERS` for a GPU, one processor left free.

    None, either, where shared memory, which workers pass batches through, has no room for the images that are kept and
    `SPARE_BYTES` (containers often have 64 MB).
    """
    if device.type == "cpu" or _kept_bytes(data) + SPARE_BYTES > _free_shared_memory():
        return 0
    return max(0, min(MOST_WORKERS, usable_processors() - 1))


def _kept_bytes(data: DataSource) -> int:
    return data.samples.kept_bytes if isinstance(data, Batches) and isinstance(data.samples, Folder) else 0


def _free_shared_memory() -> int | float:
    return disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else inf


def load(
    data: DataSource, steps: range, process: Process, *, workers: int = 0, pinned: bool = False
) -> Generator[Batch, None, None]:
    """This process's parts of the batches of some steps, in order; close the iterator to end the workers.

    A batch is a pure function of its step, whoever loads it: the number of workers changes nothing but the time. They
    are processes of their own (`forkserver` where there is one: a copy of a process that uses a GPU, or threads, may
    hang), to which `data` is sent once; each has `AHEAD` batches ready. pinned: in memory that a GPU reads by itself,
    so that copies to it need not be waited for. Seeds and masks are checked (`Batch.checked`).

    Raises what `data` raises when it loads a batch, `TrainingError` if a worker was killed.
    """
    if not steps:
        return
    loader = DataLoader(
        _Steps(data, process),
        batch_size=None,  # an item is a batch
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        multiprocessing_context=context_of_workers(__name__) if workers else None,
        prefetch_factor=AHEAD if workers else None,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # else workers' seeds would be drawn from the network's random numbers
    )
    for item in _loaded(loader, workers):
        if isinstance(item, _Failure):
            raise item.error
        yield item


def _loaded(loader: Iterable[Any], workers: int) -> Iterator[Any]:
    """What it loads. Raises `TrainingError` where a worker, or what starts them, has ended."""
    try:
        yield from loader
    except (RuntimeError, OSError, EOFError) as error:
        if not workers or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
            raise
        first, *_ = str(error).split("\n")
        raise TrainingError(  # torch has no class for it, and may be in the midst of a batch of the worker
            f"a process that loads batches has ended, perhaps for lack of memory: give fewer workers (0: batches "
            f"are loaded in this process): {first}"
        ) from error


@dataclass(frozen=True, eq=False)
class _Failure:
    """An error in a worker, which torch would raise as another one with a traceback for a message."""

    error: Exception


@dataclass(frozen=True, eq=False)
class _Steps(Dataset[Batch | _Failure]):
    """Batches by their step."""

    data: DataSource
    process: Process

    def __getitem__(self, step: int) -> Batch | _Failure:
        try:
            return self.data.training(step, self.process).checked(self.data.classes)
        except Exception as error:  # whatever it is, `load` raises it
            return _Failure(error)


def _end_with_parent(worker: int) -> None:
    """End this worker when the process that it works for is killed.

    torch watches the parent that the system knows, the fork server, which lives as long as its children.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    Thread(target=_end_after, args=(parent.join,), daemon=True).start()


def _end_after(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)


def _as_it_is(item: Any) -> Any:
    return item
