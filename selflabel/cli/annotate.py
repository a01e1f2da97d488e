"""`selflabel annotate`: the labels of an annotator model, by `selflabel label`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from selflabel.cli.config.declarations import Option, declared, known, option_group
from selflabel.cli.config.options import PrintingOptions, by_part
from selflabel.cli.label import FileOptions, LabelOptions, OutputOptions, RunOptions, label

FOREST = "filter-forest"


@dataclass(frozen=True)
class Model:
    """A model's prediction. needs: files that it is made of. weight: λ of its total variation."""

    annotator: str | None
    needs: tuple[str, ...]
    weight: float


MODELS: Mapping[str, Model] = {
    "local": Model(FOREST, ("seeds",), 20.0),
    "global": Model(None, ("probs",), 100.0),
    "combined": Model(FOREST, ("seeds", "probs"), 20.0),
}
"""λ as published (Mayer et al., Sec. 5.3: 10, 50, 10), doubled: there a boundary counts for each of its two classes."""

REGULARIZERS: Mapping[str, Mapping[str, Any]] = {
    "none": {"solver": "mean-field", "affinity": "grid", "pairwise_weight": 0.0},
    "total-variation": {
        "solver": "total-variation",
        "relaxation": "isotropic-total-variation",
        "affinity": "edge-stop",
        "max_steps": 200,
    },
    "dense-crf": {
        "solver": "mean-field",
        "affinity": "dense",
        "sigma": 5.0,
        "sigma_xy": 30.0,
        "set": (
            "affinity.smoothness=1.6666666666666667",
            "affinity.smoothness-xy=2",
            "affinity.symmetric=true",
        ),
        "pairwise_weight": 1.5,
    },
}
"""Options of `selflabel label`. Mean field without pairs leaves the prediction as it is. The dense CRF has the kernels
`POST_PROCESSING`: 3 (30 pixels, color 5) and 5 (2 pixels), Mayer et al., Sec. 5.4; a dense energy counts pairs twice,
so λ is the half of 3."""


@option_group
class ModelOptions:
    """Which labels are made."""

    PANEL: ClassVar[str] = "Model"
    model: Annotated[
        str,
        Option(
            "local: a random forest on each image's seeds. global: a network's --probs. combined: their mean."
        ),
    ] = "combined"
    regularizer: Annotated[str, Option("none, total-variation or dense-crf.")] = "dense-crf"
    pairwise_weight: Annotated[
        float | None, Option("λ of the regularizer.", min=0, shown="published; see docs/labeling.md")
    ] = None
    set: Annotated[
        tuple[str, ...],
        Option("Option of the solver; annotator.KEY and affinity.KEY set theirs.", metavar="KEY=VALUE"),
    ] = ()


@option_group
class AnnotateOptions(PrintingOptions, RunOptions, OutputOptions, ModelOptions, FileOptions):
    """What `selflabel annotate` takes."""


def annotate(options: AnnotateOptions) -> None:
    """Label images by a predictive annotator model (Mayer et al.), to train a network on the labels.

    Three models, each raw or regularized, give nine folders of labels: `--model` local, global or combined,
    `--regularizer` none, total-variation or dense-crf. Predictions for `--probs` are those of a network that was
    trained on the scribbles: `selflabel train --method pce`, then `selflabel predict`.

    It is `selflabel label` with the papers' settings: the same files, manifest and exit codes. The local model needs
    the extra `pretrained`.
    """
    from selflabel.cli import screen

    try:
        asked = preset(options)
    except ValueError as error:
        raise screen.stop(str(error)) from error
    label(asked)


def preset(options: AnnotateOptions) -> LabelOptions:
    """The options of `selflabel label`.

    Raises `ValueError` for unknown names, and for files that do not fit the model.
    """
    model = known("model", options.model, MODELS)
    changes: dict[str, Any] = dict(known("regularizer", options.regularizer, REGULARIZERS))
    for name in model.needs:
        if getattr(options, name) is None:
            raise ValueError(
                f"--model {options.model} needs --{name}: {_WHERE[name]}, or take another --model"
            )
    if "probs" not in model.needs and options.probs is not None:
        raise ValueError(
            f"--model {options.model} does not look at --probs: leave it out, or take --model combined"
        )
    if options.regularizer == "none" and options.pairwise_weight is not None:
        raise ValueError("--regularizer none has no --pairwise-weight: leave it out, or take another one")
    without_effect = by_part(options.set, ("annotator",), "solver")["solver"]
    if options.regularizer == "none" and without_effect:
        raise ValueError(
            f"--regularizer none solves nothing: leave out --set {without_effect[0]}, or take another one"
        )
    if options.regularizer == "total-variation":
        changes["pairwise_weight"] = model.weight
    if options.pairwise_weight is not None:
        changes["pairwise_weight"] = options.pairwise_weight
    changes["set"] = (*changes.get("set", ()), *options.set)
    shared = declared(AnnotateOptions).keys() & declared(LabelOptions).keys() - changes.keys()
    same: dict[str, Any] = {name: getattr(options, name) for name in shared - {"pairwise_weight"}}
    energy: dict[str, Any] = {"coupling": "standard", "coupling_weight": 1.0}
    return LabelOptions(annotator=model.annotator, **same, **energy, **changes)


_WHERE = {
    "seeds": "the folder of scribbles",
    "probs": "a network's predictions, from `selflabel predict`",
}
