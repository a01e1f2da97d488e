"""`selflabel train`: a network from images and scribbles."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selflabel.cli import flags as energy_flags
from selflabel.cli.config.options import DEFAULTS

if TYPE_CHECKING:
    from selflabel.cli.config.jobs import TrainingJob
    from selflabel.reports.comparison import Final
    from selflabel.training import History

DATA = "DataSource"
METHOD = "Method"
TRAINING = "Training"
RUN = "Run"


def _default(name: str) -> str:
    value = getattr(DEFAULTS, name)
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def train(
    data: Annotated[
        Path,
        typer.Argument(help="Folder with images/, scribbles/, train.txt, and masks/, val.txt to validate."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run: options, history, checkpoints.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the options below; those given here win.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="pce: seeds alone. full: masks. gd: seeds and losses on the prediction. adm: self-labeling, a "
            "solver and the network in turns. trust-region: adm with hard labels and an error probability.",
            show_default=_default("method"),
            rich_help_panel=METHOD,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="gd: potts, dense-crf, normalized-cut, kernel-cut, gated-crf, entropy, non-exist or kmeans; "
            "several as potts+entropy=0.1, each with a factor on its weight.",
            show_default="potts",
            rich_help_panel=METHOD,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="adm: see `selflabel solvers`.",
            show_default="gradient-descent; trust-region: graph-cut",
            rich_help_panel=METHOD,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Option of the solver or the loss; affinity.KEY, augment.KEY and optimizer.KEY set theirs.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            help="Of regularizers or of self-labeling, relative to the seeds.",
            show_default="1; self-labeling: 10",
            rich_help_panel=METHOD,
        ),
    ] = None,
    error_probability: Annotated[
        float | None,
        typer.Option(help="ε of the labels.", show_default="0; trust-region: 0.1", rich_help_panel=METHOD),
    ] = None,
    starter: Annotated[
        str | None,
        typer.Option(
            help="Solver that makes, of the seeds alone, the labels that a solve starts from; none: the prediction.",
            show_default="random-walker; none with the solver random-walker",
            rich_help_panel=METHOD,
        ),
    ] = None,
    present_only: Annotated[
        bool | None,
        typer.Option(
            "--present-only/--all-classes",
            help="Labels of an image only of classes with seeds in it.",
            show_default="all-classes",
            rich_help_panel=METHOD,
        ),
    ] = None,
    relabel_every: Annotated[
        int | None,
        typer.Option(
            help="Make labels of all images every so many steps, instead of those of each batch.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    warm_start: Annotated[
        bool | None,
        typer.Option(
            "--warm-start/--cold-start",
            help="Start a solve from the last labels of the image.",
            show_default="cold-start",
            rich_help_panel=METHOD,
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
    size: Annotated[
        int | None,
        typer.Option(
            help="Images are padded to a square and resized to this; 0 leaves them as they are.",
            show_default=_default("size"),
            rich_help_panel=DATA,
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="1 (gray) or 3.", show_default="as the first image", rich_help_panel=DATA),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            help="Labels of class N or above are an error.",
            show_default="lines of classes.txt",
            rich_help_panel=DATA,
        ),
    ] = None,
    scribbles: Annotated[
        str | None,
        typer.Option(
            help="Folder in DATA of the seeds.", show_default=_default("scribbles"), rich_help_panel=DATA
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            help="Folder in DATA of the masks.", show_default=_default("masks"), rich_help_panel=DATA
        ),
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="Random changes of the training images; by default left and right.",
            show_default="augment",
            rich_help_panel=DATA,
        ),
    ] = None,
    background: Annotated[
        bool | None,
        typer.Option(
            "--background/--no-background",
            help="Let class 0 take part in mean scores (acdc: --no-background).",
            show_default="background",
            rich_help_panel=DATA,
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="unet or unet:WIDTH, basic-unet, deeplabv3plus-mobilenetv2, segformer, vit-linear, "
            "smp:ARCH:ENCODER, or package.module:factory.",
            show_default=_default("network"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: a folder or name of transformers, encoder weights of smp.",
            show_default="random weights",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Batches of the whole run.", show_default=_default("steps"), rich_help_panel=TRAINING
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Images a step.", show_default=_default("batch"), rich_help_panel=TRAINING),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="adamw or sgd.", show_default=_default("optimizer"), rich_help_panel=TRAINING),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="Of the first step.",
            show_default=_default("learning_rate"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    power: Annotated[
        float | None,
        typer.Option(
            help="Of the polynomial decay.", show_default=_default("power"), rich_help_panel=TRAINING
        ),
    ] = None,
    pretrain_steps: Annotated[
        int | None,
        typer.Option(
            help="First steps, on the seeds alone.",
            show_default=_default("pretrain_steps"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            help="Next steps, in which the weight rises.",
            show_default=_default("warmup_steps"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    network_steps: Annotated[
        int | None,
        typer.Option(
            help="Of the network for each batch.",
            show_default=_default("network_steps"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(help="Decay of a moving average of the weights.", rich_help_panel=TRAINING),
    ] = None,
    bfloat16: Annotated[
        bool | None,
        typer.Option(
            "--bfloat16/--float32",
            help="Automatic mixed precision.",
            show_default="float32",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of weights, order, augmentation.", show_default=_default("seed"), rich_help_panel=TRAINING
        ),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(help="In steps.", show_default=_default("validate_every"), rich_help_panel=RUN),
    ] = None,
    measure_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between readings of both objectives.",
            show_default=_default("measure_every"),
            rich_help_panel=RUN,
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(help="In steps.", show_default=_default("checkpoint_every"), rich_help_panel=RUN),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...", rich_help_panel=RUN)] = "auto",
) -> None:
    """Train a network from scribbles.

    DATA has images/, scribbles/ and masks/ with files of the same stems (255 = unlabeled), train.txt and val.txt
    with a stem a line, and classes.txt with a class a line. Masks are used to validate, and by the method full.

    Writes OUT/config.toml (all options, resolved), OUT/history.csv and .jsonl (a line each step), OUT/last.pt and
    OUT/best.pt (best mean Dice on val). The same command goes on from the last checkpoint where a run was
    interrupted or killed; a folder with a run of other options, or on files edited since, is refused (the number of
    steps, too, is an option: the learning rate follows it). Under `torchrun` the batch is
    shared among the processes.
    """
    given = dict(locals())  # every option by its name
    from selflabel.cli import running as follow
    from selflabel.cli import screen
    from selflabel.cli.config.given import from_arguments
    from selflabel.cli.config.jobs import prepare
    from selflabel.training import process_group

    with follow.said(out):
        job = prepare(data, from_arguments(given, config))
        with process_group(on_cpu=device == "cpu") as (part, found), screen.training() as bar:
            bar.disable = bar.disable or part.rank > 0
            if part.rank == 0:
                follow.open_run(out, job, data)
            follow.load_all(job, bar)
            history = follow.run(job, out, follow.device(device, found), bar, job.options.method)
            if part.rank > 0:
                return
            final = follow.final_scores(job, out, follow.device(device, found))
    _summary(job, history, final, out)


def _summary(job: "TrainingJob", history: "History", final: "Final | None", out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from selflabel.cli import screen

    last, total = history.rows[-1], len(history.rows)
    steps, scores = history.column("dice")
    table = Table(show_header=False)
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
    for name in ("network", "solver"):
        spent = sum(row[f"{name}_seconds"] or 0.0 for row in history.rows)
        table.add_row(f"seconds a step, {name}", screen.number(spent / total))
    screen.show(table)
    best_file = "best.pt and " if scores else ""
    typer.echo(f"{best_file}last.pt are in {out}: selflabel predict {out} IMAGES --out PROBS")
