"""Several processes share a batch: each takes a slice, and the gradients are those of one process.

DistributedDataParallel averages the gradients of R processes. A loss that is a mean over a mass (labeled pixels,
say) is therefore weighted by R times the share that the process has of the whole mass; the shares take one
all-reduce of a few numbers.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from selflabel.kinds import check_count, check_fields, check_kind
from selflabel.training.objectives import Terms

T = TypeVar("T")
NONE: Terms = {}


@dataclass(frozen=True)
class Process:
    """The rank of this process, and the number of processes that train together."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        check_count(self.size, "size")
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"expected a rank in 0..{self.size - 1} for {self.size} processes, got {self.rank}"
            )

    def of(self, length: int) -> range:
        """Its consecutive places in a batch; sizes of parts differ by at most one.

        Raises `ValueError` if there are not enough places for every process.
        """
        if length < self.size:
            raise ValueError(f"expected a batch of at least {self.size}, one image a process, got {length}")
        return range(length * self.rank // self.size, length * (self.rank + 1) // self.size)

    def among(self, length: int) -> range:
        """Its places in a whole data set: every `size`-th; may be empty."""
        return range(self.rank, length, self.size)


ALONE = Process()


def current_process() -> Process:
    """This process in the process group; `ALONE` without one."""
    if distributed.is_available() and distributed.is_initialized():
        return Process(distributed.get_rank(), distributed.get_world_size())
    return ALONE


@contextmanager
def process_group(
    timeout: timedelta = timedelta(minutes=30), *, on_cpu: bool = False
) -> Iterator[tuple[Process, torch.device]]:
    """Join the processes that `torchrun` started; yields this process and its device.

    Without torchrun it is one process, and nothing is set up. With GPUs it is nccl, one GPU a process (the
    device is `cuda` of the local rank); without, or if `on_cpu`, gloo on the CPU.
    """
    check_kind(timeout, timedelta, "timeout as a timedelta", "timedelta(minutes=30)")
    check_kind(on_cpu, bool, "on_cpu as True or False", "one of both")
    cuda = torch.cuda.is_available() and not on_cpu
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, torch.device("cuda" if cuda else "cpu")
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    try:
        yield current_process(), device
        distributed.barrier()  # none leaves while another still talks to it
    finally:
        distributed.destroy_process_group()


def wrap(network: nn.Module, process: Process) -> nn.Module:
    """The network, which then averages gradients over processes; itself if the process is alone.

    Batch normalization sees its own slice only: convert it with `torch.nn.SyncBatchNorm` for the same result as one
    process's.
    """
    return network if process.size == 1 else DistributedDataParallel(network)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network without its wrapper: for checkpoints, and for passes whose number differs between processes."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def combine(terms: Terms, process: Process, observed: Terms = NONE) -> tuple[Tensor, Tensor]:
    """The loss to backpropagate here, and values over the whole batch, equal in all processes: observed, then terms.

    `observed` terms are not part of the loss. Cost: one all-reduce; the values stay on the device.
    """
    every = {**observed, **terms}
    values = torch.stack([term.value.double() for term in every.values()])
    if process.size == 1:
        return values[len(observed) :].sum(), values.detach()
    masses = torch.stack([term.mass for term in every.values()])
    whole = torch.stack([masses, masses * values.detach()])
    distributed.all_reduce(whole)
    total = whole[0].clamp_min(torch.finfo(torch.float64).tiny)
    loss = (values * (process.size * masses / total))[len(observed) :].sum()
    return loss, whole[1] / total


def add_up(counts: Tensor, process: Process) -> Tensor:
    """The sum over all processes."""
    if process.size > 1:
        distributed.all_reduce(counts)
    return counts


def gather(mine: Mapping[str, T], process: Process) -> dict[str, T]:
    """The entries of all processes, in order of rank."""
    if process.size == 1:
        return dict(mine)
    everyone: list[Mapping[str, T]] = [{} for _ in range(process.size)]
    distributed.all_gather_object(everyone, mine)
    return {name: value for entries in everyone for name, value in entries.items()}


def share_buffers(network: nn.Module, process: Process) -> None:
    """Give all processes the running statistics of the first: each has seen slices of its own."""
    if process.size > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)
