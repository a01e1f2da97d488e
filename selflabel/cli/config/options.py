"""The options of commands, by groups that several commands share, and those of a training run.

A dataclass joins the groups that it inherits from; their fields come in the order of the bases from last to first.
Each class names the panel of its own fields in the help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from selflabel.cli.config.declarations import Option, option_group

METHODS = ("pce", "full", "gd", "adm", "trust-region")
PARTS = ("solver", "loss", "affinity", "augment", "optimizer")
"""Whose options ``--set PART.KEY=VALUE`` sets in a training run."""

ENERGY = "Energy and affinity (default: those of the solver or method)"
RUN = "Run"

Device = Annotated[str, Option("auto, cpu, cuda or cuda:N.")]
AllowCode = Annotated[
    bool, Option("Import the module that a run or a file of options names as its network, and run its code.")
]
Unlabeled = Annotated[
    int, Option("Value in the seeds of pixels without a label; -1: all have one.", min=-1, max=65535)
]
SeedsOffset = Annotated[int, Option("Value in the seeds of class 0 (napari, ilastik: 1).")]
Values = Annotated[
    str | None, Option("Values in the seeds of class 0, 1, ..., such as 0,255.", shown="0,1,2,...")
]
Colors = Annotated[
    str | None,
    Option("File of the colors of classes, CSV or JSON, for seeds that are colored.", metavar="FILE"),
]
AnnotatorName = Annotated[
    str | None,
    Option("Appearance model that predicts from the seeds, or none; with --probs: the mean of both."),
]
RelaxationName = Annotated[str | None, Option("Potts relaxation.")]
Stems = Annotated[Path | None, Option("Text file of stems, such as val.txt: only these.")]


@option_group
class PrintingOptions:
    """How much a command says."""

    PANEL: ClassVar[str] = "Printing"
    quiet: Annotated[bool, Option("Errors alone, and what was asked for.", flags=("--quiet", "-q"))] = False
    verbose: Annotated[bool, Option("Details of each image, too.", flags=("--verbose", "-v"))] = False


@option_group
class SourceOptions:
    """What images are labeled from, and how its files are read."""

    PANEL: ClassVar[str] = "Files"
    seeds: Annotated[
        Path | None,
        Option("Folder of scribbles or clicks of the same stems: class indices.", shown="none, with --probs"),
    ] = None
    probs: Annotated[
        Path | None,
        Option(
            "Folder of predictions, npz, npy or TIFF, instead of an annotator, or beside one that is named."
        ),
    ] = None
    probs_layout: Annotated[
        str, Option("Axes of the predictions: khw, hwk, or auto: as the image's size says.")
    ] = "auto"
    probs_key: Annotated[
        str, Option("Name of the array in npz files.", shown="the only one beside `classes`")
    ] = ""
    probs_values: Annotated[
        str, Option("probabilities, logits, or auto: logits in arrays of this name, else probabilities.")
    ] = "auto"
    unlabeled: Unlabeled = 255
    seeds_offset: SeedsOffset = 0
    values: Values = None
    colors: Colors = None
    num_classes: Annotated[int | None, Option("Seeds of class N or above are an error.", min=1, max=255)] = (
        None
    )
    all_classes: Annotated[bool, Option("Let classes without seeds in an image win, too (with --probs).")] = (
        False
    )


SOURCES = {
    "probs": ("probs_layout", "probs_key", "probs_values"),
    "seeds": ("unlabeled", "seeds_offset", "values", "colors"),
}
"""Options that say how files are read: without the files they would change nothing."""

OF_SEEDS = ("num_classes", "all_classes")
"""Options about the classes of seeds, which change nothing without seeds; boxes have a number of classes, too."""


def check_sources(options: SourceOptions, annotator: str | None) -> None:
    """Raise `ValueError` for options about files that are not given, and for classes that nothing predicts."""
    if options.seeds is None and annotator not in (None, "none"):
        raise ValueError(f"--annotator {annotator} needs --seeds, which it learns from: give them")
    if options.all_classes and options.probs is None:
        raise ValueError("--all-classes needs --probs: without, only classes with seeds can win")
    for source, names in (*SOURCES.items(), ("seeds", OF_SEEDS)):
        for name in names if getattr(options, source) is None else ():
            if getattr(options, name) != getattr(SourceOptions, name):
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} needs --{source}: without, it changes nothing; leave it out")


@option_group
class EnergyOptions:
    """The energy; None leaves a part as it is."""

    PANEL: ClassVar[str] = ENERGY
    coupling: Annotated[str | None, Option("Cross-entropy of labels and prediction.")] = None
    relaxation: RelaxationName = None
    coupling_weight: Annotated[float | None, Option("η", min=0)] = None
    pairwise_weight: Annotated[float | None, Option("λ", min=0)] = None
    entropy_weight: Annotated[float | None, Option("τ (mean-field: 1).", min=0)] = None


@option_group
class AffinityOptions:
    """The affinity by name, and its fields; each belongs to some affinities only."""

    PANEL: ClassVar[str] = ENERGY
    affinity: Annotated[
        str | None, Option("grid, contrast, edge-stop, window, dense or sparse-nonlocal.")
    ] = None
    sigma: Annotated[float | None, Option("Color bandwidth in 0..255 units.")] = None
    sigma_xy: Annotated[
        float | None, Option("Spatial bandwidth in pixels (window, dense, sparse-nonlocal).")
    ] = None
    neighbors: Annotated[int | None, Option("4 or 8 (grid, sparse-nonlocal).")] = None
    radius: Annotated[int | None, Option("In pixels (window).")] = None


@option_group
class SolveOptions(AffinityOptions, EnergyOptions):
    """What a solver minimizes, and for how long."""

    PANEL: ClassVar[str] = ENERGY
    max_steps: Annotated[int | None, Option("Limit of steps of a solve.", min=1)] = None


@option_group
class SolverOptions:
    """The solver and the prediction that it starts from."""

    PANEL: ClassVar[str] = ENERGY
    solver: Annotated[str, Option("See `selflabel solvers`.")] = "graph-cut"
    set: Annotated[
        tuple[str, ...],
        Option(
            "Option of the solver; annotator.KEY, affinity.KEY and normalized-cut.KEY set theirs.",
            metavar="KEY=VALUE",
        ),
    ] = ()
    annotator: AnnotatorName = None


@option_group
class LabelerOptions(SolveOptions, SolverOptions):
    """How an image is labeled."""


@option_group
class Layered:
    """Options that a file gives, too. given: the names of those on the command line, which win."""

    given: frozenset[str] = frozenset()


@option_group
class MethodOptions:
    """What the network is trained for."""

    PANEL: ClassVar[str] = "Method"
    method: Annotated[
        str,
        Option(
            "pce: seeds alone. full: masks. gd: seeds and losses on the prediction. adm: self-labeling, a "
            "solver and the network in turns. trust-region: adm with hard labels and an error probability."
        ),
    ] = "adm"
    loss: Annotated[
        str | None,
        Option(
            "gd: potts, dense-crf, normalized-cut, kernel-cut, gated-crf, entropy, non-exist, kmeans, expansion or "
            "constrain-to-boundary; several as potts+entropy=0.1, each with a factor on its weight: 1 where none is "
            "given; of kmeans, which is in squared 0..255 units, 1e-4.",
            shown="potts",
        ),
    ] = None
    solver: Annotated[
        str | None,
        Option("adm: see `selflabel solvers`.", shown="gradient-descent; trust-region: graph-cut"),
    ] = None
    set: Annotated[
        tuple[str, ...],
        Option(
            "Option of the solver or loss; affinity.KEY, augment.KEY, optimizer.KEY, normalized-cut.KEY set theirs.",
            metavar="KEY=VALUE",
        ),
    ] = ()
    weight: Annotated[
        float | None,
        Option("Of regularizers or of self-labeling, relative to the seeds.", shown="1; self-labeling: 10"),
    ] = None
    error_probability: Annotated[float | None, Option("ε of the labels.", shown="0; trust-region: 0.1")] = (
        None
    )
    starter: Annotated[
        str | None,
        Option(
            "Solver that makes, of the seeds alone, the labels that a solve starts from; none: the prediction.",
            shown="random-walker; none with the solver random-walker",
        ),
    ] = None
    present_only: Annotated[
        bool,
        Option(
            "Labels of an image only of classes with seeds in it.", flags=("--present-only/--all-classes",)
        ),
    ] = False
    relabel_every: Annotated[
        int | None,
        Option("Make labels of all images every N steps, instead of those of each batch.", min=1),
    ] = None
    warm_start: Annotated[
        bool,
        Option("Start a solve from the last labels of the image.", flags=("--warm-start/--cold-start",)),
    ] = False


@option_group
class DataOptions:
    """The images and how they are fed to the network."""

    PANEL: ClassVar[str] = "Data"
    size: Annotated[
        int, Option("Images are padded to a square and resized to this; 0 leaves them as they are.", min=0)
    ] = 128
    channels: Annotated[
        int | None, Option("1 (gray) or 3.", min=1, max=3, shown="3 if any image has colors, else 1")
    ] = None
    num_classes: Annotated[
        int | None, Option("Labels of class N or above are an error.", min=1, shown="lines of classes.txt")
    ] = None
    scribbles: Annotated[str, Option("Folder in DATA of the seeds.")] = "scribbles"
    unlabeled: Unlabeled = 255
    seeds_offset: SeedsOffset = 0
    values: Values = None
    colors: Colors = None
    curated: Annotated[
        bool, Option("Seeds have the classes of the masks at their pixels: scribbles without mistakes.")
    ] = False
    full_stems: Annotated[
        str | None,
        Option(
            "List in DATA of training images whose masks are their seeds; images then count alike, not pixels.",
            metavar="FILE",
            shown="none",
        ),
    ] = None
    unlabeled_stems: Annotated[
        str | None,
        Option("List in DATA of training images without seeds.", metavar="FILE", shown="none"),
    ] = None
    masks: Annotated[str, Option("Folder in DATA of the masks.")] = "masks"
    masks_unlabeled: Annotated[
        int, Option("Value in the masks of pixels that do not count.", min=-1, max=65535)
    ] = 255
    masks_offset: Annotated[int, Option("Value in the masks of class 0.")] = 0
    masks_values: Annotated[str | None, Option("As --values, in the masks.", shown="0,1,2,...")] = None
    masks_colors: Annotated[str | None, Option("As --colors, of the masks.", metavar="FILE")] = None
    augment: Annotated[bool, Option("Random changes of the training images; by default left and right.")] = (
        True
    )
    background: Annotated[bool, Option("Let class 0 take part in mean scores (acdc: --no-background).")] = (
        True
    )


@option_group
class NetworkOptions:
    """The network and its optimization."""

    PANEL: ClassVar[str] = "Training"
    network: Annotated[
        str,
        Option(
            "unet or unet:WIDTH, deeplabv3plus-efficientnet-lite0 or ...:STRIDE (8 or 16; lite1, lite2), basic-unet, "
            "deeplabv3plus-mobilenetv2, segformer, vit-linear, smp:ARCH:ENCODER, package.module:factory, or "
            "crf:NETWORK: any of these with a dense CRF behind it, trained with it."
        ),
    ] = "unet"
    pretrained: Annotated[
        str | None,
        Option(
            "Weights to start from: a folder or name of transformers, encoder weights of smp; or random.",
            shown="random weights; efficientnet-lite: ImageNet's",
        ),
    ] = None
    steps: Annotated[int, Option("Batches of the whole run.", min=1)] = 600
    batch: Annotated[int, Option("Images a step.", min=1)] = 12
    optimizer: Annotated[str, Option("adamw or sgd.")] = "adamw"
    learning_rate: Annotated[float, Option("Of the first step.", flags=("--learning-rate", "--lr"))] = 1e-3
    new_layers_rate: Annotated[
        float, Option("Factor on the learning rate of layers without pretrained weights (papers: 10).", min=0)
    ] = 1.0
    power: Annotated[float, Option("Of the polynomial decay.", min=0)] = 0.9
    pretrain_steps: Annotated[int, Option("First steps, on the seeds alone.", min=0)] = 100
    warmup_steps: Annotated[int, Option("Next steps, in which the weight rises.", min=0)] = 100
    network_steps: Annotated[int, Option("Of the network for each batch.", min=1)] = 1
    average: Annotated[float | None, Option("Decay of a moving average of the weights.")] = None
    bfloat16: Annotated[bool, Option("Automatic mixed precision.", flags=("--bfloat16/--float32",))] = False
    seed: Annotated[int, Option("Of weights, order, augmentation.", min=0)] = 1


@option_group
class ReadingOptions:
    """How often the run is looked at and kept."""

    PANEL: ClassVar[str] = RUN
    validate_every: Annotated[int, Option("In steps; 0: at the end only.", min=0)] = 50
    measure_every: Annotated[
        int, Option("Steps between readings of both objectives; 0: at the end only.", min=0)
    ] = 10
    checkpoint_every: Annotated[int, Option("In steps; 0: at the end only.", min=0)] = 50
    workers: Annotated[
        int | None,
        Option("Processes that load batches; they change no result.", min=0, shown="0; up to 4 for a GPU"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ReadingOptions, NetworkOptions, DataOptions, SolveOptions, MethodOptions):
    """A training run, except where its data and its outputs are; None takes what fits the method or the data."""


DEFAULTS = TrainingOptions()


def merged(*layers: Mapping[str, object]) -> TrainingOptions:
    """Options from layers of checked values by name, later ones over earlier ones; lists of ``set`` are joined."""
    options = DEFAULTS
    for layer in layers:
        given = dict(layer)
        more = given.pop("set", None)
        options = replace(options, **given)  # type: ignore[arg-type]
        if isinstance(more, tuple):
            options = replace(options, set=_joined((*options.set, *more)))
    return options


def by_part(entries: Sequence[str], parts: Sequence[str], main: str) -> dict[str, list[str]]:
    """Entries ``PART.KEY=VALUE`` by the part that they set; those that name none of `parts` set `main`."""
    found: dict[str, list[str]] = {name: [] for name in (*parts, main)}
    for entry in entries:
        part, dot, rest = entry.partition(".")
        named = bool(dot) and part in parts
        found[part if named else main].append(rest if named else entry)
    return found


def _joined(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The last value of each key, in order of the keys' first places."""
    found = {entry.partition("=")[0].strip(): entry for entry in entries}
    return tuple(found.values())
