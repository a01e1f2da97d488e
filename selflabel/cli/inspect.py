"""`selflabel inspect`: pictures that explain what losses, kernels and relaxations do."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from selflabel.cli.config.declarations import known
from selflabel.cli.config.picture_options import (
    ContourOptions,
    GradientOptions,
    KernelOptions,
    NeighborhoodOptions,
    SoftLabelsOptions,
)
from selflabel.cli.flags import command

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32
    from torch import Tensor

    from selflabel.cli.scenes import Inspected
    from selflabel.labeling.labeler import Labeler
    from selflabel.losses.gradients import LossOfLogits
    from selflabel.training.objectives import WeightedLoss

PIXELS = (0.25, 0.5, 0.75)
"""Where pixels are chosen that nobody chose: on the diagonal."""
DRAWN = 201
"""Values of each number of a pair for contours."""


def gradient(options: GradientOptions) -> None:
    """Draw the gradient of losses at a prediction: a row a class, a column a loss.

    Red is negative: training raises the class there. The prediction is that of --probs, or is learned from the
    scribbles (--seeds).
    """
    from selflabel.cli.scenes import inspected, pictured

    with pictured(options.out):
        from selflabel.cli.config import pictures
        from selflabel.losses.gradients import gradient_by_logits, gradient_by_probs
        from selflabel.reports.inspect import draw_gradients

        by = known("gradient", options.by, {"probs": gradient_by_probs, "logits": gradient_by_logits})
        losses = {text: pictures.column(options, text) for text in options.loss or pictures.PICTURED_LOSSES}
        found = inspected(options, pictures.annotating(options))
        shown = _chosen(options.only, found)
        gradients = {}
        for text, parts in losses.items():
            gradients[text] = by(_bound(parts, found), found.probs)[0].numpy()
        draw_gradients(found.scene, gradients, options.out, shown=shown)


def kernel(options: KernelOptions) -> None:
    """Draw the weights between chosen pixels and all others: a row a pixel, a column an affinity.

    Without --affinity: grid, window, dense and sparse-nonlocal, as losses take them; --sigma and the like then set
    those that have them.
    """
    from selflabel.cli.scenes import image_alone, pictured

    with pictured(options.out):
        from selflabel.affinity.rows import rows
        from selflabel.cli.config import pictures
        from selflabel.cli.config.registry import name_of
        from selflabel.reports.inspect import draw_kernels

        builders = pictures.builders(options)
        image = image_alone(options.image)
        height, width = image.shape[2:]
        diagonal = [(int(share * height), int(share * width)) for share in PIXELS]
        pixels = [_pixel(text) for text in options.at] or diagonal
        kernels = {name_of(build): rows(build(image), pixels)[0].numpy() for build in builders}
        draw_kernels(image.unit[0].movedim(0, -1).numpy(), pixels, kernels, options.out)


def soft_labels(options: SoftLabelsOptions) -> None:
    """Draw the soft labels that gradient descent finds with each of the six relaxations, colors mixed by class.

    All from the same prediction, seeds and weights. --relaxation draws one alone.
    """
    from selflabel.cli.scenes import inspected, pictured

    with pictured(options.out):
        from dataclasses import replace

        from selflabel.cli.config import pictures
        from selflabel.reports.inspect import draw_soft_labels
        from selflabel.terms import RELAXATIONS

        base = pictures.descent(options)
        relaxations = RELAXATIONS if options.relaxation is None else (base.energy.relaxation,)
        labelers = {
            each.name: replace(base, energy=replace(base.energy, relaxation=each)) for each in relaxations
        }
        for labeler in labelers.values():
            labeler.check()
        found = inspected(options, base)
        draw_soft_labels(found.scene, _solved(labelers, found), options.out)


def neighborhoods(options: NeighborhoodOptions) -> None:
    """Draw the soft labels of nearest neighbors beside those of dense pairs, of the same prediction.

    Both by gradient descent on a quadratic relaxation (or --relaxation bilinear). --pairwise-weight is λ of the nearest
    neighbors, --dense-weight that of dense pairs.
    """
    from selflabel.cli.scenes import inspected, pictured

    with pictured(options.out):
        from selflabel.cli.config import pictures
        from selflabel.reports.inspect import draw_soft_labels

        labelers = pictures.neighborhoods(options)
        for labeler in labelers.values():
            labeler.check()
        found = inspected(options, labelers["nearest neighbors"])
        draw_soft_labels(found.scene, _solved(labelers, found), options.out)


def contours(options: ContourOptions) -> None:
    """Draw iso-contours of all relaxations, or of all couplings, over pairs of distributions of two classes."""
    from selflabel.cli.scenes import pictured

    with pictured(options.out):
        import torch

        from selflabel.reports.contours import draw_contours
        from selflabel.terms import COUPLINGS, RELAXATIONS
        from selflabel.terms.binary import coupling_surface, relaxation_surface

        values = torch.linspace(0, 1, DRAWN, dtype=torch.float64)
        names = known(
            "kind of terms",
            options.terms,
            {"relaxations": ("$x_i$", "$x_j$"), "couplings": ("label $y$", "prediction $σ$")},
        )
        if options.terms == "relaxations":
            surfaces = {each.name: relaxation_surface(each, values).numpy() for each in RELAXATIONS}
        else:
            surfaces = {each.name: coupling_surface(each, values).numpy() for each in COUPLINGS}
        draw_contours(surfaces, *names, options.out)


def _bound(parts: "Sequence[WeightedLoss]", found: "Inspected") -> "LossOfLogits":
    """The weighted losses of an image as a function of logits."""

    def loss(logits: "Tensor") -> "Tensor":
        values = [part.weight * part.loss(logits, found.image.unit, found.seeds) for part in parts]
        return sum(values[1:], values[0])

    return loss


def _chosen(only: str | None, found: "Inspected") -> list[int]:
    """Places of the classes to show."""
    there = found.scene.classes.tolist()
    if only is None:
        return list(range(len(there)))
    chosen = [part.strip() for part in only.split(",")]
    for part in chosen:
        if not part.isdecimal() or int(part) not in there:
            raise ValueError(f"expected --only classes of {', '.join(map(str, there))}, got {part!r}")
    return [there.index(int(part)) for part in chosen]


def _pixel(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"expected --at ROW,COLUMN as whole numbers from 0, such as 120,80, got {text!r}")
    return int(parts[0]), int(parts[1])


def _solved(
    labelers: "Mapping[str, Labeler]", found: "Inspected"
) -> "dict[str, Float32[np.ndarray, 'k h w']]":
    """The soft labels of each labeler, with a bar that shows how many there are."""
    from selflabel.cli import screen

    solved = {}
    with screen.progress() as bar:
        task = bar.add_task("labeling", total=len(labelers))
        for name, labeler in labelers.items():
            solved[name] = labeler.label_predicted(found.image, found.seeds, found.probs).labels[0].numpy()
            bar.advance(task)
    return solved


inspect = typer.Typer(
    no_args_is_help=True,
    help="Draw pictures that explain losses, kernels and relaxations, of an image of yours.",
)
for _body in (gradient, kernel, soft_labels, neighborhoods, contours):
    inspect.command(_body.__name__.replace("_", "-"))(command(_body))
