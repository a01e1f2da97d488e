"""`selflabel gap`: what training strategies close of the gap between full and weak supervision."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from selflabel.cli.config.declarations import Argument, Option, option_group
from selflabel.cli.config.options import PrintingOptions

SCORED_BY = ("background", "size", "masks_unlabeled", "masks_offset", "masks_values", "masks_colors")
"""Options that decide what a score means, beside the files."""


@option_group
class GapOptions(PrintingOptions):
    """What `selflabel gap` takes."""

    full: Annotated[Path, Option("Run on full masks.")]
    weak: Annotated[Path, Option("Baseline: run on the weak labels alone (pce).")]
    runs: Annotated[tuple[str, ...], Argument("Runs of other strategies.", metavar="[RUN]...")] = ()
    json_file: Annotated[Path | None, Option("Also write all numbers to this file.", flags=("--json",))] = (
        None
    )


def gap(options: GapOptions) -> None:
    """The gap between full and weak supervision, and its reduction by each run (Mayer et al.).

    Gap = mIoU of the run on full masks - mIoU of the baseline; reduction = (gap - remaining gap) / gap. Each RUN is a
    folder of `selflabel train`, or one of `compare` with several seeds (OUT/runs/NAME), whose mean counts. All have
    been validated on the same images in the same way: the mean IoU is that of their last weights.
    """
    from selflabel.cli import screen
    from selflabel.reports.gap import Gap, gap_markdown

    try:
        folders = [options.full, options.weak, *map(Path, options.runs)]
        full, weak, *others = found = [_scored(folder) for folder in folders]
        for run in found[1:]:
            _check_alike(full, run)
    except (ValueError, OSError) as error:
        raise screen.stop(str(error)) from error
    measured = Gap(full.iou, weak.iou)
    rows = [(str(run.folder), run.iou) for run in others]
    if options.json_file is not None:
        try:
            _write_json(options.json_file, measured, full, weak, others)
        except OSError as error:
            raise screen.stop(f"{options.json_file} cannot be written: {error}") from error
    screen.say(gap_markdown(measured, rows))
    if measured.value <= 0:
        screen.warn(
            f"there is no gap to reduce: full masks have {100 * full.iou:.1f} %, the baseline {100 * weak.iou:.1f} %"
        )


@dataclass(frozen=True, eq=False)
class _Run:
    """A run, or several seeds of one, and what its scores are of."""

    folder: Path
    iou: float
    seeds: int
    files: object
    rules: Mapping[str, Any]


def _scored(folder: Path) -> _Run:
    """Raises `ValueError` for a folder without runs, a run without scores, and seeds that were scored differently."""
    from selflabel.training.checkpoint import LAST

    folders = (
        [folder]
        if (folder / LAST).is_file()
        else sorted(path.parent for path in folder.glob(f"seed-*/{LAST}"))
    )
    if not folders:
        raise ValueError(
            f"{folder} holds no training run: there is no {folder / LAST}, nor are there folders seed-1, ... with one"
        )
    first, *others = runs = [_scored_once(each) for each in folders]
    for other in others:
        _check_alike(first, other)
    return _Run(folder, sum(run.iou for run in runs) / len(runs), len(runs), first.files, first.rules)


def _scored_once(folder: Path) -> _Run:
    from selflabel.cli.run_folder import SCORES, read_scores
    from selflabel.training.checkpoint import LAST, load_checkpoint

    checkpoint = load_checkpoint(folder / LAST)
    about = checkpoint.about
    options, data = about.get("options"), about.get("data")
    if not isinstance(options, Mapping) or not isinstance(data, Mapping):
        raise ValueError(f"{folder / LAST} is not of `selflabel train`: give the folder of such a run")
    final = read_scores(folder, checkpoint.step)
    if final is None:
        raise ValueError(
            f"{folder} has no scores of its last step ({folder / SCORES}): the run was not finished, or has no images "
            f"to validate with (val.txt): give the same command of `selflabel train` again"
        )
    rules = {name: options.get(name) for name in (*SCORED_BY, "num_classes")}
    return _Run(folder, final.iou, 1, list(data["files"])[1:], rules)


def _check_alike(first: _Run, other: _Run) -> None:
    """Raise `ValueError` unless the scores of two runs mean the same."""
    if first.files != other.files:
        raise ValueError(
            f"{other.folder} was validated on other images or masks than {first.folder}: their scores cannot be "
            f"compared; train both with the same val.txt"
        )
    for name, value in first.rules.items():
        if other.rules[name] != value:
            flag = name.replace("_", "-")
            raise ValueError(
                f"{other.folder} was scored with --{flag} {other.rules[name]}, {first.folder} with {value}: train both "
                f"with the same"
            )


def _write_json(path: Path, measured: Any, full: _Run, weak: _Run, others: list[_Run]) -> None:
    from selflabel.files.atomic import write_atomic

    found = {
        "gap": measured.value,
        "runs": [
            {
                "run": str(run.folder),
                "seeds": run.seeds,
                "iou": run.iou,
                "remaining": measured.remaining(run.iou),
                "reduction": measured.reduction(run.iou),
            }
            for run in (full, weak, *others)
        ],
    }
    text = json.dumps(found, indent=2) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))
