"""`selflabel label`: folders of images with seeds to labels."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selflabel.cli import flags as energy_flags

if TYPE_CHECKING:
    from selflabel.labeling.folder import Outcome
    from selflabel.reports.folder import FolderReport

FILES = "Files"
OUTPUT = "Output"
RUN = "Run"


def label(
    images: Annotated[Path, typer.Argument(help="Folder of images, or one image.")],
    seeds: Annotated[
        Path,
        typer.Option(
            help="Folder of scribbles or clicks of the same stems: class indices.", rich_help_panel=FILES
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.", rich_help_panel=FILES)],
    probs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of predictions, npy or npz, instead of an annotator.", rich_help_panel=FILES
        ),
    ] = None,
    probs_layout: Annotated[
        str, typer.Option(help="Axes of the predictions: khw or hwk.", rich_help_panel=FILES)
    ] = "khw",
    probs_key: Annotated[
        str, typer.Option(help="Name of the array in npz files.", rich_help_panel=FILES)
    ] = "",
    unlabeled: Annotated[
        int,
        typer.Option(
            min=-1, max=65535, help="Value in the seeds of pixels without a label.", rich_help_panel=FILES
        ),
    ] = 255,
    seeds_offset: Annotated[
        int, typer.Option(help="Value in the seeds of class 0 (napari, ilastik: 1).", rich_help_panel=FILES)
    ] = 0,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, max=255, help="Seeds of class N or above are an error.", rich_help_panel=FILES),
    ] = None,
    all_classes: Annotated[
        bool,
        typer.Option(
            "--all-classes",
            help="Let classes without seeds in an image win, too (with --probs).",
            rich_help_panel=FILES,
        ),
    ] = False,
    stems: Annotated[
        Path | None,
        typer.Option(help="Text file of stems, such as val.txt: only these.", rich_help_panel=FILES),
    ] = None,
    solver: Annotated[
        str, typer.Option(help="See `selflabel solvers`.", rich_help_panel=energy_flags.PANEL)
    ] = "graph-cut",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Option of the solver; annotator.KEY and affinity.KEY set theirs.",
            rich_help_panel=energy_flags.PANEL,
        ),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(
            help="Appearance model that predicts from the seeds, or none.", rich_help_panel=energy_flags.PANEL
        ),
    ] = None,
    coupling: energy_flags.Coupling = None,
    relaxation: energy_flags.Relaxation = None,
    coupling_weight: energy_flags.CouplingWeight = None,
    pairwise_weight: energy_flags.PairwiseWeight = None,
    entropy_weight: energy_flags.EntropyWeight = None,
    affinity: energy_flags.Affinity = None,
    sigma: energy_flags.Sigma = None,
    sigma_xy: energy_flags.SigmaXY = None,
    neighbors: energy_flags.Neighbors = None,
    radius: energy_flags.Radius = None,
    max_steps: energy_flags.MaxSteps = None,
    soft: Annotated[
        str, typer.Option(help="Also write soft labels: none, uint8 or float16.", rich_help_panel=OUTPUT)
    ] = "none",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the labels over the image.", rich_help_panel=OUTPUT)
    ] = False,
    min_confidence: Annotated[
        float,
        typer.Option(min=0, max=1, help="Leave pixels below it unlabeled (255).", rich_help_panel=OUTPUT),
    ] = 0.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Label again what is done already.", rich_help_panel=RUN)
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first N images only.", rich_help_panel=RUN)
    ] = None,
    num_parts: Annotated[
        int, typer.Option(min=1, help="Divide the images among this many runs.", rich_help_panel=RUN)
    ] = 1,
    part_id: Annotated[
        int, typer.Option(min=0, help="Which part this run is, from 0.", rich_help_panel=RUN)
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes of one thread each. Default: one a processor.", rich_help_panel=RUN
        ),
    ] = None,
) -> None:
    """Label every pixel of images from scribbles or clicks.

    Images: gray, RGB or palette, 8 or 16 bit (divided by 255 or 65535), floats in [0, 1], turned as their
    EXIF tag says; alpha is dropped. Seeds: index or palette PNG. Files belong together by stem. Only classes
    with seeds in an image can win there.

    Writes OUT/labels (palette PNG), OUT/confidence (8-bit PNG), OUT/soft and OUT/overlays if asked for, and
    OUT/manifest.jsonl with the arguments and, for each image, its energy before and after. What is done is
    skipped when the command runs again; images that cannot be labeled are listed at the end, and the exit
    code is 1 then.
    """
    from selflabel.labeling.engines.processes import forked, one_thread, without_collections

    with one_thread(), without_collections():  # the libraries' threads: processes are forked from this one
        import torch

        import selflabel.labeling.image
        from selflabel.cli.config import registry as names

    torch.set_num_threads(1)  # as in worker processes: the same bytes whatever their number

    from selflabel.cli import screen
    from selflabel.files.folders import read_lines
    from selflabel.files.label_files import LabelFormat
    from selflabel.files.probabilities import ProbabilityFormat
    from selflabel.labeling.folder import label_folder
    from selflabel.labeling.manifest import Run
    from selflabel.labeling.plan import Shard, make_plan
    from selflabel.labeling.settings import LabelingSettings, described

    choices = names.Choices(
        solver=solver,
        options=tuple(set_ or ()),
        annotator=annotator,
        coupling=coupling,
        relaxation=relaxation,
        coupling_weight=coupling_weight,
        pairwise_weight=pairwise_weight,
        entropy_weight=entropy_weight,
        affinity=affinity,
        affinity_options={"sigma": sigma, "sigma_xy": sigma_xy, "neighbors": neighbors, "radius": radius},
        max_steps=max_steps,
        has_probs=probs is not None,
    )
    try:
        if all_classes and probs is None:
            raise ValueError("--all-classes needs --probs: without, only classes with seeds can win")
        settings = LabelingSettings(
            engine=names.engine(choices),
            seeds_format=LabelFormat(unlabeled, seeds_offset),
            probs_format=ProbabilityFormat(
                names.known("layout", probs_layout, names.CHANNELS_LAST), probs_key
            ),
            num_classes=num_classes,
            all_classes=all_classes,
            soft=names.known("soft format", soft, names.SOFT),
            overlay=overlay,
            min_confidence=min_confidence,
        )
        settings.engine.check()
        part = Shard(part_id, num_parts)
        wanted = read_lines(stems) if stems is not None else None
        plan = make_plan(images, seeds, probs, stems=wanted, limit=limit, part=part)
    except (ValueError, OSError) as error:
        raise screen.stop(str(error)) from error
    run = Run(
        version=selflabel.__version__,
        arguments={"probs": probs is not None, **described(settings)},
        images=str(images.resolve()),
        seeds=str(seeds.resolve()),
        probs=None if probs is None else str(probs.resolve()),
    )
    count = _workers(workers, len(plan.jobs))
    with forked(count if count > 1 else 0) as ready:  # before there is a thread that shows the progress
        work = label_folder(
            plan, settings, run, out, part=part, workers=count, ready=ready, overwrite=overwrite
        )
        _follow(work, len(plan.jobs) + len(plan.failures), out)


def _workers(asked: int | None, jobs: int) -> int:
    import os

    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(there if asked is None else asked, jobs))


def _follow(work: "Generator[Outcome, None, None]", total: int, out: Path) -> None:
    """Let the work go on, show how far it is, then what was done."""
    from contextlib import closing

    from selflabel.cli import screen
    from selflabel.labeling.folder import Skipped
    from selflabel.reports.folder import FolderReport

    outcomes: list[Outcome] = []
    interrupted, broken = False, ""
    try:
        with screen.progress() as bar, closing(work):
            task = bar.add_task("labeling", total=total)
            for outcome in work:
                if outcomes and isinstance(outcomes[-1], Skipped) and not isinstance(outcome, Skipped):
                    bar.reset(task, total=total, completed=len(outcomes))  # the rate is that of labeling
                outcomes.append(outcome)
                bar.advance(task)
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        broken = f"{out} cannot be written: {error}"
    except ValueError as error:
        raise screen.stop(str(error)) from error
    if broken and not outcomes:
        raise screen.stop(broken)
    report = FolderReport.of(outcomes)
    _summary(report, out)
    screen.failures([(failure.stem, failure.reason) for failure in report.failures])
    if interrupted:
        screen.tell(
            f"interrupted with {total - len(outcomes)} images left: the same command goes on", "bold yellow"
        )
        raise typer.Exit(screen.INTERRUPTED)
    if broken:
        raise screen.stop(broken, screen.BAD_IMAGES)
    if report.failures:
        raise typer.Exit(screen.BAD_IMAGES)


def _summary(report: "FolderReport", out: Path) -> None:
    from rich.table import Table

    from selflabel.cli import screen

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _lines(report):
        table.add_row(name, value)
    screen.show(table)
    typer.echo(f"labels are in {out / 'labels'}")


def _lines(report: "FolderReport") -> Sequence[tuple[str, str]]:
    from selflabel.cli import screen

    records = report.records
    lines = [("labeled", str(len(report.labeled))), ("done before", str(len(report.skipped)))]
    lines.append(("failed", str(len(report.failures))))
    if not records:
        return lines
    unfinished = sum(record.result != "converged" for record in records)
    return [
        *lines,
        ("energy per pixel, before", screen.number(report.per_pixel(before=True), 4)),
        ("energy per pixel, after", screen.number(report.per_pixel(before=False), 4)),
        ("steps, mean", screen.number(report.mean([record.steps for record in records]), 1)),
        ("step limit reached", str(unfinished)),
        ("pixels with seeds", f"{100 * report.mean([record.seeded for record in records]):.2f} %"),
        ("pixels labeled", f"{100 * report.mean([record.labeled for record in records]):.2f} %"),
        ("entropy, mean (nats)", screen.number(report.mean([record.entropy for record in records]))),
        ("seconds an image", screen.number(report.mean([record.seconds for record in records]))),
    ]
