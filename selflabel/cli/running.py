"""Training runs in folders: started, resumed, and their progress shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import torch
from rich.progress import Progress, TaskID

from selflabel.cli import screen
from selflabel.cli.config.jobs import TrainingJob
from selflabel.cli.run_folder import about, read_scores, write_scores
from selflabel.reports.comparison import Final
from selflabel.training import History, Row, evaluate, load_weights, train
from selflabel.training.checkpoint import LAST


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
    """Train in a folder that is `run_folder.held`, from its last checkpoint if there is one, and show each step.

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
        held=True,
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


def final_scores(job: TrainingJob, out: Path, device: torch.device) -> Final | None:
    """Scores of the last weights on the validation images, with distances; kept in ``out/scores.json``.

    None without validation images.
    """
    kept = read_scores(out, job.settings.steps)
    if kept is not None:
        return kept
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
    write_scores(out, step, final)
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
