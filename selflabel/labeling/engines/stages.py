"""An image in three stages: its files are read, its labels solved on a device, its files written.

Between them go messages, small enough to be sent; arrays go in parcels. `FileWork` and `DeviceWork` are what processes
run.
"""

import sys
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from selflabel.affinity.builders import Contrast
from selflabel.affinity.image import Image
from selflabel.driver import Result
from selflabel.kernels.memory import available_memory, is_out_of_memory
from selflabel.labeling.classes import numbered
from selflabel.labeling.engines.parcels import Parcel, Place
from selflabel.labeling.image import Inputs, attempt, read_inputs, write_outputs
from selflabel.labeling.lines import CPU, Record
from selflabel.labeling.one import Solved, Task, entropy_of, file_labels, solved_of, task_of
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, Job
from selflabel.labeling.settings import LabelingSettings


@dataclass(frozen=True)
class Kind:
    """What images of one batch have in common."""

    channels: int
    height: int
    width: int
    classes: int
    dtype: str
    """Of the prediction."""


@dataclass(frozen=True)
class ReadImage:
    """Read the files of an image into a block. Answered by `Waiting` or `Failure`."""

    job: Job
    path: str


@dataclass(frozen=True, eq=False)
class Waiting:
    """An image that is ready for the device.

    digest: of its files. is_given: its prediction is from a file. seconds: spent on it so far.
    """

    job: Job
    kind: Kind
    parcel: Parcel
    digest: str
    classes: UInt8[np.ndarray, " k"]
    is_given: bool
    seconds: float


@dataclass(frozen=True, eq=False)
class SolveImages:
    """Solve images of one kind. Answered by a tuple of `Done` and `Failure`, one an image."""

    images: tuple[Waiting, ...]


@dataclass(frozen=True, eq=False)
class Done:
    """A solved image, to be written: arrays as in `Solved` are in its parcel. seconds: its share."""

    image: Waiting
    start_energy: float
    energy: float
    bound: float | None
    steps: int
    result: Result
    entropy: float
    device: str
    seconds: float


@dataclass(frozen=True, eq=False)
class WriteImage:
    """Write the files of an image. Answered by its `Record` or `Failure`."""

    done: Done


@dataclass(frozen=True)
class Hello:
    """Begin to use the device. Answered by `Greeting`."""


@dataclass(frozen=True)
class Greeting:
    """A device that is ready: its name, and the bytes that are free on it; None where that is not known."""

    name: str
    free: int | None


@dataclass(frozen=True)
class FileWork:
    """What needs no device: files, and predictions by annotators, which are models on the CPU."""

    settings: LabelingSettings
    output: OutputFolder

    def __call__(self, request: ReadImage | WriteImage) -> Waiting | Record | Failure:
        """Do what is asked for; whatever goes wrong is a `Failure` of this image."""
        if isinstance(request, ReadImage):
            return attempt(request.job.stem, lambda: self._read(request))
        return attempt(request.done.image.job.stem, lambda: self._write(request.done))

    def _read(self, request: ReadImage) -> Waiting:
        began = time.perf_counter()
        inputs = read_inputs(request.job, self.settings)
        task = task_of(inputs.image, inputs.seeds, inputs.given, self.settings, inputs.boxes)
        image, labeler = Image(task.image[None]), self.settings.labeler
        probs = task.probs
        if isinstance(labeler.affinity, Contrast):
            image.lab(labeler.affinity.blur)  # made on the CPU, for which the device would wait
        if probs is None:
            numbers = torch.from_numpy(numbered(task.seeds, task.classes))
            probs = labeler.predict(image, numbers[None], len(task.classes))[0]
        arrays = {"image": task.image.numpy(), "seeds": task.seeds, "probs": probs.numpy()}
        if isinstance(labeler.affinity, Contrast):
            arrays["lab"] = image.lab(labeler.affinity.blur)[0].numpy()
        height, width = task.seeds.shape
        room = {
            "numbers": Place(0, (height, width), "|u1"),
            "confidence": Place(0, (height, width), "<f4"),
        }
        if self.settings.soft is not None:
            room["labels"] = Place(0, tuple(probs.shape), "<f4")
        return Waiting(
            job=request.job,
            kind=Kind(len(task.image), height, width, len(task.classes), arrays["probs"].dtype.str),
            parcel=Parcel.pack(request.path, arrays, room),
            digest=inputs.digest,
            classes=task.classes,
            is_given=task.probs is not None,
            seconds=time.perf_counter() - began,
        )

    def _write(self, done: Done) -> Record:
        began = time.perf_counter() - done.image.seconds - done.seconds
        waiting, arrays = done.image, done.image.parcel.open()
        probs = torch.from_numpy(arrays["probs"]) if waiting.is_given else None
        task = Task(torch.from_numpy(arrays["image"]), arrays["seeds"], waiting.classes, probs)
        solved = Solved(
            numbers=arrays["numbers"],
            confidence=arrays["confidence"],
            labels=arrays.get("labels"),
            start_energy=done.start_energy,
            energy=done.energy,
            bound=done.bound,
            steps=done.steps,
            result=done.result,
        )
        labels = file_labels(task, solved, done.entropy, self.settings)
        inputs = Inputs(waiting.digest, np.moveaxis(arrays["image"], 0, -1), task.seeds, None)
        return write_outputs(waiting.job.stem, inputs, labels, self.output, began, done.device)


@dataclass
class DeviceWork:
    """What one device does."""

    settings: LabelingSettings
    device: torch.device
    name: str = field(default=CPU, init=False)
    is_broken: bool = field(default=False, init=False)

    def __call__(self, request: Hello | SolveImages) -> Greeting | tuple[Done | Failure, ...]:
        """Do what is asked for. What one image of a batch makes fail does not fail the others.

        A GPU that does not work any more ends this process: it may work in the next one.
        """
        if self.is_broken:
            sys.exit(1)
        if isinstance(request, SolveImages):
            return self._solve(request.images)
        # the first use: whatever is wrong with the device is said here
        torch.zeros(1, device=self.device).item()
        if self.device.type == "cpu":
            return Greeting(self.name, available_memory())
        self.name = torch.cuda.get_device_name(self.device)
        return Greeting(self.name, torch.cuda.mem_get_info(self.device)[0])

    def _solve(self, images: tuple[Waiting, ...]) -> tuple[Done | Failure, ...]:
        """Solve a batch; one that fails, for lack of memory or otherwise, in halves, down to the image."""
        try:
            return self._solved(images)
        except Exception as error:  # whatever it is
            # as text: the tensors that the error refers to are freed before the next try
            reason = self._reason(images[0].kind, error)
        if self.device.type != "cpu":
            torch.cuda.empty_cache()
        self.is_broken = not _works(self.device)
        if len(images) == 1:
            return (Failure(images[0].job.stem, reason),)
        if self.is_broken:
            sys.exit(1)
        half = len(images) // 2
        return (*self._solve(images[:half]), *self._solve(images[half:]))

    def _solved(self, images: tuple[Waiting, ...]) -> tuple[Done, ...]:
        began, labeler, found = time.perf_counter(), self.settings.labeler, []
        opened = [each.parcel.open() for each in images]

        def batch(name: str) -> Tensor:
            return torch.stack([torch.from_numpy(arrays[name]).to(self.device) for arrays in opened])

        image = Image(batch("image"))
        if isinstance(labeler.affinity, Contrast):
            image = image.with_lab(labeler.affinity.blur, batch("lab"))
        numbers = [
            numbered(arrays["seeds"], each.classes) for arrays, each in zip(opened, images, strict=True)
        ]
        seeds = torch.from_numpy(np.stack(numbers)).to(self.device)
        solution = labeler.label_predicted(image, seeds, batch("probs"))
        for number, each in enumerate(images):
            solved = solved_of(solution, number, with_labels=self.settings.soft is not None)
            arrays = {"numbers": solved.numbers, "confidence": solved.confidence}
            if solved.labels is not None:
                arrays["labels"] = solved.labels
            done = Done(
                image=replace(each, parcel=each.parcel.add(arrays)),
                start_energy=solved.start_energy,
                energy=solved.energy,
                bound=solved.bound,
                steps=solved.steps,
                result=solved.result,
                entropy=entropy_of(solution, number),
                device=self.name,
                seconds=0.0,
            )
            found.append(done)
        seconds = (time.perf_counter() - began) / len(images)
        return tuple(replace(done, seconds=seconds) for done in found)

    def _reason(self, kind: Kind, error: Exception) -> str:
        """As `attempt` says it; what to do where memory is lacking."""
        if is_out_of_memory(error):
            return (
                f"the memory of {self.device} ({self.name}) is not enough for {kind.height} x {kind.width} pixels and "
                f"{kind.classes} classes: label this image with --device cpu"
            )
        plain = isinstance(error, ValueError | OSError) and str(error)
        return plain or f"{type(error).__name__}: {error}"


def _works(device: torch.device) -> bool:
    """False after errors of CUDA that no later call in the same process gets over."""
    try:
        return torch.zeros(1, device=device).item() == 0
    except RuntimeError:
        return False
