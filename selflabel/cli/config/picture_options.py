"""The options of `selflabel inspect`."""

from pathlib import Path
from typing import Annotated, ClassVar

from selflabel.cli.config.declarations import Argument, Option, option_group
from selflabel.cli.config.options import (
    ENERGY,
    AffinityOptions,
    AnnotatorName,
    EnergyOptions,
    PrintingOptions,
    RelaxationName,
    SolveOptions,
    SourceOptions,
)

ImagePath = Annotated[Path, Argument("The image.")]
Out = Annotated[Path, Option("The picture to write: PNG, PDF or SVG, as its suffix says.")]


@option_group
class PredictionOptions(SourceOptions):
    """Where the prediction of an image is from."""

    PANEL: ClassVar[str] = "Files"
    image: ImagePath
    out: Out
    annotator: AnnotatorName = None


@option_group
class GradientOptions(PrintingOptions, AffinityOptions, PredictionOptions):
    """What `selflabel inspect gradient` takes."""

    PANEL: ClassVar[str] = "Losses"
    loss: Annotated[
        tuple[str, ...],
        Option(
            "As in `selflabel train`; once for each column. [default: normalized-cut, dense-crf, kernel-cut]"
        ),
    ] = ()
    relaxation: RelaxationName = None
    set: Annotated[
        tuple[str, ...],
        Option("Option of the loss, as gamma=100; affinity.KEY sets its.", metavar="KEY=VALUE"),
    ] = ()
    by: Annotated[
        str,
        Option("probs: by the prediction, along the simplex. logits: what reaches the network."),
    ] = "probs"
    only: Annotated[str | None, Option("Classes to show, such as 1,3.", shown="all that can win")] = None


@option_group
class KernelOptions(PrintingOptions, AffinityOptions):
    """What `selflabel inspect kernel` takes."""

    PANEL: ClassVar[str] = "Kernels"
    image: ImagePath
    out: Out
    at: Annotated[
        tuple[str, ...],
        Option("A pixel, from 0 at the upper left. Once for each row.", metavar="ROW,COLUMN"),
    ] = ()
    set: Annotated[tuple[str, ...], Option("affinity.KEY sets its.", metavar="KEY=VALUE")] = ()


@option_group
class SoftLabelsOptions(PrintingOptions, SolveOptions, PredictionOptions):
    """What `selflabel inspect soft-labels` takes."""

    PANEL: ClassVar[str] = ENERGY
    set: Annotated[
        tuple[str, ...],
        Option("Option of gradient descent; annotator.KEY and affinity.KEY set theirs.", metavar="KEY=VALUE"),
    ] = ()


@option_group
class NeighborhoodOptions(PrintingOptions, EnergyOptions, PredictionOptions):
    """What `selflabel inspect neighborhoods` takes."""

    PANEL: ClassVar[str] = ENERGY
    dense_weight: Annotated[float | None, Option("λ of the dense pairs.", min=0)] = None
    set: Annotated[
        tuple[str, ...],
        Option(
            "Option of gradient descent; nearest.KEY and dense.KEY set the affinities'.", metavar="KEY=VALUE"
        ),
    ] = ()
    max_steps: Annotated[int | None, Option("Limit of steps of a solve.", min=1)] = None


@option_group
class ContourOptions(PrintingOptions):
    """What `selflabel inspect contours` takes."""

    terms: Annotated[str, Argument("relaxations (Potts) or couplings (cross-entropies).")]
    out: Out
