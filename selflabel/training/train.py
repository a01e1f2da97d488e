"""A whole training run: schedule, labels, history, validation and checkpoints around the rounds of `advance`."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
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
from selflabel.files.lock import sole_user
from selflabel.training.alternator import relabel
from selflabel.training.batches import DataSource
from selflabel.training.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, load_state
from selflabel.training.distributed import Process, current_part, share_buffers, unwrapped, wrap
from selflabel.training.evaluate import Scores, evaluate
from selflabel.training.history import CSV, LINES, History, Row, Value
from selflabel.training.monitor import NAMES, Monitor
from selflabel.training.objectives import Objective, SeedsOnly
from selflabel.training.schedule import polynomial, ramp, set_learning_rate
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.settings import TrainingSettings
from selflabel.training.step import LabelSource, StepReport, TrainingError, advance
from selflabel.training.store import LabelStore, MemoryStore

FILES = (LAST, BEST, LINES, CSV)
"""What a run writes into its folder."""

ANY_TIME = ("checkpoint_every",)
"""Settings that may differ when a run is resumed: they change no number."""

SEEDS = SeedsOnly()


def train(
    network: nn.Module,
    objective: Objective,
    data: DataSource,
    settings: TrainingSettings,
    out: Path | None = None,
    *,
    pretraining: Objective = SEEDS,
    monitor: Monitor | None = None,
    store: LabelStore | None = None,
    callbacks: Iterable[Callable[[Row], None]] = (),
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> History:
    """Train a network in place and return the history, one row a step.

    out: a folder for `history.csv`, `history.jsonl`, `last.pt` and `best.pt` (the weights of the best mean Dice);
    without it nothing is written. pretraining: the objective of the first `pretrain_steps`. monitor: measures
    both objectives every `measure_every` steps (default: for self-labeling, its own). store: for labels that are
    kept (default: in memory). callbacks: called with each row once it is written, in the first process. about: JSON
    values to keep in checkpoints, such as the resolved configuration.

    Columns: `step` (from 1), `seconds` (of training until here: loading, solver, network; no measuring, validation
    or saving), `network_seconds` and `solver_seconds` of the step, `learning_rate`, `ramp`; `loss` and its summands
    `term_…`, before the network moved; `gain` of the solve; `joint`, `direct`, … of the monitor on the step's
    batch; `dice`, `iou` and theirs by class, on the validation images, after the network moved. Empty where not
    measured.

    resume: go on from `last.pt` if it is there. All that is random follows from the seed and the step, so on the
    CPU history (but for seconds) and weights are those of a run that was never interrupted. Under `torchrun`
    (within `process_group`) the batch is shared among the processes, with the gradients of one.

    Raises `ValueError` if `out` holds a run and `resume` is off, if another process works in it, if a checkpoint is
    of other settings, other terms or another `about` (numbers within the objective and the data are not compared: put
    them into `about`), if labels are to be kept while images move; `TrainingError` when a loss is nan: the last
    checkpoint is the last good one.
    """
    part, device = current_part(), torch.device(device)
    if resume and out is None:
        raise ValueError("expected a folder `out` to resume from, got none")
    store = _store(objective, data, settings, store)
    if monitor is None and isinstance(objective, SelfLabeling):
        monitor = Monitor(objective)
    run = _Run(objective, pretraining, data, settings, out, monitor, store, about or {}, device, part)
    listeners = tuple(callbacks)
    with ExitStack() as held:
        held.enter_context(torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []))
        if out is not None and run.writes:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(sole_user(out))
        run.prepare(network, _found(out, settings, about or {}, run.columns, resume))
        for step in range(run.done, settings.steps):
            row = run.step(step)
            if part.rank == 0:
                for callback in listeners:
                    callback(row)
    return run.history


def columns(objective: Objective, pretraining: Objective, classes: int) -> tuple[str, ...]:
    """The columns of a run's history."""
    terms = dict.fromkeys((*pretraining.names, *objective.names))
    return (
        *("step", "seconds", "network_seconds", "solver_seconds", "learning_rate", "ramp", "loss"),
        *(f"term_{name}" for name in terms),
        *("gain", *NAMES, "dice", "iou"),
        *(f"{score}_{number}" for score in ("dice", "iou") for number in range(classes)),
    )


def files_of_run(out: Path) -> list[str]:
    """Which of `FILES` are in a folder."""
    return [name for name in FILES if (out / name).exists()]


def _store(
    objective: Objective, data: DataSource, settings: TrainingSettings, store: LabelStore | None
) -> LabelStore | None:
    if settings.relabel_every is None and not settings.warm_start:
        return None
    if not isinstance(objective, SelfLabeling):
        raise ValueError(
            f"expected SelfLabeling for relabel_every and warm_start, got {type(objective).__name__}: it makes no "
            f"labels that could be kept"
        )
    if not data.fixed:
        raise ValueError(
            "expected images that always come in the same geometry for relabel_every and warm_start, got "
            "augmentations that move them: switch off flips, turns and zooms, or solve anew for every batch"
        )
    return MemoryStore() if store is None else store


def _found(
    out: Path | None,
    settings: TrainingSettings,
    about: Mapping[str, Any],
    names: tuple[str, ...],
    resume: bool,
) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one."""
    try:
        wanted = json.loads(json.dumps(about))
    except TypeError as error:
        raise ValueError(f"expected JSON values in `about`, got {about!r}: {error}") from error
    if out is None:
        return None
    if not resume:
        there = files_of_run(out)
        if there:
            raise ValueError(
                f"{out} holds a run already ({', '.join(there)}): resume it, or choose another folder"
            )
        return None
    if not (out / LAST).exists():
        return None
    checkpoint = load_checkpoint(out / LAST)  # to the CPU, where stored labels stay
    now = settings.plain()
    changed = [name for name in now if name not in ANY_TIME and checkpoint.settings.get(name) != now[name]]
    if tuple(checkpoint.columns) != names:
        changed.append("the terms of the objective, or the number of classes")
    if checkpoint.about != wanted:
        changed += [
            key for key in {**checkpoint.about, **wanted} if checkpoint.about.get(key) != wanted.get(key)
        ]
    if changed:
        raise ValueError(
            f"the run in {out} was made with other settings ({', '.join(changed)}): resume it with its own, or "
            f"choose another folder"
        )
    return checkpoint


@dataclass(eq=False)
class _Run:
    """What changes during a run, and what it needs for a step."""

    objective: Objective
    pretraining: Objective
    data: DataSource
    settings: TrainingSettings
    out: Path | None
    monitor: Monitor | None
    store: LabelStore | None
    about: Mapping[str, Any]
    device: torch.device
    part: Process
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
        return self.out is not None and self.part.rank == 0

    def prepare(self, network: nn.Module, checkpoint: Checkpoint | None) -> None:
        """Everything on its device, and as it was at the checkpoint."""
        settings, out = self.settings, self.out
        network.to(self.device).train()
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = settings.optimizer(trained, settings.learning_rate)
        self.average = None if settings.average is None else deepcopy(network)
        rows = 0
        if checkpoint is not None and out is not None:
            load_state(network, checkpoint.network, out / LAST)
            if self.average is not None and checkpoint.average is not None:
                load_state(self.average, checkpoint.average, out / LAST)
            self.optimizer.load_state_dict(dict(checkpoint.optimizer))
            if self.store is not None and checkpoint.labels is not None:
                self.store.load(checkpoint.labels)
            self.done, self.seconds, self.best = checkpoint.step, checkpoint.seconds, checkpoint.best
            rows = checkpoint.rows
        self.network = wrap(network, self.part)  # waits for all processes: they have looked into the folder
        if out is None or not self.writes:
            self.history = History(self.columns)
            return
        remove_leftovers(out, FILES)
        self.history = History.resume(self.columns, out, rows)
        if checkpoint is None:
            self._save(
                LAST
            )  # with the initial weights: a run that ends before the next one starts from the same

    def step(self, step: int) -> Row:
        """One step, its row in the history, and the checkpoint if it is due."""
        settings = self.settings
        rate = settings.learning_rate * polynomial(step, settings.steps, settings.power)
        factor = ramp(step, settings.pretrain_steps, settings.warmup_steps)
        set_learning_rate(self.optimizer, rate)
        # a pure function of seed and step: nothing to keep for a resumed run
        words = np.random.SeedSequence((settings.seed, step, self.part.rank)).generate_state(1, np.uint64)
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
            **({} if report.labeling is None else {"gain": report.gain}),
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
        """Also the seconds of the solver, and of the step without measurements."""
        settings, started = self.settings, perf_counter()
        pretraining = step < settings.pretrain_steps
        batch = self.data.training(step, self.part).to(self.device)
        relabeled = 0.0
        labels = LabelSource()
        if self.store is not None and not pretraining:
            if settings.relabel_every is not None and isinstance(self.objective, SelfLabeling):
                if (step - settings.pretrain_steps) % settings.relabel_every == 0:
                    relabeled = self._relabel(self.objective, self.store)
                labels = LabelSource(store=self.store, fit_stored=True)
            else:
                labels = LabelSource(store=self.store)
        loaded = perf_counter() - started - relabeled
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
            part=self.part,
        )
        if self.average is not None and settings.average is not None:
            _follow(self.average, unwrapped(self.network), min(settings.average, (1 + step) / (10 + step)))
        solver_seconds = report.solver_seconds + relabeled
        return report, solver_seconds, loaded + report.network_seconds + solver_seconds

    def _relabel(self, objective: SelfLabeling, store: LabelStore) -> float:
        started = perf_counter()
        images = self._moved(self.data.images(self.part))
        relabel(self.network, objective, images, store, warm=self.settings.warm_start)
        return perf_counter() - started

    def _moved(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in batches)

    def _due(self, every: int) -> bool:
        return self.done == self.settings.steps or (every > 0 and self.done % every == 0)

    def _measures(self, number: int) -> bool:
        every = self.settings.measure_every
        return every > 0 and (number == self.settings.steps or number % every == 0 or number == 1)

    def _validate(self, row: dict[str, Value]) -> bool:
        """Add the scores to the row; whether they are the best so far."""
        network = unwrapped(self.network) if self.average is None else self.average
        share_buffers(network, self.part)
        scores = evaluate(
            network,
            self.data.validation(self.part),
            self.data.classes,
            first=self.settings.first_scored,
            device=self.device,
            part=self.part,
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
            json.loads(json.dumps(self.about)),
            network.state_dict(),
            None if self.average is None else self.average.state_dict(),
            self.optimizer.state_dict() if resumable else {},
            self.store.state() if self.store is not None and resumable else None,
            len(self.history.rows),
            self.best,
            self.history.columns,
        ).save(self.out / name)
        if resumable and self.store is not None:
            self.store.saved()

    def _last_good(self) -> str:
        if self.out is None or not (self.out / LAST).exists():
            return "No checkpoint was saved before"
        return f"The last good checkpoint is {self.out / LAST}"


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
