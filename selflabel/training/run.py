"""The course of a training run: steps, relabeling, rows of the history, validation, checkpoints."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

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
from selflabel.training.schedule import polynomial, ramp, set_learning_rate
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.settings import TrainingSettings
from selflabel.training.step import LabelSource, StepReport, TrainingError, advance
from selflabel.training.store import LabelStore


def columns(objective: Objective, pretraining: Objective, classes: int) -> tuple[str, ...]:
    """The columns of a run's history."""
    terms = dict.fromkeys((*pretraining.names, *objective.names))
    return (
        *("step", "seconds", "network_seconds", "solver_seconds", "learning_rate", "ramp", "loss"),
        *(f"term_{name}" for name in terms),
        *("gain", *NAMES, "dice", "iou"),
        *(f"{score}_{number}" for score in ("dice", "iou") for number in range(classes)),
    )


@dataclass(eq=False)
class TrainingRun:
    """A run: what it is given, and what changes with every step, from `done` on."""

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
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = settings.optimizer(trained, settings.learning_rate)
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
        self.network = wrap(
            network, self.process
        )  # waits for all processes: they have looked into the folder
        if out is None or not self.writes:
            self.history = History(self.columns)
            return
        remove_leftovers(out, FILES)
        self.history = History.resume(self.columns, out, rows)
        if checkpoint is None:
            # the initial weights: a run that is killed before its next checkpoint starts from the same
            self._save(LAST)

    def step(self, step: int) -> Row:
        """One step, its row in the history, and the checkpoint if it is due."""
        settings = self.settings
        rate = settings.learning_rate * polynomial(step, settings.steps, settings.power)
        factor = ramp(step, settings.pretrain_steps, settings.warmup_steps)
        set_learning_rate(self.optimizer, rate)
        # a pure function of seed and step: nothing to keep for a resumed run
        words = np.random.SeedSequence((settings.seed, step, self.process.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)
        try:
            report, solver_seconds, elapsed = self._advance(step, factor)
        except (TrainingError, SolveError) as error:
            raise TrainingError(f"step {step + 1}: {error}. {self._last_good()}") from error
        self.done = step + 1
        self.seconds += elapsed
        row: dict[str, Value] = {
            "step": self.done,
            "seconds": self.seconds,
            "network_seconds": report.network_seconds,
            "solver_seconds": solver_seconds,
            "learning_rate": rate,
            "ramp": factor,
            "loss": report.loss,
            **{f"term_{name}": value for name, value in report.terms.items()},
            **({} if report.pseudo_labels is None else {"gain": report.gain}),
            **(report.measured or {}),
        }
        improved = self._due(settings.validate_every) and self._validate(row)
        self.history.append(row)
        if improved:
            self._save(BEST)
        if self._due(settings.checkpoint_every):
            self._save(LAST)
        return self.history.rows[-1]

    def _advance(self, step: int, factor: float) -> tuple[StepReport, float, float]:
        """Train on a batch; also the seconds of the solver, and of all but measurements."""
        settings, started = self.settings, perf_counter()
        batch = self.data.training(step, self.process).to(self.device)
        loaded = perf_counter() - started
        pretraining = step < settings.pretrain_steps
        labels, relabeled = (LabelSource(), 0.0) if pretraining else self._labels(step)
        report = advance(
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
        )
        if self.average is not None and settings.average is not None:
            # less memory at first, or the average would hold on to the initial weights
            _follow(self.average, unwrapped(self.network), min(settings.average, (1 + step) / (10 + step)))
        solver_seconds = report.solver_seconds + relabeled
        return report, solver_seconds, loaded + report.network_seconds + solver_seconds

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
