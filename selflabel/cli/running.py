"""Training runs in folders: started, resumed, and their progress shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import torch
from rich.progress import Progress, TaskID

from selflabel.cli import screen
from selflabel.cli.config.jobs import TrainingJob
from selflabel.cli.config.recipes import seeds
from selflabel.cli.run_folder import about, read_scores, write_scores
from selflabel.datasets.samples import UnusableFiles
from selflabel.datasets.survey import Survey, survey
from selflabel.files.folders import listing, some
from selflabel.files.images import IMAGE_SUFFIXES
from selflabel.files.label_files import LABEL_SUFFIXES
from selflabel.kernels.memory import is_out_of_memory
from selflabel.reports.comparison import Final
from selflabel.training import History, Row, evaluate, load_weights, train
from selflabel.training.checkpoint import LAST
from selflabel.training.loading import default_workers
from selflabel.training.resume import files_of_run


def load_all(job: TrainingJob, bar: Progress, *, known: bool = False) -> None:
    """Read every file before the run, into memory if the data set is kept there, and warn about what is odd.

    known: a run on these files has begun before: those that are not kept are not read again. Raises `ValueError` that
    names every file that cannot be used, and if there is nothing to learn from.
    """
    folders = [folder for folder in job.folders if not folder.read and (folder.cache or not known)]
    if not folders:
        return
    task = bar.add_task("reading", total=sum(map(len, folders)), loss="-", score="")
    for folder in folders:
        found = survey(folder, lambda: bar.advance(task))
        screen.dim(folder.dim)
        trained = folder is job.batches.samples
        for warning in _warnings(job, found) if trained else _validation_warnings(job, found):
            screen.warn(f"warning: {warning}")
    bar.remove_task(task)


def beginning(out: Path) -> Iterator[str]:
    """What a run without a last checkpoint does with what is in its folder."""
    there = files_of_run(out)
    if there and LAST not in there:
        yield (
            f"{out} has no {LAST}: training starts anew, and what is there is replaced ({', '.join(there)}): the run "
            f"was killed before its first checkpoint, or the file is gone"
        )


def describe_data(job: TrainingJob, root: Path) -> Iterator[str]:
    """What a run is trained with and, in a second line, what is left out."""
    train, *others = map(len, job.folders)
    channels, gray, total = job.options.channels, job.gray, train + sum(others)
    mixed = ""
    if channels == 3 and gray:
        mixed = f" ({gray} of {total} images are gray: their channel is repeated)"
    elif channels == 1 and gray < total:
        mixed = f" ({total - gray} of {total} images have colors: they become gray)"
    validation = f", {others[0]} to validate with" if others else ", none to validate with"
    repeated = ""
    if job.options.batch > train:
        repeated = f"; a batch of {job.options.batch} has some of the {train} images more than once"
    supervision = job.folders[0].supervision
    kinds = ["curated scribbles"] if supervision.curated else []
    kinds += [f"{len(supervision.full)} with full masks"] if supervision.full else []
    kinds += [f"{len(supervision.none)} without seeds"] if supervision.none else []
    mixed += f"; {', '.join(kinds)}" if kinds else ""
    rarely = ""
    if others and not 0 < job.options.validate_every <= job.options.steps:
        rarely = " at the end only"
    yield (
        f"{train} images to train with{validation}{rarely}; channels: {channels}{mixed}; classes: "
        f"{len(job.class_names)}{repeated}"
    )
    there = listing(root / "images", IMAGE_SUFFIXES)
    listed = {stem for folder in job.folders for stem in folder.stems}
    unlisted = [stem for stem in there.stems if stem not in listed]
    left_out = [f"{len(unlisted)} images are in none of the lists ({some(unlisted)})"] if unlisted else []
    left_out += there.left_out("image")
    if left_out:
        yield f"left out of {root / 'images'}: {'; '.join(left_out)}"
    for name in sorted({name for folder in job.folders for name in (folder.scribbles, folder.masks) if name}):
        labels = listing(root / name, LABEL_SUFFIXES)
        lonely = sorted(set(labels.stems).difference(there.stems))
        left_out = [f"{len(lonely)} files have no image ({some(lonely)})"] if lonely else []
        left_out += labels.left_out("label file")
        if left_out:
            yield f"left out of {root / name}: {'; '.join(left_out)}"


def _warnings(job: TrainingJob, found: Survey) -> Iterator[str]:
    """What is odd about the training images. Raises `ValueError` if there is nothing to learn from them."""
    options, full = job.options, job.options.method == "full"
    counts, folder = (found.masks, options.masks) if full else (found.seeds, options.scribbles)
    flag, value = (
        ("--masks-unlabeled", options.masks_unlabeled) if full else ("--unlabeled", options.unlabeled)
    )
    if full:
        _check_masks(found)
    if not counts.any():
        raise ValueError(
            f"no pixel of the {found.images} files in {folder} is labeled, there is nothing to learn from: all have "
            f"the value {value}, which means unlabeled: draw labels, or give {flag}"
        )
    if not full and found.whole == found.images and options.unlabeled != -1:
        said = (
            f"every pixel of all {found.images} files in {folder} is a seed: if one of the values means unlabeled, "
            f"give it with --unlabeled (often 0, with --seeds-offset 1; -1 says that none does); "
            f"to train with full masks, give --method full --masks {folder}"
        )
        if options.method != "pce":
            raise ValueError(f"{said}: the method {options.method} has nothing to label")
        yield said
    missing = [f"{number} ({name})" for number, name in enumerate(job.class_names) if not counts[number]]
    if missing:
        what = "class" if len(missing) == 1 else "classes"
        yield (
            f"no pixel of the {found.images} files in {folder} is labeled as {what} {some(missing)}: the network "
            f"cannot learn {'it' if len(missing) == 1 else 'them'}"
        )


def _check_masks(found: Survey) -> None:
    """Raise `ValueError` for masks of 0 and 255 if no other class is in any: 255 is a class then."""
    if found.binary and not found.masks[1:].any():
        raise ValueError(
            f"expected masks of {len(found.masks)} classes, got 0 and 255 alone in {found.binary} of them, and no "
            f"other class in any: if class 1 is at 255, say so (--masks-values 0,255); if 255 does not count, say that "
            f"(--masks-values {','.join(map(str, range(len(found.masks))))})"
        )


def _validation_warnings(job: TrainingJob, found: Survey) -> Iterator[str]:
    """What is odd about the images to validate with."""
    both = sorted(set.intersection(*(set(folder.stems) for folder in job.folders)))
    if both:
        yield (
            f"{len(both)} images to validate with are trained with, too ({some(both)}): scores on them are too good; "
            f"take them out of train.txt or val.txt"
        )
    _check_masks(found)
    if not found.masks.any():
        yield f"no pixel of the masks of val.txt counts: all are {job.options.masks_unlabeled} (--masks-unlabeled)"


def run(job: TrainingJob, out: Path, device: torch.device, bar: Progress, title: str) -> History:
    """Train in a folder that is `run_folder.held`, from its last checkpoint if there is one, and show each step.

    Raises what `train` raises.
    """
    task = bar.add_task(title, total=job.settings.steps, loss="-", score="")
    shown, settings = _ProgressBar(bar, task, title, job), job.settings
    if job.options.workers is None:
        settings = replace(settings, workers=default_workers(device, job.batches))
    history = train(
        job.network(),
        job.objective,
        job.batches,
        settings,
        out,
        pretraining=seeds(job.options),
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
        raise screen.interrupted(f": the same command goes on from the last checkpoint in {out}") from None
    except (TrainingError, SolveError) as error:
        raise screen.stop(str(error), screen.BAD_IMAGES) from error
    except UnusableFiles as error:
        screen.listed(f"of {error.total} images cannot be used", error.failures, "bold red")
        stem, reason = error.failures[0]
        raise screen.stop(
            f"nothing was trained, as {len(error.failures)} of {error.total} images cannot be used ({stem}: {reason}): "
            f"repair the files, or take their stems out of the lists"
        ) from error
    except (ValueError, ImportError) as error:
        raise screen.stop(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise screen.stop(
            f"there is not enough memory: lower --batch or --size, or take a smaller network; the same command goes on "
            f"from the last checkpoint in {out}, if there is one: {str(error).splitlines()[0] if str(error) else ''}",
            screen.BAD_IMAGES,
        ) from error
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
