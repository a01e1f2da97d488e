"""Losses, affinities and labelers of `selflabel inspect`, made from its options."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selflabel.affinity.builders import AffinityBuilder
from selflabel.cli.config import recipes, registry
from selflabel.cli.config.declarations import declared, known
from selflabel.cli.config.losses import LOSSES
from selflabel.cli.config.options import (
    DEFAULTS,
    AffinityOptions,
    EnergyOptions,
    LabelerOptions,
    SolveOptions,
    by_part,
)
from selflabel.cli.config.picture_options import (
    GradientOptions,
    KernelOptions,
    NeighborhoodOptions,
    PredictionOptions,
    SoftLabelsOptions,
)
from selflabel.labeling.labeler import Labeler
from selflabel.solvers import MeanField
from selflabel.training.objectives import Regularized, WeightedLoss

PICTURED_LOSSES = ("normalized-cut", "dense-crf", "kernel-cut")
PICTURED_AFFINITIES = ("grid", "window", "dense", "sparse-nonlocal")


def column(options: GradientOptions, text: str) -> Sequence[WeightedLoss]:
    """The losses of a column. Raises `ValueError` as `train` does."""
    given = {name: getattr(options, name) for name in (*declared(AffinityOptions), "relaxation", "set")}
    given = {name: value for name, value in given.items() if value not in (None, ())}
    losses = options.loss or PICTURED_LOSSES
    if len(losses) > 1:  # each takes what it has, if any has it
        used = set[str]().union(*(recipes.fitting(given, "gd", each) for each in losses))
        own = recipes.fitting(given, "gd", text)
        given = {name: value for name, value in given.items() if name in own or name not in used}
        given["set"] = tuple(
            entry
            for entry in options.set
            if _is_of(entry, text) or not any(_is_of(entry, each) for each in losses)
        )
    found = recipes.objective(replace(DEFAULTS, method="gd", loss=text, **given))
    assert isinstance(found, Regularized), "the method is gd"
    return found.parts


def builders(options: KernelOptions) -> list[AffinityBuilder]:
    """The affinities to draw. Raises `ValueError` for options that none of them has."""
    entries = by_part(options.set, ("affinity",), "other")
    if entries["other"]:
        raise ValueError(f"expected --set affinity.KEY=VALUE, got {entries['other'][0]!r}")
    names = PICTURED_AFFINITIES if options.affinity is None else (options.affinity,)
    kinds = {name: known("affinity", name, registry.AFFINITIES) for name in names}
    fields = {name: registry.option_defaults(kind) for name, kind in kinds.items()}
    found = []
    for name, kind in kinds.items():
        own, settings = options, entries["affinity"]
        if len(kinds) > 1:  # each takes what it has, if any has it
            lacking: dict[str, Any] = dict.fromkeys(declared(AffinityOptions).keys() - fields[name].keys())
            own = replace(options, **lacking)
            settings = [
                text
                for text in settings
                if _has(text, fields[name]) or not any(_has(text, each) for each in fields.values())
            ]
        found.append(registry.configured(registry.affinity_with(kind(), own), settings))
    return found


def _is_of(setting: str, losses: str) -> bool:
    """Whether one of the losses joined by "+" has what is set."""
    names = [entry.partition("=")[0].strip() for entry in losses.split("+")]
    kinds = [known("loss", name, LOSSES) for name in names]
    part, dot, _ = setting.partition(".")
    if dot and part == "affinity":
        return any(kind.affinity is not None for kind in kinds)
    return any(_has(setting, registry.option_defaults(kind)) for kind in kinds)


def _has(setting: str, fields: Mapping[str, object]) -> bool:
    return setting.partition("=")[0].strip().replace("-", "_") in fields


def annotating(options: PredictionOptions) -> Labeler:
    """A labeler for its annotator."""
    return registry.labeler(LabelerOptions(annotator=options.annotator), predicted=options.probs is not None)


def descent(options: SoftLabelsOptions) -> Labeler:
    """Gradient descent as preset, changed by the options."""
    given = {name: getattr(options, name) for name in (*declared(SolveOptions), "annotator", "set")}
    return registry.labeler(
        LabelerOptions(solver="gradient-descent", **given), predicted=options.probs is not None
    )


def neighborhoods(options: NeighborhoodOptions) -> dict[str, Labeler]:
    """Gradient descent on nearest neighbors as preset, and on the dense pairs of mean field."""
    entries = by_part(options.set, ("nearest", "dense", "annotator"), "solver")
    own = [*entries["solver"], *(f"annotator.{entry}" for entry in entries["annotator"])]
    given = {name: getattr(options, name) for name in (*declared(EnergyOptions), "annotator", "max_steps")}
    given["relaxation"] = options.relaxation or "quadratic"
    predicted = options.probs is not None
    nearest = registry.labeler(
        LabelerOptions(solver="gradient-descent", set=tuple(own), **given), predicted=predicted
    )
    field = registry.default_labeler(MeanField(), predicted=predicted)
    weight = field.energy.pairwise_weight if options.dense_weight is None else options.dense_weight
    return {
        "nearest neighbors": replace(
            nearest, affinity=registry.configured(nearest.affinity, entries["nearest"])
        ),
        "dense pairs": replace(
            nearest,
            affinity=registry.configured(field.affinity, entries["dense"]),
            energy=replace(nearest.energy, pairwise_weight=weight),
        ),
    }
