"""`selflabel train`: a network from images and scribbles."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from selflabel.cli.config.declarations import Argument, Option, declared, option_group
from selflabel.cli.config.options import (
    RUN,
    AllowCode,
    Device,
    Layered,
    PrintingOptions,
    TrainingOptions,
    merged,
)

if TYPE_CHECKING:
    from selflabel.cli.config.jobs import TrainingJob
    from selflabel.reports.comparison import Final
    from selflabel.training import History


@option_group
class FolderOptions:
    """Where a run reads and writes."""

    data: Annotated[
        Path, Argument("Folder with images/, scribbles/, train.txt, and masks/, val.txt to validate.")
    ]
    out: Annotated[Path, Option("Folder of the run: options, history, checkpoints.")]
    config: Annotated[Path | None, Option("TOML file of the options below; those given here win.")] = None
    allow_code: AllowCode = False


@option_group
class TrainOptions(PrintingOptions, TrainingOptions, FolderOptions, Layered):
    """What `selflabel train` takes."""

    PANEL: ClassVar[str] = RUN
    device: Device = "auto"


def train(options: TrainOptions) -> None:
    """Train a network from scribbles.

    DATA has images/, scribbles/ and masks/ with files of the same stems (255 = unlabeled), train.txt and val.txt
    with a stem a line, and classes.txt with a class a line. Masks are used to validate, and by the method full.
    All files are read before the run: those that cannot be used are named.

    Writes OUT/config.toml (all options, resolved), OUT/history.csv and .jsonl (a line each step), OUT/last.pt and
    OUT/best.pt (best mean Dice on val). The same command goes on from the last checkpoint where a run was
    interrupted or killed; a folder with a run of other options, or on files edited since, is refused (the number of
    steps, too, is an option: the learning rate follows it). Under `torchrun` the batch is
    shared among the processes.
    """
    from contextlib import nullcontext

    from selflabel.cli import run_folder, running, screen
    from selflabel.cli.config.jobs import prepare
    from selflabel.training import process_group

    out = options.out
    with running.reported(out):
        job = prepare(options.data, _with_file(options))
        with process_group(on_cpu=options.device == "cpu") as (process, found), screen.training() as bar:
            bar.disable = bar.disable or process.rank > 0
            device = running.device(options.device, found)
            with run_folder.held(out) if process.rank == 0 else nullcontext():
                if process.rank == 0:
                    for line in running.beginning(out):
                        screen.warn(line)
                    run_folder.open_run(out, job, options.data)
                    for line in running.describe_data(job, options.data):
                        screen.note(line)
                running.load_all(job, bar, known=process.rank > 0 or run_folder.has_begun(out))
                history = running.run(job, out, device, bar, job.options.method)
                if process.rank > 0:
                    return
                final = running.final_scores(job, out, device)
    _summary(job, history, final, out)


def _with_file(options: TrainOptions) -> TrainingOptions:
    """The options given on the command line over those of the file over the defaults.

    Raises `ValueError` for what is wrong with the file.
    """
    from selflabel.cli.run_folder import file_options

    names = options.given & declared(TrainingOptions).keys()
    file = {}
    if options.config is not None:
        file = file_options(options.config, options.allow_code, own_network="network" in names)
    return merged(file, {name: getattr(options, name) for name in names})


def _summary(job: "TrainingJob", history: "History", final: "Final | None", out: Path) -> None:
    from rich.text import Text

    from selflabel.cli import screen

    last, total = history.rows[-1], len(history.rows)
    steps, scores = history.column("dice")
    table = screen.Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("steps", str(total))
    for name in ("loss", "direct", "joint"):
        if last.get(name) is not None:
            table.add_row({"loss": "last loss"}.get(name, f"{name} loss"), screen.number(last[name], 4))
    if scores:
        best = max(scores)
        table.add_row("Dice, last", screen.number(scores[-1]))
        table.add_row(f"Dice, best (step {int(steps[scores.index(best)])})", screen.number(best))
        for number, name in enumerate(job.class_names):
            title = Text(f"Dice, last: {number} {name}".rstrip())  # a name is no markup
            table.add_row(title, screen.number(last.get(f"dice_{number}")))
    if final is not None:
        table.add_row("HD95, last (pixels of the network's input)", screen.number(final.hd95, 2))
    for name in ("loading", "network", "solver"):
        spent = sum(row[f"{name}_seconds"] or 0.0 for row in history.rows)
        table.add_row(f"seconds a step, {name}", screen.number(spent / total))
    best_file = "best.pt and " if (out / "best.pt").exists() else ""
    there = f"{best_file}last.pt {'are' if best_file else 'is'} in {out}"
    screen.summary(table, f"{there}: selflabel predict {out} IMAGES --out PROBS")
