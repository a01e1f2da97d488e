"""`selflabel label`: folders of images with seeds to labels."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

import selflabel
from selflabel.cli.config.declarations import Argument, Option, known, option_group
from selflabel.cli.config.options import (
    RUN,
    SOURCES,
    Device,
    LabelerOptions,
    PrintingOptions,
    SourceOptions,
    Stems,
    check_sources,
)

if TYPE_CHECKING:
    from selflabel.labeling.folder import Outcome
    from selflabel.labeling.lines import Run
    from selflabel.labeling.plan import Plan, Shard
    from selflabel.labeling.settings import LabelingSettings
    from selflabel.reports.folder import FolderReport


GRAB_CUT = "grab-cut"
"""The annotator that takes boxes."""


@option_group
class FileOptions(SourceOptions):
    """What is read and where labels are written."""

    PANEL: ClassVar[str] = "Files"
    images: Annotated[Path, Argument("Folder of images, or one image.")]
    out: Annotated[Path, Option("Folder to write to.")]
    stems: Stems = None


@option_group
class BoxOptions:
    """Boxes are a source of their own."""

    PANEL: ClassVar[str] = "Files"
    boxes: Annotated[
        Path | None,
        Option(
            "Folder of YOLO's box files, instead of seeds: their class n becomes n + 1, 0 is the background."
        ),
    ] = None


@option_group
class OutputOptions:
    """What is written besides labels."""

    PANEL: ClassVar[str] = "Output"
    soft: Annotated[str, Option("Also write soft labels: none, uint8 or float16.")] = "none"
    overlay: Annotated[bool, Option("Also write the labels over the image.")] = False
    min_confidence: Annotated[float, Option("Leave pixels below it unlabeled (255).", min=0, max=1)] = 0.0


@option_group
class RunOptions:
    """Which images are labeled, by how many processes, and where."""

    PANEL: ClassVar[str] = RUN
    overwrite: Annotated[bool, Option("Label again what is done already.")] = False
    limit: Annotated[int | None, Option("The first N images only.", min=1)] = None
    num_parts: Annotated[int, Option("Divide the images among this many runs.", min=1)] = 1
    part_id: Annotated[int, Option("Which part this run is, from 0.", min=0)] = 0
    workers: Annotated[
        int | None, Option("Processes of one thread each. Default: one a processor.", min=1)
    ] = None
    device: Device = "auto"


@option_group
class LabelOptions(PrintingOptions, RunOptions, OutputOptions, LabelerOptions, BoxOptions, FileOptions):
    """What `selflabel label` takes."""


def label(options: LabelOptions) -> None:
    """Label every pixel of images from scribbles or clicks, from predictions (--probs), or from both; or from boxes.

    Images: gray, RGB or palette, 8 or 16 bit (divided by 255 or 65535), floats in [0, 1], turned as their
    Orientation says; alpha is dropped. Seeds: the number that a file stores is the class, 255 unlabeled; other
    meanings are said by --unlabeled, --seeds-offset, --values or --colors. Files belong together by stem. Only
    classes with seeds in an image can win there; in an image without seeds all classes of its prediction can.

    Writes OUT/labels (palette PNG), OUT/confidence (8-bit PNG), OUT/soft and OUT/overlays if asked for, and
    OUT/manifest.jsonl with the arguments and, for each image, its energy before and after. What is done is
    skipped when the command runs again; images that cannot be labeled are listed at the end, and the exit
    code is 1 then.
    """
    try:
        _label(options)
    except KeyboardInterrupt:  # once images are labeled, `_label_all` says how many are left
        from selflabel.cli import screen

        raise screen.interrupted(" before labeling began: no labels were written") from None


def _label(options: LabelOptions) -> None:
    from selflabel.labeling.engines.processes import forked, one_thread, without_collections

    with one_thread(), without_collections():  # the libraries' threads: processes are forked from this one
        import torch

        import selflabel.labeling.image  # noqa: F401
        from selflabel.cli.config import registry  # noqa: F401

    torch.set_num_threads(1)  # as in worker processes: the same bytes whatever their number

    from selflabel.cli import screen
    from selflabel.labeling.devices import labeling_devices
    from selflabel.labeling.folder import label_folder
    from selflabel.labeling.plan import Shard

    if options.boxes is not None and options.annotator is None:
        options = replace(options, annotator=GRAB_CUT)
    try:
        settings = _settings(options)
        part = Shard(options.part_id, options.num_parts)
        plan = _plan(options, part)
        count = _workers(options.workers, len(plan.jobs))
        devices = labeling_devices(options.device, settings.labeler.solver, len(plan.jobs), count)
    except (ValueError, OSError, ImportError) as error:
        raise screen.stop(str(error)) from error
    run = _run(options, settings)
    processes = count + len(devices) if devices or count > 1 else 0
    with ExitStack() as stack:
        stack.enter_context(_owned(options.out, part))
        if _is_work_left(options, plan):
            settings.labeler.compile(predicted=options.probs is not None, solved=not devices)
        ready = stack.enter_context(forked(processes))  # while there is one thread
        work = label_folder(
            plan,
            settings,
            run,
            options.out,
            part=part,
            workers=count,
            ready=ready,
            devices=devices,
            overwrite=options.overwrite,
            is_owner=True,
        )
        _label_all(work, plan, options)


def _is_work_left(options: LabelOptions, plan: "Plan") -> bool:
    """Whether images will be labeled, as far as names of files tell."""
    from selflabel.labeling.outputs import OutputFolder

    output = OutputFolder(options.out)
    return any(options.overwrite or not output.paths(job.stem).labels.is_file() for job in plan.jobs)


@contextmanager
def _owned(out: Path, part: "Shard") -> Iterator[None]:
    """Hold the folder or the part, or end the command."""
    from selflabel.cli import screen
    from selflabel.labeling.ownership import owned

    with ExitStack() as stack:
        try:
            stack.enter_context(owned(out, part))
        except ValueError as error:
            raise screen.stop(str(error)) from error
        except OSError as error:
            raise screen.stop(f"{out} cannot be written: {error}") from error
        yield


def _settings(options: LabelOptions) -> "LabelingSettings":
    """Everything that decides the labels. Raises `ValueError` for unknown names and parts that do not fit together."""
    from selflabel.cli.config import registry
    from selflabel.cli.config.label_formats import label_format
    from selflabel.labeling.settings import LabelingSettings

    settings = LabelingSettings(
        labeler=registry.labeler(options, predicted=options.probs is not None),
        seeds_format=label_format(options.unlabeled, options.seeds_offset, options.values, options.colors),
        probs_format=registry.probability_format(options),
        num_classes=options.num_classes,
        all_classes=options.all_classes,
        soft=known("soft format", options.soft, registry.SOFT),
        overlay=options.overlay,
        min_confidence=options.min_confidence,
    )
    if options.boxes is not None:
        check_boxes(options)
    else:
        check_sources(options, options.annotator)
    settings.labeler.check()
    return settings


def check_boxes(options: LabelOptions) -> None:
    """Raise `ValueError` for options that do not go with boxes."""
    others = {"seeds": None, "probs": None, "all_classes": False}
    for name in (name for name, default in others.items() if getattr(options, name) != default):
        raise ValueError(f"--boxes are all that is known: leave out --{name.replace('_', '-')}, or --boxes")
    if options.annotator != GRAB_CUT:
        raise ValueError(f"--boxes need --annotator {GRAB_CUT}, got {options.annotator}: leave it out")
    for names in SOURCES.values():
        for name in names:
            if getattr(options, name) != getattr(LabelOptions, name):
                raise ValueError(f"--{name.replace('_', '-')} is not for --boxes: leave it out")


def _plan(options: LabelOptions, part: "Shard") -> "Plan":
    from selflabel.files.folders import listing
    from selflabel.files.images import IMAGE_SUFFIXES
    from selflabel.files.lists import read_stems
    from selflabel.labeling.outputs import OutputFolder
    from selflabel.labeling.plan import make_plan

    folders = {
        "images": options.images,
        "seeds": options.seeds,
        "predictions": options.probs,
        "boxes": options.boxes,
    }
    OutputFolder(options.out).check_folders(folders)
    stems = None
    if options.stems is not None:
        stems = read_stems(options.stems, listing(options.images, IMAGE_SUFFIXES).stems)
    return make_plan(
        options.images,
        options.seeds,
        options.probs,
        boxes=options.boxes,
        stems=stems,
        limit=options.limit,
        part=part,
    )


def _run(options: LabelOptions, settings: "LabelingSettings") -> "Run":
    from selflabel.labeling.lines import Run
    from selflabel.labeling.settings import described

    seeds, probs = options.seeds or options.boxes, options.probs
    sources = {"seeds": options.seeds is not None, "probs": probs is not None}
    if options.boxes is not None:
        sources["boxes"] = True
    return Run(
        version=selflabel.__version__,
        arguments={**sources, **described(settings)},
        images=str(options.images.resolve()),
        seeds=None if seeds is None else str(seeds.resolve()),
        probs=None if probs is None else str(probs.resolve()),
    )


def _workers(asked: int | None, jobs: int) -> int:
    from selflabel.kernels.processors import usable_processors

    return max(1, min(usable_processors() if asked is None else asked, jobs))


def _label_all(work: "Generator[Outcome, None, None]", plan: "Plan", options: LabelOptions) -> None:
    """Show the progress of the work, then a summary of it."""
    out, total = options.out, len(plan.jobs) + len(plan.failures)
    from contextlib import closing

    from selflabel.cli import screen
    from selflabel.labeling.folder import Skipped, Stale
    from selflabel.reports.folder import FolderReport

    outcomes: list[Outcome] = []
    stale: list[Stale] = []
    interrupted, broken = False, ""
    try:
        with screen.progress() as bar, closing(work):
            task = bar.add_task("labeling", total=total)
            for outcome in work:
                if outcomes and isinstance(outcomes[-1], Skipped) and not isinstance(outcome, Skipped):
                    bar.reset(task, total=total, completed=len(outcomes))  # the rate is that of labeling
                if isinstance(outcome, Stale):
                    stale.append(outcome)
                else:
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
    report = FolderReport.of([*outcomes, *stale])
    _summary(report, out)
    screen.left_out(plan.left_out)
    screen.dim(report.dim)
    if len(report.classes) > 1 or (options.num_classes or 1) > 1 or options.probs is not None:
        screen.of_one_class(report.of_one_class, predicted=options.probs is not None)
    screen.empty_boxes(report.empty_boxes)
    screen.listed("labeled again", [(each.stem, each.reason) for each in report.stale], "yellow")
    screen.failures([(failure.stem, failure.reason) for failure in report.failures])
    if interrupted:
        raise screen.interrupted(f" with {total - len(outcomes)} images left: the same command goes on")
    if broken:
        raise screen.stop(broken, screen.BAD_IMAGES)
    if report.failures:
        raise typer.Exit(screen.BAD_IMAGES)


def _summary(report: "FolderReport", out: Path) -> None:
    from selflabel.cli import screen

    table = screen.Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _lines(report):
        table.add_row(name, value)
    screen.summary(table, f"labels are in {out / 'labels'}")
    if len(report.devices) > 1:
        counts = ", ".join(f"{count} on {name}" for name, count in report.devices.items())
        screen.note(f"images were solved {counts}: labels of several devices differ by rounding")
    if report.changed_far > MOST_FAR:
        screen.warn(
            f"{100 * report.changed_far:.0f} % of the changed labels are far from what is left of their class: the "
            f"solver takes whole objects of the prediction away; a lower --pairwise-weight keeps more of them"
        )


MOST_FAR = 0.5
"""Share of the changed labels far from their class above which the summary warns."""


def _lines(report: "FolderReport") -> Sequence[tuple[str, str]]:
    from selflabel.cli import screen
    from selflabel.labeling.lines import CPU

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
        *([] if list(report.devices) == [CPU] else [("solved on", ", ".join(report.devices))]),
        ("steps, mean", screen.number(report.mean([record.steps for record in records]), 1)),
        ("step limit reached", str(unfinished)),
        ("pixels with seeds", f"{100 * report.mean([record.seeded for record in records]):.2f} %"),
        ("pixels labeled", f"{100 * report.mean([record.labeled for record in records]):.2f} %"),
        *([] if report.changed is None else [("changed by the solver", f"{100 * report.changed:.2f} %")]),
        ("entropy, mean (nats)", screen.number(report.mean([record.entropy for record in records]))),
        ("seconds an image", screen.number(report.mean([record.seconds for record in records]))),
    ]
