"""Seconds that the device spends on parts of a step, without waiting for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch

Event = torch.cuda.Event


@dataclass(eq=False)
class Stopwatch:
    """Seconds spent while `running`; on a GPU between events of its stream, which it reaches when it has time."""

    device: torch.device
    elapsed: float = 0.0
    marks: list[tuple[Event, Event]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context whose time counts."""
        if self.device.type != "cuda":
            start = perf_counter()
            yield
            self.elapsed += perf_counter() - start
            return
        begin, end = _event(), _event()
        stream = torch.cuda.current_stream(self.device)
        begin.record(stream)
        yield
        end.record(stream)
        self.marks.append((begin, end))

    @property
    def seconds(self) -> float:
        """The sum; waits for the last event."""
        for begin, end in self.marks:
            end.synchronize()
            self.elapsed += begin.elapsed_time(end) / 1000
        self.marks.clear()
        return self.elapsed


def _event() -> Event:
    return Event(enable_timing=True)  # type: ignore[no-untyped-call]


def wait(device: torch.device) -> None:
    """Let the device do all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
