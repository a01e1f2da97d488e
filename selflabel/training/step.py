"""One step on one batch: pseudo-labels, then steps of the network on them, with everything measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from time import perf_counter

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from selflabel.datasets.samples import Batch
from selflabel.inputs import logits_of, widened
from selflabel.kinds import check_fields, check_kind
from selflabel.losses.base import mean_per_pixel
from selflabel.training.distributed import ALONE, NONE, Process, combine, gather
from selflabel.training.monitor import Monitor, sums
from selflabel.training.objectives import (
    FullMasks,
    Objective,
    Regularized,
    SeedsOnly,
    Terms,
    WeightedMean,
    pixels,
)
from selflabel.training.pseudo_labels import PseudoLabels
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.stopwatch import Stopwatch, wait
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

    def __post_init__(self) -> None:
        check_fields(self)


PREDICTED = LabelSource()

DIRECT = (SeedsOnly, FullMasks, Regularized)
"""Objectives without a solver."""


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


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a step did. Its numbers are still on the device: `read` waits for them.

    observed, terms: names of the observed values and of the summands of the loss. numbers: both, for each step of the
    network, then whether the prediction for each image was finite, for each step. measuring_seconds: of the monitor.
    """

    observed: tuple[str, ...]
    terms: tuple[str, ...]
    stems: tuple[str, ...]
    network_steps: int
    numbers: Float64[Tensor, " n"] = field(repr=False)
    pseudo_labels: PseudoLabels | None = field(repr=False)
    measured: Mapping[str, float] | None
    measuring_seconds: float
    for_network: Stopwatch
    for_solver: Stopwatch

    def read(self, numbers: Sequence[float] | None = None) -> StepReport:
        """The report; one wait for the device, or none if its `numbers` were read already.

        Raises `TrainingError` if a prediction or a term is nan or inf.
        """
        numbers = self.numbers.tolist() if numbers is None else numbers
        names = (*self.observed, *self.terms)
        steps, after = [], len(names) * self.network_steps
        for number in range(self.network_steps):
            start = after + number * len(self.stems)
            _check_finite(numbers[start : start + len(self.stems)], self.stems)
            found = dict(zip(names, numbers[number * len(names) : (number + 1) * len(names)], strict=True))
            _check_terms(found, self.terms, self.stems)
            steps.append(found)
        return StepReport(
            {name: steps[0][name] for name in self.terms},
            losses=tuple(sum(found[name] for name in self.terms) for found in steps),
            gain=steps[0].get("gain", 0.0),
            pseudo_labels=self.pseudo_labels,
            measured=self.measured,
            network_seconds=self.for_network.seconds,
            solver_seconds=self.for_solver.seconds,
        )


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
    return take_step(
        network,
        objective,
        optimizer,
        batch,
        labels=labels,
        ramp=ramp,
        network_steps=network_steps,
        monitor=monitor,
        bfloat16=bfloat16,
        process=process,
    ).read()


def take_step(
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
    checked: bool = True,
) -> Outcome:
    """`advance`, whose numbers are read later.

    checked: look at them before the network moves, too, which waits for the device. Else `Outcome.read` finds what is
    nan, after the network has moved. Predictions that a solver gets are looked at in any case: it waits, too.
    """
    if network_steps < 1:
        raise ValueError(f"expected network_steps >= 1, got {network_steps}")
    check_kind(batch, Batch, "batch as a Batch", "Batch(stems, images, seeds)")
    device = batch.images.device
    for_network, for_solver = Stopwatch(device), Stopwatch(device)
    with for_network.running():
        logits = _logits(network, batch, bfloat16)
        finite = [_finite(logits)]
        if checked or not (labels.fit_stored or isinstance(objective, DIRECT)):
            _check_finite(finite[0].tolist(), batch.stems)
    with for_solver.running():
        pseudo_labels = _label(objective, logits.detach(), batch, labels, process)
    observed = {} if pseudo_labels is None else _gain(objective, pseudo_labels, logits, ramp)
    measured, measuring_seconds = None, 0.0
    if monitor is not None:
        measured, measuring_seconds = _measured(monitor, logits, batch, pseudo_labels, process)
    values: list[Tensor] = []
    for number in range(network_steps):
        with for_network.running():
            if number > 0:
                logits = _logits(network, batch, bfloat16)
                finite.append(_finite(logits))
                if checked:
                    _check_finite(finite[number].tolist(), batch.stems)
            terms = objective.terms(logits, batch, pseudo_labels, ramp)
            values.append(_descend(optimizer, terms, observed, batch, process, checked))
    return Outcome(
        tuple(observed),
        tuple(terms),
        batch.stems,
        network_steps,
        torch.cat([*values, *(fine.double() for fine in finite)]),
        pseudo_labels,
        measured,
        measuring_seconds,
        for_network,
        for_solver,
    )


def _descend(
    optimizer: torch.optim.Optimizer,
    terms: Terms,
    observed: Terms,
    batch: Batch,
    process: Process,
    checked: bool,
) -> Float64[Tensor, " n"]:
    """A step of the network down its loss; the values of observed and terms before."""
    loss, found = combine(terms, process, observed)
    if checked:
        read = dict(zip((*observed, *terms), found.tolist(), strict=True))
        _check_terms(read, tuple(terms), batch.stems, terms)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return found


def predicted(network: nn.Module, batch: Batch, bfloat16: bool = False) -> Tensor:
    """The logits of a batch, in the network's present mode.

    Raises `ValueError` if they are not of the images' size, `TrainingError` if they are nan or inf.
    """
    check_kind(batch, Batch, "batch as a Batch", "Batch(stems, images, seeds)")
    logits = _logits(network, batch, bfloat16)
    _check_finite(_finite(logits).tolist(), batch.stems)
    return logits


def _logits(network: nn.Module, batch: Batch, bfloat16: bool) -> Tensor:
    """The logits. Raises `ValueError` if they are not of the images' size."""
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bfloat16):
        logits = logits_of(network(batch.images))
    expected = (len(batch.images), *batch.images.shape[2:])
    if not isinstance(logits, Tensor) or (len(logits), *logits.shape[2:]) != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"expected logits [b k *s] over {expected} (images, axes) from the network, got {got}: "
            f"selflabel.networks.AnySize(network, channels, classes) pads images and resizes logits"
        )
    return logits


def _finite(logits: Tensor) -> Bool[Tensor, " b"]:
    return torch.isfinite(logits.detach()).flatten(1).all(1)


def _check_finite(finite: Sequence[object], stems: Sequence[str]) -> None:
    bad = [stem for stem, fine in zip(stems, finite, strict=True) if not fine]
    if bad:
        raise TrainingError(
            f"the network's prediction is nan or inf for {_listed(bad)}: check these images, or lower the "
            f"learning rate"
        )


def _measured(
    monitor: Monitor, logits: Tensor, batch: Batch, pseudo_labels: PseudoLabels | None, process: Process
) -> tuple[Mapping[str, float], float]:
    """The monitor's columns, and the seconds that they took."""
    wait(logits.device)
    start = perf_counter()
    terms = monitor.measure(logits, batch, pseudo_labels)
    values = combine({}, process, terms)[1].tolist()
    return sums(dict(zip(terms, values, strict=True))), perf_counter() - start


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


def _check_terms(
    found: Mapping[str, float], names: Sequence[str], stems: Sequence[str], own: Terms = NONE
) -> None:
    """Raise `TrainingError` for a summand that is nan or inf; `own`: those of this process, where they are known."""
    for name in names:
        if not isfinite(found[name]):
            here = "" if name not in own or isfinite(own[name].value.item()) else " of this process"
            raise TrainingError(
                f"the term {name!r} of the loss is {found[name]} for the batch{here} of {_listed(stems)}: "
                f"lower the learning rate or the weight of the term"
            )


def _listed(stems: Sequence[str]) -> str:
    return ", ".join(stems[:16]) + (f" and {len(stems) - 16} more" if len(stems) > 16 else "")
