"""`selflabel compare`: methods from the same initial weights on the same batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from selflabel.cli.config.declarations import Argument, Option, option_group
from selflabel.cli.config.options import AllowCode, Device, PrintingOptions

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from selflabel.cli.config.jobs import TrainingJob
    from selflabel.cli.config.specs import Spec
    from selflabel.reports.comparison import RunHistory
    from selflabel.training.monitor import Monitor

SEED_STEP = 2
"""Between the seeds of runs: they stay odd."""


@option_group
class CompareOptions(PrintingOptions):
    """What `selflabel compare` takes."""

    data: Annotated[Path, Argument("Folder as `selflabel train` takes.")]
    runs: Annotated[
        tuple[str, ...],
        Option(
            "METHOD[:LOSS-or-SOLVER][,key=value...], such as gd:dense-crf,sigma=15 or adm:mean-field; keys are "
            "options of `selflabel train`, solver.KEY, loss.KEY, affinity.KEY, and name. Once for each run, or "
            "several after one another."
        ),
    ]
    out: Annotated[Path, Option("Folder to write to.")]
    more: Annotated[tuple[str, ...], Argument("More runs.", metavar="[RUN]...")] = ()
    seeds: Annotated[int, Option("How many runs of each, with seeds of their own.", min=1)] = 1
    config: Annotated[Path | None, Option("TOML file of options for all runs.")] = None
    allow_code: AllowCode = False
    set: Annotated[
        tuple[str, ...],
        Option("Option of `selflabel train` for all runs: steps=600, size=128.", metavar="KEY=VALUE"),
    ] = ()
    monitor: Annotated[
        str,
        Option(
            "Run whose energy measures all: both losses of all runs are with its energy. none: each its own.",
            flags=("--measure-with",),
            shown="the first adm run",
        ),
    ] = ""
    smooth: Annotated[
        int, Option("Readings of losses to average in the figure; 0: a twentieth of them.", min=0)
    ] = 0
    title: Annotated[str, Option("Of the figure.")] = ""
    device: Device = "auto"


def compare(options: CompareOptions) -> None:
    """Train with several methods from the same initial weights on the same batches, and compare them.

    Each run is one of `selflabel train`, in OUT/runs/NAME/seed-N. Writes OUT/comparison.png and .svg (both
    objectives and the validation Dice against steps and seconds; the band is from the least to the greatest of the
    seeds), OUT/comparison.csv (all readings) and OUT/comparison.md (final values). Runs that are finished are not
    run again; those that were interrupted go on.
    """
    from selflabel.cli import run_folder, running
    from selflabel.cli.config import specs
    from selflabel.reports.figure import check_installed

    with running.reported(options.out):
        check_installed()  # before hours of training
        common = _common(options)
        plan = [specs.spec(text, common) for text in (*options.runs, *options.more)]
        specs.check_labels(plan)
        measure = _monitor(options.monitor, plan, common)
        jobs: list[list[TrainingJob]] = []
        for one in plan:
            jobs.append(_jobs(options, one, measure, [job for own in jobs for job in own]))
        with run_folder.held(options.out):
            found = _run_all(options, plan, jobs)
            _write_report(options, found, measure_every=plan[0].options.measure_every)


def _common(options: CompareOptions) -> dict[str, object]:
    """The options of all runs: those of the file, and over them those of ``--set``."""
    from selflabel.cli.config import specs
    from selflabel.cli.run_folder import file_options

    given = specs.key_values(options.set)
    file = {}
    if options.config is not None:
        file = file_options(options.config, options.allow_code, own_network="network" in given)
    return {**file, **given, "set": (*_entries(file), *_entries(given))}


def _run_all(
    options: CompareOptions, plan: "Sequence[Spec]", jobs: "Sequence[Sequence[TrainingJob]]"
) -> "list[RunHistory]":
    from selflabel.cli import running, screen
    from selflabel.training import process_group

    found: list[RunHistory] = []
    with process_group() as (process, there), screen.training() as bar:
        if process.size > 1:
            raise ValueError("compare runs in one process: use `torchrun` with `selflabel train`")
        device = running.device(options.device, there)
        for line in running.describe_data(jobs[0][0], options.data):
            screen.note(line)
        for one, own in zip(plan, jobs, strict=True):
            found += [_run(options, one, job, device, bar) for job in own]
    return found


def _write_report(options: CompareOptions, found: "Sequence[RunHistory]", measure_every: int) -> None:
    """The table of all readings, that of final values, and the figure."""
    from selflabel.cli import screen
    from selflabel.files.atomic import write_atomic
    from selflabel.reports.comparison import markdown, write_csv
    from selflabel.reports.figure import draw

    out = options.out
    write_csv(out / "comparison.csv", found)
    text = markdown(found)
    write_atomic(out / "comparison.md", lambda file: file.write(text.encode()))
    screen.say(text)
    readings = min(len(run.rows) for run in found) // max(1, measure_every)
    window = options.smooth or max(1, readings // 20)
    pictures = [out / "comparison.png", out / "comparison.svg"]
    draw(found, pictures, window=window, title=options.title)
    screen.note(f"the figure is {pictures[0]}")


def _entries(layer: Mapping[str, object]) -> tuple[str, ...]:
    value = layer.get("set", ())
    return value if isinstance(value, tuple) else ()


def _monitor(text: str, plan: "list[Spec]", common: dict[str, object]) -> "Monitor | None":
    """One monitor for all runs: that of ``--measure-with``, or of the first run with an energy, self-labeling first."""
    from selflabel.cli.config import recipes, specs

    if text == "none":
        return None
    if text:
        found = recipes.monitor(specs.spec(text, common).options)
        if found is None:
            raise ValueError(f"--measure-with {text} has no energy to measure with: give an adm run")
        return found
    order = sorted(
        plan, key=lambda one: ("adm", "trust-region", "gd", "pce", "full").index(one.options.method)
    )
    return next(filter(None, (recipes.monitor(one.options) for one in order)), None)


def _jobs(
    options: CompareOptions, one: "Spec", measure: "Monitor | None", others: "Sequence[TrainingJob]"
) -> "list[TrainingJob]":
    from dataclasses import replace

    from selflabel.cli.config.jobs import prepare

    found: list[TrainingJob] = []
    try:
        for number in range(options.seeds):
            own = replace(one.options, seed=one.options.seed + SEED_STEP * number)
            found.append(prepare(options.data, own, measure, [*others, *found]))
    except ValueError as error:
        raise ValueError(f"run {one.label!r}: {error}") from error
    return found


def _run(
    options: CompareOptions, one: "Spec", job: "TrainingJob", device: "torch.device", bar: "Progress"
) -> "RunHistory":
    from selflabel.cli import run_folder, running
    from selflabel.datasets.samples import UnusableFiles
    from selflabel.reports.comparison import RunHistory
    from selflabel.training import TrainingError

    seed = job.options.seed
    folder = options.out / "runs" / one.folder / f"seed-{seed}"
    title = f"{one.label}, seed {seed}"
    try:
        with run_folder.held(folder):
            run_folder.open_run(folder, job, options.data)
            running.load_all(job, bar, known=run_folder.has_begun(folder))
            history = running.run(job, folder, device, bar, title)
            return RunHistory(one.label, seed, history.rows, running.final_scores(job, folder, device))
    except UnusableFiles:
        raise
    except (ValueError, TrainingError) as error:
        raise type(error)(f"run {title!r}: {error}") from error
