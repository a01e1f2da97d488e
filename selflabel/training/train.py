"""A whole training run: schedule, labels, history, validation and checkpoints around the steps of `advance`."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selflabel.datasets.samples import Batch
from selflabel.files.lock import sole_user
from selflabel.kinds import check_arguments, checked
from selflabel.training.batches import DataSource
from selflabel.training.checkpoint import Checkpoint
from selflabel.training.distributed import current_process
from selflabel.training.history import History, Row
from selflabel.training.loading import load
from selflabel.training.monitor import Monitor
from selflabel.training.objectives import Objective, SeedsOnly
from selflabel.training.resume import files_of_run, last_checkpoint, plain
from selflabel.training.run import TrainingRun
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.settings import TrainingSettings
from selflabel.training.starters import InitialLabels, KeptLabels, Starter
from selflabel.training.store import LabelStore, MemoryStore

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
    held: bool = False,
) -> History:
    """Train a network in place and return the history, one row per step.

    out: a folder for `history.csv`, `history.jsonl`, `last.pt` and `best.pt` (the weights of the best mean Dice);
    without it nothing is written. pretraining: the objective of the first `pretrain_steps`. monitor: measures
    both losses every `measure_every` steps (default: for self-labeling, its own). store: for labels that are
    kept (default: in memory). callbacks: called with each row once it is written, in the first process. about: JSON
    values to keep in checkpoints, such as the resolved configuration. held: the caller is the `sole_user` of `out`.

    Columns: `step` (from 1), `seconds` (of training until here; no measuring, validation or saving), of the step
    `loading_seconds` (waited for its batch), `network_seconds` and `solver_seconds` (of a GPU: between events of its
    stream), `learning_rate`, `ramp`; `loss` and its summands `term_…`, before the network moved; `gain` of the solve;
    `joint`, `direct`, … of the monitor on the step's batch; `dice`, `iou` and theirs by class, on the validation
    images, after the network moved. Empty where not measured. On a GPU some rows come at once
    (`TrainingSettings.read_every`).

    resume: go on from `last.pt` if it is there. All random draws follow from the seed and the step: on the CPU,
    history (but for seconds) and weights are those of a run that was never interrupted. Under `torchrun`
    (within `process_group`) the batch is shared among the processes, with the gradients of one.

    Raises `ValueError` if `out` holds a run and `resume` is off, if another process works in it, if a checkpoint is
    of other settings, other terms or another `about` (numbers within the objective and the data are not compared: put
    them into `about`), if labels are to be kept while images move; `TrainingError` when a loss is nan: the last
    checkpoint is the last good one.
    """
    out = _checked(network, objective, data, settings, out)
    process, device, about = current_process(), torch.device(device), plain(about or {})
    store = _store(objective, data, settings, store)
    if monitor is None and isinstance(objective, SelfLabeling):
        monitor = Monitor(objective)
    objective, monitor = _keeping(objective, monitor)
    run = TrainingRun(objective, pretraining, data, settings, out, monitor, store, about, device, process)
    listeners = tuple(callbacks)
    with ExitStack() as contexts:
        contexts.enter_context(torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []))
        if out is not None and run.writes:
            out.mkdir(parents=True, exist_ok=True)
            if not held:
                contexts.enter_context(sole_user(out))
        run.prepare(network, _found(run, resume))
        batches = contexts.enter_context(closing(_batches(run)))
        for step in range(run.done, settings.steps):
            rows = run.step(step, batches)
            for row, callback in product(rows, listeners if process.rank == 0 else ()):
                callback(row)
    return run.history


def _checked(
    network: nn.Module, objective: Objective, data: DataSource, settings: TrainingSettings, out: Path | None
) -> Path | None:
    """The folder, if all are of their kinds. Raises `ValueError` if not."""
    given = {"network": network, "objective": objective, "data": data, "settings": settings}
    check_arguments(train, given)
    return None if out is None else Path(checked(out, Path, "out"))


def _batches(run: TrainingRun) -> Generator[Batch, None, None]:
    """The batches of the steps to come."""
    steps = range(run.done, run.settings.steps)
    workers, pinned = run.settings.workers, run.device.type == "cuda"
    return load(run.data, steps, run.process, workers=workers, pinned=pinned)


def _keeping(objective: Objective, monitor: Monitor | None) -> tuple[Objective, Monitor | None]:
    """Objective and monitor that make the starts of solves once an image, together where both make the same."""
    kept: list[tuple[Starter, bool, KeptLabels]] = []

    def keeping(one: SelfLabeling) -> SelfLabeling:
        if not isinstance(one.starter, InitialLabels):
            return one
        for starter, present_only, labels in kept:
            if (starter, present_only) == (one.starter, one.present_only):
                return replace(one, starter=labels)
        labels = KeptLabels(one.starter)
        kept.append((one.starter, one.present_only, labels))
        return replace(one, starter=labels)

    if isinstance(objective, SelfLabeling):
        objective = keeping(objective)
    return objective, None if monitor is None else replace(monitor, objective=keeping(monitor.objective))


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


def _found(run: TrainingRun, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one."""
    if run.out is None:
        if resume:
            raise ValueError("expected a folder `out` to resume from, got none")
        return None
    if resume:
        return last_checkpoint(run.out, run.settings, run.about, run.columns)
    there = files_of_run(run.out)
    if there:
        raise ValueError(
            f"{run.out} holds a run already ({', '.join(there)}): resume it, or choose another folder"
        )
    return None
