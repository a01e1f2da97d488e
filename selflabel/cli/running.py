"""Training runs in folders: started, resumed, and their progress shown."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path

import torch
from rich.progress import Progress, TaskID

import selflabel
from selflabel.cli import screen
from selflabel.cli.config import recipes
from selflabel.cli.config.jobs import TrainingJob, described
from selflabel.cli.config.options import TrainingOptions, merged
from selflabel.cli.config.toml import (
    DATA_TABLE,
    OBJECTIVE_TABLE,
    changes,
    flat,
    read_config,
    read_table,
    write_config,
)
from selflabel.files.atomic import write_atomic
from selflabel.labeling.settings import describe
from selflabel.reports.comparison import Final
from selflabel.training import History, Row, evaluate, load_weights, train
from selflabel.training.checkpoint import BEST, LAST
from selflabel.training.resume import ANY_TIME, files_of_run

CONFIG = "config.toml"
SCORES = "scores.json"


def open_run(out: Path, job: TrainingJob, root: Path) -> None:
    """Store the resolved options in ``out/config.toml``, or compare them with those that are there.

    Raises `ValueError` if `out` holds a run with other options (named) or on other data; `OSError` if it cannot be
    written.
    """
    path = out / CONFIG
    about = described(job, root)
    there = files_of_run(out)
    if there and not path.is_file():
        raise ValueError(f"{out / there[0]} exists and is not of a training run here: give another --out")
    # a run without a checkpoint holds nothing to resume: its options may change
    if path.is_file() and LAST in there:
        changed = [c for c in changes(stored_options(out), job.options) if c.name not in ANY_TIME]
        if changed:
            listed = "; ".join(str(change) for change in changed)
            raise ValueError(
                f"{out} holds a run with other options ({listed}): give these as they were to go on with it, or "
                f"another --out"
            )
        if read_table(path, DATA_TABLE).get("files") != about["files"]:
            raise ValueError(
                f"{out} holds a run on other files than those of {root}, or they were edited since: give them as they "
                f"were to go on with it, or another --out"
            )
    else:
        for stale in (SCORES, BEST):  # the checkpoint that they belong to is gone
            (out / stale).unlink(missing_ok=True)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # the argument is wrong, not a run
            raise ValueError(f"{out} cannot be made: {error.strerror}") from error
        tables = {DATA_TABLE: about, OBJECTIVE_TABLE: flat(recipes.described(job.objective))}
        write_config(path, job.options, f"selflabel {selflabel.__version__}", tables)


def stored_options(out: Path) -> TrainingOptions:
    """The resolved options of the run in a folder. Raises `ValueError` if there is none."""
    path = out / CONFIG
    if not path.is_file():
        raise ValueError(f"{out} holds no training run: there is no {path}")
    return merged(read_config(path, TrainingOptions))


def load_all(job: TrainingJob, bar: Progress) -> None:
    """Read every file into memory, so that a broken one is reported before the run.

    Data sets that are not kept in memory are skipped. Raises `ValueError`, naming the file.
    """
    cached = [folder for folder in job.folders if folder.cache and not folder.read]
    if not cached:
        return
    task = bar.add_task("reading", total=sum(map(len, cached)), loss="-", score="")
    for folder in cached:
        for number in range(len(folder)):
            folder[number]
            bar.advance(task)
    bar.remove_task(task)


def run(job: TrainingJob, out: Path, device: torch.device, bar: Progress, title: str) -> History:
    """Train in a folder, from its last checkpoint if there is one, and show each step.

    Raises what `train` raises.
    """
    task = bar.add_task(title, total=job.settings.steps, loss="-", score="")
    shown = _ProgressBar(bar, task, title, job)
    history = train(
        job.network(),
        job.objective,
        job.batches,
        job.settings,
        out,
        monitor=job.monitor,
        callbacks=(shown,),
        resume=True,
        about=about(job),
        device=device,
    )
    for row in history.rows:
        shown.score(row)
    shown(history.rows[-1])
    return history


def device(name: str, found: torch.device) -> torch.device:
    """The device of a name; "auto" takes what was found. Raises `ValueError` for devices that are not there."""
    if name == "auto":
        return found
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen).item()  # "meta" has no values
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"there is no device {name!r} here: {error}") from error
    return chosen


def about(job: TrainingJob) -> Mapping[str, object]:
    """What checkpoints store of a run beside its settings: options, data, objective and monitor."""
    measure = None if job.monitor is None else describe(job.monitor)
    options = {name: value for name, value in asdict(job.options).items() if name not in ANY_TIME}
    return {
        "options": options,
        "data": job.data,
        "objective": recipes.described(job.objective),
        "monitor": measure,
    }


def final_scores(job: TrainingJob, out: Path, device: torch.device) -> Final | None:
    """Scores of the last weights on the validation images, with distances; kept in ``out/scores.json``.

    None without validation images.
    """
    path = out / SCORES
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("step") == job.settings.steps:
            return Final(**kept)
    network = job.network().to(device)
    step = load_weights(out / LAST, network, device).step
    first = job.settings.first_scored
    classes = job.batches.classes
    scores = evaluate(network, job.batches.validation(), classes, first=first, distances=True, device=device)
    if scores is None:
        return None
    distance = scores.mean_hd95
    known = distance is not None and not isnan(distance)
    final = Final(scores.mean_dice, scores.mean_iou, distance if known else None)
    text = json.dumps({"step": step, **asdict(final)}) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))
    return final


@contextmanager
def reported(out: Path) -> Iterator[None]:
    """Turn interruptions and errors of a run into messages and exit codes."""
    from selflabel.driver import SolveError
    from selflabel.training import TrainingError

    try:
        yield
    except KeyboardInterrupt:
        screen.tell(f"interrupted: the same command goes on from the last checkpoint in {out}", "bold yellow")
        raise screen.leave(screen.INTERRUPTED) from None
    except (TrainingError, SolveError) as error:
        raise screen.stop(str(error), screen.BAD_IMAGES) from error
    except (ValueError, ImportError) as error:
        raise screen.stop(str(error)) from error
    except OSError as error:
        raise screen.stop(f"{out} cannot be written: {error}", screen.BAD_IMAGES) from error


@dataclass(eq=False)
class _ProgressBar:
    """The callback that shows each row of the history."""

    bar: Progress
    task: TaskID
    title: str
    job: TrainingJob
    best: float = -1.0

    def __call__(self, row: Row) -> None:
        """Show a step."""
        step = int(row["step"] or 0)
        self.score(row)
        phase = " (seeds only)" if step <= self.job.settings.pretrain_steps else ""
        self.bar.update(
            self.task,
            completed=step,
            loss=screen.number(row.get("loss"), 4),
            description=self.title + phase,
        )

    def score(self, row: Row) -> None:
        """Show the scores of a row that has some."""
        dice = row.get("dice")
        if dice is not None and not isnan(dice):
            self.best = max(self.best, dice)
            self.bar.update(self.task, score=f"Dice {dice:.3f}, best {self.best:.3f}")
