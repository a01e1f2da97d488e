"""The course of a training run: steps, relabeling, rows of the history, validation, checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from selflabel.datasets.samples import Batch
from selflabel.driver import SolveError
from selflabel.files.atomic import remove_leftovers
from selflabel.training.alternator import relabel
from selflabel.training.batches import DataSource
from selflabel.training.checkpoint import BEST, LAST, Checkpoint, load_state
from selflabel.training.distributed import Process, share_buffers, unwrapped, wrap
from selflabel.training.evaluate import Scores, evaluate
from selflabel.training.history import History, Row, Value
from selflabel.training.monitor import NAMES, Monitor
from selflabel.training.objectives import Objective
from selflabel.training.resume import FILES
from selflabel.training.schedule import make_optimizer, polynomial, ramp, set_learning_rate
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.settings import TrainingSettings
from selflabel.training.step import LabelSource, Outcome, TrainingError, take_step
from selflabel.training.store import LabelStore

UNREAD = 10
"""Steps between two readings of the losses from a GPU: it goes on with the next step meanwhile."""


def columns(objective: Objective, pretraining: Objective, classes: int) -> tuple[str, ...]:
    """The columns of a run's history."""
    terms = dict.fromkeys((*pretraining.names, *objective.names))
    return (
        *("step", "seconds", "loading_seconds", "network_seconds", "solver_seconds"),
        *("learning_rate", "ramp", "loss"),
        *(f"term_{name}" for name in terms),
        *("gain", *NAMES, "dice", "iou"),
        *(f"{score}_{number}" for score in ("dice", "iou") for number in range(classes)),
    )


@dataclass(frozen=True, eq=False)
class Unread:
    """A step that is done, whose numbers are still on the device. seconds: of the run until here."""

    step: int
    outcome: Outcome
    seconds: float
    loading_seconds: float
    relabeling_seconds: float
    learning_rate: float
    ramp: float

    def row(self, numbers: Sequence[float]) -> dict[str, Value]:
        """Its row in the history, from the numbers of its outcome. Raises `TrainingError` as `Outcome.read`."""
        report = self.outcome.read(numbers)
        return {
            "step": self.step + 1,
            "seconds": self.seconds,
            "loading_seconds": self.loading_seconds,
            "network_seconds": report.network_seconds,
            "solver_seconds": report.solver_seconds + self.relabeling_seconds,
            "learning_rate": self.learning_rate,
            "ramp": self.ramp,
            "loss": report.loss,
            **{f"term_{name}": value for name, value in report.terms.items()},
            **({"gain": report.gain} if "gain" in self.outcome.observed else {}),
            **(report.measured or {}),
        }


@dataclass(eq=False)
class TrainingRun:
    """A run: what it is given, and what changes with every step, from `done` on. unread: steps after the last row."""

    objective: Objective
    pretraining: Objective
    data: DataSource
    settings: TrainingSettings
    out: Path | None
    monitor: Monitor | None
    store: LabelStore | None
    about: Mapping[str, Any]
    device: torch.device
    process: Process
    done: int = 0
    seconds: float = 0.0
    best: float | None = None
    unread: list[Unread] = field(default_factory=list)
    network: nn.Module = field(init=False)
    average: nn.Module | None = None
    optimizer: torch.optim.Optimizer = field(init=False)
    history: History = field(init=False)

    @property
    def columns(self) -> tuple[str, ...]:
        return columns(self.objective, self.pretraining, self.data.classes)

    @property
    def writes(self) -> bool:
        return self.out is not None and self.process.rank == 0

    def prepare(self, network: nn.Module, checkpoint: Checkpoint | None) -> None:
        """Everything on its device, and as it was at the checkpoint."""
        settings, out = self.settings, self.out
        network.to(self.device).train()
        self.optimizer = make_optimizer(
            network, settings.optimizer, settings.learning_rate, settings.new_layers_rate
        )
        self.average = None if settings.average is None else deepcopy(network)
        rows: tuple[int, ...] = ()
        if checkpoint is not None and out is not None:
            load_state(network, checkpoint.network, out / LAST)
            if self.average is not None and checkpoint.average is not None:
                load_state(self.average, checkpoint.average, out / LAST)
            _load_optimizer(self.optimizer, checkpoint.optimizer, out / LAST)
            if self.store is not None and checkpoint.labels is not None:
                self.store.load(checkpoint.labels)
            self.done, self.seconds, self.best = checkpoint.step, checkpoint.seconds, checkpoint.best
            rows = checkpoint.rows
        # waits for all processes: they have looked into the folder
        self.network = wrap(network, self.process)
        if out is None or not self.writes:
            self.history = History(self.columns)
            return
        remove_leftovers(out, FILES)
        self.history = History.resume(self.columns, out, rows)
        if checkpoint is None:
            # the initial weights: a run that is killed before its next checkpoint starts from the same
            self._save(LAST)

    def step(self, step: int, batches: Iterator[Batch]) -> list[Row]:
        """One step on the next batch; the rows that are due, and the checkpoint if it is."""
        settings = self.settings
        rate = settings.learning_rate * polynomial(step, settings.steps, settings.power)
        factor = ramp(step, settings.pretrain_steps, settings.warmup_steps)
        set_learning_rate(self.optimizer, rate)
        # a pure function of seed and step: nothing to keep for a resumed run
        words = np.random.SeedSequence((settings.seed, step, self.process.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)
        try:
            self.unread.append(self._advance(step, batches, rate, factor))
        except (TrainingError, SolveError) as error:
            self._read()  # the error of an earlier step goes first
            raise self._failed(step, error) from error
        self.done = step + 1
        if not self._reads(self.done):
            return []
        rows = self._read()
        improved = self._due(settings.validate_every) and self._validate(rows[-1])
        for row in rows:
            self.history.append(row)
        if improved:
            self._save(BEST)
        if self._due(settings.checkpoint_every):
            self._save(LAST)
        return self.history.rows[-len(rows) :]

    def _advance(self, step: int, batches: Iterator[Batch], rate: float, factor: float) -> Unread:
        """Train on the next batch. The run's seconds leave measurements out."""
        settings, started = self.settings, perf_counter()
        batch = next(batches).to(self.device)
        loaded = perf_counter()
        pretraining = step < settings.pretrain_steps
        labels, relabeled = (LabelSource(), 0.0) if pretraining else self._labels(step)
        outcome = take_step(
            self.network,
            self.pretraining if pretraining else self.objective,
            self.optimizer,
            batch,
            labels=labels,
            ramp=1.0 if pretraining else factor,
            network_steps=settings.network_steps,
            monitor=self.monitor if self._measures(step + 1) else None,
            bfloat16=settings.bfloat16,
            process=self.process,
            checked=self._reads(step + 1),
        )
        if self.average is not None and settings.average is not None:
            # less memory at first, or the average would hold on to the initial weights
            _follow(self.average, unwrapped(self.network), min(settings.average, (1 + step) / (10 + step)))
        self.seconds += perf_counter() - started - outcome.measuring_seconds
        outcome = replace(outcome, pseudo_labels=None)  # their memory is wanted for the next
        return Unread(step, outcome, self.seconds, loaded - started, relabeled, rate, factor)

    def _read(self) -> list[dict[str, Value]]:
        """The rows of the steps since the last. Raises `TrainingError` for the first that failed."""
        started, rows, place = perf_counter(), list[dict[str, Value]](), 0
        unread, self.unread = self.unread, []
        numbers = torch.cat([one.outcome.numbers for one in unread]).tolist() if unread else []
        for one in unread:
            before, place = place, place + one.outcome.numbers.numel()
            try:
                rows.append(one.row(numbers[before:place]))
            except TrainingError as error:
                raise self._failed(one.step, error) from error
        self.seconds += perf_counter() - started  # the device was training
        if rows:
            rows[-1]["seconds"] = self.seconds
        return rows

    def _failed(self, step: int, error: Exception) -> TrainingError:
        return TrainingError(f"step {step + 1}: {error}. {self._last_good()}")

    def _reads(self, number: int) -> bool:
        """Is there to be a row now, and those of the steps before? Reading waits for the device."""
        settings = self.settings
        every = settings.read_every or (1 if self.device.type == "cpu" else UNREAD)
        due = (settings.validate_every, settings.checkpoint_every, every)
        return (
            number == settings.steps
            or self._measures(number)
            or any(each > 0 and number % each == 0 for each in due)
        )

    def _labels(self, step: int) -> tuple[LabelSource, float]:
        """Where the labels of a step come from, and the seconds of relabeling if it is due."""
        settings = self.settings
        if self.store is None or settings.relabel_every is None:
            return LabelSource(store=self.store), 0.0
        started = perf_counter()
        if (step - settings.pretrain_steps) % settings.relabel_every == 0:
            assert isinstance(self.objective, SelfLabeling)  # it has a store
            images = (batch.to(self.device) for batch in self.data.images(self.process))
            relabel(self.network, self.objective, images, self.store, warm=settings.warm_start)
        return LabelSource(store=self.store, fit_stored=True), perf_counter() - started

    def _due(self, every: int) -> bool:
        return self.done == self.settings.steps or (every > 0 and self.done % every == 0)

    def _measures(self, number: int) -> bool:
        every = self.settings.measure_every
        return every > 0 and (number == self.settings.steps or number % every == 0 or number == 1)

    def _validate(self, row: dict[str, Value]) -> bool:
        """Add the scores to the row; True if they are the best so far."""
        network = unwrapped(self.network) if self.average is None else self.average
        share_buffers(network, self.process)
        scores = evaluate(
            network,
            self.data.validation(self.process),
            self.data.classes,
            first=self.settings.first_scored,
            device=self.device,
            process=self.process,
        )
        if scores is None:
            return False
        row.update(_score_columns(scores))
        if not isfinite(scores.mean_dice) or (self.best is not None and scores.mean_dice <= self.best):
            return False
        self.best = scores.mean_dice
        return True

    def _save(self, name: str) -> None:
        network = unwrapped(self.network)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
            raise TrainingError(
                f"step {self.done}: the network has weights that are nan or inf: lower the learning rate. "
                f"{self._last_good()}"
            )
        if self.out is None or not self.writes:
            return
        resumable = name == LAST
        assert not self.unread, "a checkpoint has all rows"
        self.history.flush()
        Checkpoint(
            self.done,
            self.seconds,
            self.settings.plain(),
            dict(self.about),
            network.state_dict(),
            None if self.average is None else self.average.state_dict(),
            self.optimizer.state_dict() if resumable else {},
            self.store.state() if self.store is not None and resumable else None,
            tuple(self.history.checks),
            self.best,
            self.history.columns,
        ).save(self.out / name)
        if resumable and self.store is not None:
            self.store.saved()

    def _last_good(self) -> str:
        if self.out is None or not (self.out / LAST).exists():
            return "No checkpoint was saved before"
        return f"The last good checkpoint is {self.out / LAST}"


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], path: Path) -> None:
    """Go on with an optimizer's state. Raises `ValueError` if it does not fit."""
    try:
        optimizer.load_state_dict(dict(state))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the optimizer's state in {path} does not fit the network's parameters: {error}: start the run anew "
            f"in another folder"
        ) from error


def _score_columns(scores: Scores) -> dict[str, Value]:
    return {
        "dice": scores.mean_dice,
        "iou": scores.mean_iou,
        **{f"dice_{number}": value for number, value in enumerate(scores.dice)},
        **{f"iou_{number}": value for number, value in enumerate(scores.iou)},
    }


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average's weights towards the network's; take over its running statistics."""
    for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)
