"""The engine for devices: processes read and write files while one process a device solves batches."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pickle import dumps
from typing import Any

import torch

from selflabel.kernels.memory import available_memory
from selflabel.labeling.devices import MOST_IMAGES, most_images
from selflabel.labeling.engines.parcels import Blocks
from selflabel.labeling.engines.processes import Crash, Finished, Worker, collect
from selflabel.labeling.engines.stages import (
    DeviceWork,
    Done,
    FileWork,
    Greeting,
    Hello,
    Kind,
    ReadImage,
    SolveImages,
    Waiting,
    WriteImage,
)
from selflabel.labeling.lines import Record
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, Job
from selflabel.labeling.settings import LabelingSettings

SHARE = 0.25
"""Of the free memory: what blocks of images may take."""

FREE_BYTES = 1 << 30
"""What is taken to be free where the system does not tell."""

AHEAD = 2
"""Batches of each device that are read before it needs them."""

MOST_DEATHS = 2
"""Of processes in a row that died before their device was ready; with one more the device cannot be used."""

Answer = tuple[Job, Record | Failure | Crash]


def run_pipeline(
    jobs: Iterable[Job],
    settings: LabelingSettings,
    output: OutputFolder,
    devices: tuple[torch.device, ...],
    workers: int,
    ready: Iterable[Worker] = (),
) -> Generator[Answer, None, None]:
    """Label images on `devices`, one process each; `workers` more read and write files. Yields each image at its end.

    A device that is idle gets the most images of one kind that are waiting for one; none waits for a batch to be
    full. So the speed is that of the slower of the two, files or devices; the bytes do not depend on the order, as an
    image's labels are the same in every batch. Images are read ahead within `SHARE` of the memory.

    A process of files that dies costs its image. One of a device is replaced, and its batch solved in halves; it costs
    the image with which alone it dies twice. Processes behave as those of `run_jobs`; workers that are `ready` come
    first.

    Raises `ValueError` if a device cannot be used, `RuntimeError` if the work raises.
    """
    pipeline = _Pipeline(settings, output, max(1, workers), ready)
    try:
        yield from pipeline.run(jobs, devices)
    finally:
        pipeline.close()


@dataclass(eq=False)
class _Solving:
    """A device and its process. greeting: None until it is ready."""

    device: torch.device
    worker: Worker
    greeting: Greeting | None = None


class _Pipeline:
    """Who does what, and which images are where."""

    def __init__(
        self, settings: LabelingSettings, output: OutputFolder, workers: int, ready: Iterable[Worker]
    ) -> None:
        self.settings, self.workers, self.ready = settings, workers, list(ready)
        self.file_work = dumps(FileWork(settings, output))
        self.blocks = Blocks()
        self.readers: list[Worker] = []
        self.solving: dict[int, _Solving] = {}
        self.waiting: dict[Kind, deque[Waiting]] = {}
        self.again: deque[tuple[Waiting, ...]] = deque()
        self.solved: deque[Done] = deque()
        self.flight: dict[Job, int] = {}
        self.suspects: set[Job] = set()
        self.largest = self.deaths = 0
        self.most_bytes = SHARE * (available_memory() or FREE_BYTES)

    def close(self) -> None:
        """Stop all processes and free the memory."""
        for worker in self._team():
            worker.stop()
        self.blocks.close()

    def run(self, jobs: Iterable[Job], devices: tuple[torch.device, ...]) -> Generator[Answer, None, None]:
        """Until nothing is left to do."""
        todo = iter(jobs)
        while True:
            self._feed_files(todo, len(devices))
            if not self.flight and not any(worker.job for worker in self.readers):
                return
            for number, device in enumerate(devices):  # not before there is something to do
                if number not in self.solving:
                    self.solving[number] = self._greeted(device)
            self._feed_devices()
            busy = [worker for worker in self._team() if worker.job is not None]
            wait([worker.pipe for worker in busy] + [worker.process.sentinel for worker in busy])
            for worker in busy:
                outcome = collect(worker)
                if outcome is not None:
                    request, worker.job = worker.job, None
                    yield from self._take(request, worker, outcome)

    def _feed_files(self, todo: Iterator[Job], devices: int) -> None:
        """Give work to processes of files, first that which frees memory; take on more while there is work."""
        while any(worker.job is None for worker in self.readers) or len(self.readers) < self.workers:
            if self.solved:
                request: ReadImage | WriteImage = WriteImage(self.solved.popleft())
            elif self._may_read(devices) and (job := next(todo, None)) is not None:
                request = ReadImage(job, self.blocks.lend())
            else:
                return
            idle = [worker for worker in self.readers if worker.job is None]
            if not idle:
                idle.append(self._new(self.file_work))
                self.readers.append(idle[0])
            idle[0].give(request)

    def _may_read(self, devices: int) -> bool:
        """Is there memory for one more image, and does a device need it soon? One image may be of any size."""
        lent = len(self.blocks.lent)
        if lent >= AHEAD * MOST_IMAGES * devices + self.workers:
            return False
        reading = lent - len(self.flight)
        return not lent or sum(self.flight.values()) + (reading + 1) * self.largest <= self.most_bytes

    def _feed_devices(self) -> None:
        """Give each idle device the most images of one kind that it has memory for."""
        for each in self.solving.values():
            if each.greeting is None or each.worker.job is not None:
                continue
            if self.again:
                each.worker.give(SolveImages(self.again.popleft()))
            elif self.waiting:
                kind = max(self.waiting, key=lambda kind: len(self.waiting[kind]))
                images, most = self.waiting[kind], self._most(kind, each.greeting)
                each.worker.give(SolveImages(tuple(images.popleft() for _ in range(min(most, len(images))))))
                if not images:
                    del self.waiting[kind]

    def _most(self, kind: Kind, device: Greeting) -> int:
        return most_images(self.settings.labeler.solver, kind.height * kind.width, kind.classes, device.free)

    def _take(
        self, request: object, worker: Worker, outcome: Finished[Any] | Crash
    ) -> Generator[Answer, None, None]:
        """Take the answer to a request; yields the images that are at their end."""
        if isinstance(outcome, Finished) and outcome.error is not None and not isinstance(request, Hello):
            raise RuntimeError(outcome.error)
        answer: Any = outcome if isinstance(outcome, Crash) else outcome.result
        if isinstance(request, ReadImage):
            if isinstance(answer, Waiting):
                self.flight[request.job] = answer.parcel.nbytes
                self.largest = max(self.largest, answer.parcel.nbytes)
                self.waiting.setdefault(answer.kind, deque()).append(answer)
            else:
                yield self._end(request.job, request.path, answer)
        elif isinstance(request, WriteImage):
            yield self._end(request.done.image.job, request.done.image.parcel.path, answer)
        elif isinstance(request, SolveImages):
            yield from self._take_solved(request.images, answer)
        else:
            self._take_greeting(worker, outcome)
        if isinstance(answer, Crash):
            self._bury(worker)

    def _take_solved(
        self, images: tuple[Waiting, ...], answer: tuple[Done | Failure, ...] | Crash
    ) -> Generator[Answer, None, None]:
        """Solved images are to be written; those with which the process died are solved again, in halves.

        One alone is, too, once: the process may have died of what was before.
        """
        if isinstance(answer, Crash) and len(images) > 1:
            half = len(images) // 2
            self.again += images[:half], images[half:]
            return
        if isinstance(answer, Crash) and images[0].job not in self.suspects:
            self.suspects.add(images[0].job)
            self.again.append(images)
            return
        for image, each in zip(images, (answer,) if isinstance(answer, Crash) else answer, strict=True):
            if isinstance(each, Done):
                self.solved.append(each)
            else:
                yield self._end(image.job, image.parcel.path, each)

    def _take_greeting(self, worker: Worker, outcome: Finished[Any] | Crash) -> None:
        """The device is ready. Raises `ValueError` if it is not; a process that died is replaced a few times."""
        (each,) = [each for each in self.solving.values() if each.worker is worker]
        if isinstance(outcome, Finished) and outcome.error is None:
            each.greeting, self.deaths = outcome.result, 0
            return
        self.deaths += 1
        reason = outcome.reason if isinstance(outcome, Crash) else outcome.error
        if isinstance(outcome, Finished) or self.deaths > MOST_DEATHS:
            raise ValueError(
                f"{each.device} cannot be used ({reason}): see whether `nvidia-smi` lists it, or give --device cpu"
            )

    def _end(self, job: Job, path: str, outcome: Record | Failure | Crash) -> Answer:
        self.blocks.give_back(path)
        self.flight.pop(job, None)
        return job, outcome

    def _bury(self, worker: Worker) -> None:
        """Remove a dead process; a device gets another one."""
        worker.stop()
        if worker in self.readers:
            self.readers.remove(worker)
            return
        self.solving = {number: each for number, each in self.solving.items() if each.worker is not worker}

    def _greeted(self, device: torch.device) -> _Solving:
        """A device whose process starts."""
        worker = self._new(dumps(DeviceWork(self.settings, device)))
        worker.give(Hello())
        return _Solving(device, worker)

    def _new(self, work: bytes) -> Worker:
        worker = self.ready.pop() if self.ready else Worker([*self._team(), *self.ready])
        worker.learn(work)
        return worker

    def _team(self) -> list[Worker]:
        return [*self.readers, *(each.worker for each in self.solving.values())]
