"""A step of a training run as `gpu.py` times it, split into its parts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from statistics import mean

import torch
from gpu_base import Goal, Job, Sizes, by, draw, strokes

from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Sample
from selflabel.datasets.symmetry import UNMOVED
from selflabel.networks import network
from selflabel.training import (
    Batches,
    InitialLabels,
    KeptLabels,
    Objective,
    Process,
    Row,
    SeedsOnly,
    TrainingSettings,
)
from selflabel.training.loading import default_workers, load
from selflabel.training.presets import SOFT
from selflabel.training.run import TrainingRun

ENDLESS = 10**6
"""Steps of a run that ends with its benchmark."""

WAITING = 0.1
"""Most time of a step beside network and solver, as a share of theirs."""

MINUTE = 60.0
"""Most milliseconds of a step of soft self-labeling: 1,000 in a minute."""


def steps(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    """Soft self-labeling as by default, and the seeds alone, where nothing but loading could be waited for."""
    data = _batches(sizes)
    for bfloat16 in (False, True):
        soft = replace(SOFT, starter=KeptLabels(InitialLabels()))
        yield _job("soft self-labeling", soft, data, sizes, device, bfloat16)
    yield _job("the seeds alone", SeedsOnly(), data, sizes, device)


def _job(
    name: str,
    objective: Objective,
    data: Batches,
    sizes: Sizes,
    device: torch.device,
    bfloat16: bool = False,
) -> Job:
    settings = TrainingSettings(
        steps=ENDLESS, measure_every=0, validate_every=0, checkpoint_every=0, bfloat16=bfloat16
    )
    alone = Process()
    run = TrainingRun(objective, SeedsOnly(), data, settings, None, None, None, {}, device, alone)
    torch.manual_seed(4_409)
    run.prepare(network(sizes.network, 1, data.classes), None)
    workers = default_workers(device, data)
    batches = load(data, range(ENDLESS), alone, workers=workers, pinned=device.type == "cuda")
    numbers, parts = count(), dict[str, float]()

    def block() -> None:
        before = run.seconds
        rows = [row for _ in range(sizes.block) for row in run.step(next(numbers), batches)]
        parts.update(split(rows, run.seconds - before))

    def note() -> str:
        return f"{', '.join(f'{part} {ms:.2f}' for part, ms in parts.items())} ms; workers: {workers}"

    def is_met(ms: float, ratio: float) -> bool:
        return ms <= MINUTE and parts["waiting"] <= WAITING * (parts["network"] + parts["solver"])

    kind = "bfloat16" if bfloat16 else "float32"
    goal = Goal(f"{MINUTE:g} ms, waiting {100 * WAITING:g} % of network and solver", is_met)
    title = f"a training step, {name}, {sizes.network} in {kind} ({sizes.block} a call), {by(sizes.training)}"
    return Job(title, block, 0, "", goal, sizes.block, note)


def split(rows: Sequence[Row], seconds: float) -> dict[str, float]:
    """Mean milliseconds of a step, of some that took `seconds` together.

    loading: the host waits for a batch. network, solver: the device's, which may be busy meanwhile. waiting: what is
    left, when the device has neither of them to do.
    """
    loading, busy, solver = (
        1000 * mean(float(row[f"{name}_seconds"] or 0) for row in rows)
        for name in ("loading", "network", "solver")
    )
    waiting = max(0.0, 1000 * seconds / len(rows) - busy - solver)
    return {"loading": loading, "network": busy, "solver": solver, "waiting": waiting}


def _batches(sizes: Sizes) -> Batches:
    """Gray images that are kept, twice as many as a batch takes, flipped at random."""
    batch, classes, *size = sizes.training
    image, _ = draw((2 * batch, classes, *size), torch.device("cpu"))
    seeds = strokes((2 * batch, classes, *size), torch.device("cpu"))
    samples = [
        Sample(str(number), image[number, :1], seeds[number], None, UNMOVED) for number in range(2 * batch)
    ]
    return Batches(samples, classes, batch, augmentation=Augmentation())
