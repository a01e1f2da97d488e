"""One step on one batch: pseudo-labels, then steps of the network on them, with everything measured."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selflabel.datasets.samples import Batch
from selflabel.inputs import logits_of, widened
from selflabel.losses.base import mean_per_pixel
from selflabel.training.distributed import ALONE, Process, combine, gather
from selflabel.training.monitor import Monitor, sums
from selflabel.training.objectives import Objective, Terms, WeightedMean, pixels
from selflabel.training.pseudo_labels import PseudoLabels
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.store import LabelStore, packed, starts, stored_pseudo_labels


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the images and what to try."""


@dataclass(frozen=True, eq=False)
class LabelSource:
    """The labels of a step: from a solve, or from a store.

    start: the solve starts here, whatever is stored. store: the solve starts from the stored labels of an image, and
    its new ones are stored. fit_stored: no solve, the network fits the stored labels.
    """

    start: Float[Tensor, "b k *s"] | None = None
    store: LabelStore | None = None
    fit_stored: bool = False


PREDICTED = LabelSource()


@dataclass(frozen=True, eq=False)
class StepReport:
    """The numbers of one step, of the whole batch over all processes.

    terms: the summands of the loss, at the new labels and the prediction before the network moved; for self-labeling
    their sum is the joint loss (8). losses: that sum before each of the network's steps. gain: the fall of the loss
    in the solve, from its start. measured: the monitor's columns. The seconds of network and solver do not include
    measuring.
    """

    terms: Mapping[str, float]
    losses: tuple[float, ...]
    gain: float
    pseudo_labels: PseudoLabels | None = field(repr=False)
    measured: Mapping[str, float] | None
    network_seconds: float
    solver_seconds: float

    @property
    def loss(self) -> float:
        """The loss after the solve, before the network's first step."""
        return self.losses[0]

    @property
    def before(self) -> float:
        """The loss before the solve."""
        return self.loss + self.gain


def advance(
    network: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    labels: LabelSource = PREDICTED,
    ramp: float = 1.0,
    network_steps: int = 1,
    monitor: Monitor | None = None,
    bfloat16: bool = False,
    process: Process = ALONE,
) -> StepReport:
    """Label the batch from the network's prediction, then take network steps with these labels.

    One forward pass, in the network's present mode, serves the solve, the loss and the monitor; each of the
    `network_steps` beyond the first takes another. ramp: the warm-up's factor. bfloat16: automatic mixed precision in
    the network; losses and solver are in float32. process: the batch is its slice of a larger one.

    Raises `TrainingError` if the prediction or a term of the loss is nan or inf, before the network has moved.
    """
    if network_steps < 1:
        raise ValueError(f"expected network_steps >= 1, got {network_steps}")
    device = batch.images.device
    for_network, for_solver = _Stopwatch(device), _Stopwatch(device)
    with for_network.running():
        logits = predicted(network, batch, bfloat16)
    with for_solver.running():
        pseudo_labels = _label(objective, logits.detach(), batch, labels, process)
    observed = {} if pseudo_labels is None else _gain(objective, pseudo_labels, logits, ramp)
    measured = None
    if monitor is not None:
        measured = sums(combine({}, process, monitor.measure(logits, batch, pseudo_labels))[1])
    steps: list[dict[str, float]] = []
    for number in range(network_steps):
        with for_network.running():
            if number > 0:
                logits = predicted(network, batch, bfloat16)
            terms = objective.terms(logits, batch, pseudo_labels, ramp)
            loss, found = combine(terms, process, observed)
            _check(terms, found, batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        steps.append(found)
    return StepReport(
        {name: steps[0][name] for name in terms},
        losses=tuple(sum(found[name] for name in terms) for found in steps),
        gain=steps[0].get("gain", 0.0),
        pseudo_labels=pseudo_labels,
        measured=measured,
        network_seconds=for_network.seconds,
        solver_seconds=for_solver.seconds,
    )


def predicted(network: nn.Module, batch: Batch, bfloat16: bool = False) -> Tensor:
    """The logits of a batch, in the network's present mode.

    Raises `ValueError` if they are not of the images' size, `TrainingError` if they are nan or inf.
    """
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bfloat16):
        logits = logits_of(network(batch.images))
    expected = (len(batch.images), *batch.images.shape[2:])
    if not isinstance(logits, Tensor) or (len(logits), *logits.shape[2:]) != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"expected logits [b k *s] over {expected} (images, axes) from the network, got {got}: "
            f"selflabel.networks.AnySize(network, channels, classes) pads images and resizes logits"
        )
    finite = torch.isfinite(logits.detach()).flatten(1).all(1)
    if not bool(finite.all()):
        stems = [stem for stem, fine in zip(batch.stems, finite.tolist(), strict=True) if not fine]
        raise TrainingError(
            f"the network's prediction is nan or inf for {_listed(stems)}: check these images, or lower the "
            f"learning rate"
        )
    return logits


def _label(
    objective: Objective, logits: Tensor, batch: Batch, labels: LabelSource, process: Process
) -> PseudoLabels | None:
    store = labels.store
    if store is None:
        return objective.label(logits, batch, labels.start)
    if not isinstance(objective, SelfLabeling):
        if labels.fit_stored:
            raise ValueError(f"expected SelfLabeling to fit stored labels, got {type(objective).__name__}")
        return objective.label(logits, batch, None)
    like = widened(logits)
    if labels.fit_stored:
        return stored_pseudo_labels(store, batch.stems, like, objective.energy, objective.affinity)
    start = labels.start
    if start is None:
        start = starts(store, batch.stems, like, partial(objective.default_start, logits, batch))
    pseudo_labels = objective.label(logits, batch, start)
    for stem, stored in gather(packed(batch.stems, pseudo_labels), process).items():
        store.put(stem, stored)
    return pseudo_labels


def _gain(objective: Objective, pseudo_labels: PseudoLabels, logits: Tensor, ramp: float) -> Terms:
    weight = objective.weight if isinstance(objective, SelfLabeling) else 1.0
    return {"gain": WeightedMean(ramp * weight * mean_per_pixel(pseudo_labels.gain, logits), pixels(logits))}


def _check(terms: Terms, found: Mapping[str, float], batch: Batch) -> None:
    for name in terms:
        if not isfinite(found[name]):
            here = "" if isfinite(terms[name].value.item()) else " of this process"
            raise TrainingError(
                f"the term {name!r} of the loss is {found[name]} for the batch{here} of {_listed(batch.stems)}: "
                f"lower the learning rate or the weight of the term"
            )


def _listed(stems: tuple[str, ...] | list[str]) -> str:
    return ", ".join(stems[:16]) + (f" and {len(stems) - 16} more" if len(stems) > 16 else "")


@dataclass(eq=False)
class _Stopwatch:
    """Seconds spent while `running`. Waits for the device, which computes asynchronously."""

    device: torch.device
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()
