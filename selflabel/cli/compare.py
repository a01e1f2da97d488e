"""`selflabel compare`: methods from the same initial weights on the same batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from selflabel.cli.config.jobs import TrainingJob
    from selflabel.cli.config.specs import Spec
    from selflabel.reports.comparison import RunHistory
    from selflabel.training.monitor import Monitor

SEED_STEP = 2  # seeds of runs stay odd


def compare(
    data: Annotated[Path, typer.Argument(help="Folder as `selflabel train` takes.")],
    runs: Annotated[
        list[str],
        typer.Option(
            help="METHOD[:LOSS-or-SOLVER][,key=value...], such as gd:dense-crf,sigma=15 or adm:mean-field; keys are "
            "options of `selflabel train`, solver.KEY, loss.KEY, affinity.KEY, and name. Once for each run, or "
            "several after one another.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    more: Annotated[list[str] | None, typer.Argument(help="More runs.", metavar="[RUN]...")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs of each, with seeds of their own.")] = 1,
    config: Annotated[Path | None, typer.Option(help="TOML file of options for all runs.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Option of `selflabel train` for all runs: steps=600, size=128.",
        ),
    ] = None,
    monitor: Annotated[
        str,
        typer.Option(
            "--measure-with",
            help="Run whose energy measures all: both losses of all runs are with its energy. none: each its own.",
            show_default="the first adm run",
        ),
    ] = "",
    smooth: Annotated[
        int, typer.Option(min=0, help="Readings of losses to average in the figure; 0: a twentieth of them.")
    ] = 0,
    title: Annotated[str, typer.Option(help="Of the figure.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Train with several methods from the same initial weights on the same batches, and compare them.

    Each run is one of `selflabel train`, in OUT/runs/NAME/seed-N. Writes OUT/comparison.png and .svg (both
    objectives and the validation Dice against steps and seconds; the band is from the least to the greatest of the
    seeds), OUT/comparison.csv (all readings) and OUT/comparison.md (final values). Runs that are finished are not
    run again; those that were interrupted go on.
    """
    from selflabel.cli import running as follow
    from selflabel.cli import screen
    from selflabel.cli.config import specs
    from selflabel.cli.config.options import Options
    from selflabel.cli.config.toml import read_config
    from selflabel.reports.comparison import markdown, write_csv
    from selflabel.reports.figure import check_installed, draw
    from selflabel.training import process_group

    with follow.said(out):
        check_installed()  # before hours of training
        common = {} if config is None else read_config(config, Options)
        given = specs.key_values(set_ or ())
        joined = tuple(entry for layer in (common, given) for entry in _entries(layer))
        common = {**common, **given, "set": joined}
        plan = [specs.spec(text, common) for text in (*runs, *(more or ()))]
        specs.unlike(plan)
        measure = _monitor(monitor, plan, common)
        jobs: list[list[TrainingJob]] = []
        for one in plan:
            jobs.append(_jobs(data, one, seeds, measure, [job for own in jobs for job in own]))
        found: list[RunHistory] = []
        with process_group() as (part, there), screen.training() as bar:
            if part.size > 1:
                raise ValueError("compare runs in one process: use `torchrun` with `selflabel train`")
            chosen = follow.device(device, there)
            for one, own in zip(plan, jobs, strict=True):
                found += [_run(one, job, data, out, chosen, bar) for job in own]
        readings = min(len(run.rows) for run in found) // max(1, plan[0].options.measure_every)
        window = smooth or max(1, readings // 20)
        write_csv(out / "comparison.csv", found)
        text = markdown(found)
        _write(out / "comparison.md", text)
        typer.echo(text)
        draw(found, [out / "comparison.png", out / "comparison.svg"], window=window, title=title)
        screen.tell(f"the figure is {out / 'comparison.png'}")


def _entries(layer: dict[str, object]) -> tuple[str, ...]:
    value = layer.get("set", ())
    return value if isinstance(value, tuple) else ()


def _monitor(text: str, plan: "list[Spec]", common: dict[str, object]) -> "Monitor | None":
    """One measure for all runs: that of a run of its own, or of the first that has an energy, ADM before others."""
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
    data: Path, one: "Spec", seeds: int, measure: "Monitor | None", others: "Sequence[TrainingJob]"
) -> "list[TrainingJob]":
    from dataclasses import replace

    from selflabel.cli.config.jobs import prepare

    found: list[TrainingJob] = []
    try:
        for number in range(seeds):
            options = replace(one.options, seed=one.options.seed + SEED_STEP * number)
            found.append(prepare(data, options, measure, [*others, *found]))
    except ValueError as error:
        raise ValueError(f"run {one.label!r}: {error}") from error
    return found


def _run(
    one: "Spec", job: "TrainingJob", data: Path, out: Path, device: "torch.device", bar: "Progress"
) -> "RunHistory":
    from selflabel.cli import running as follow
    from selflabel.reports.comparison import RunHistory
    from selflabel.training import TrainingError

    seed = job.options.seed
    folder = out / "runs" / one.folder / f"seed-{seed}"
    title = f"{one.label}, seed {seed}"
    try:
        follow.open_run(folder, job, data)
        follow.load_all(job, bar)
        history = follow.run(job, folder, device, bar, title)
        return RunHistory(one.label, seed, history.rows, follow.final_scores(job, folder, device))
    except (ValueError, TrainingError) as error:
        raise type(error)(f"run {title!r}: {error}") from error


def _write(path: Path, text: str) -> None:
    from selflabel.files.atomic import write_atomic

    write_atomic(path, lambda file: file.write(text.encode()))
