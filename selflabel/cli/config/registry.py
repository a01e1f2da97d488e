"""Turns names into objects: solvers, annotators, affinities, energies. Losses are in `losses`: label does without."""

import enum
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, TypeVar, Union

from selflabel.affinity.builders import (
    AffinityBuilder,
    Contrast,
    Dense,
    EdgeStop,
    Grid,
    SparseNonlocal,
    Window,
)
from selflabel.annotators import ANNOTATORS, Annotator
from selflabel.cli.config.declarations import declared, known
from selflabel.cli.config.label_formats import PROBABILITIES
from selflabel.cli.config.options import (
    AffinityOptions,
    EnergyOptions,
    LabelerOptions,
    SourceOptions,
    by_part,
)
from selflabel.driver import Solver
from selflabel.energy import Energy
from selflabel.files.probabilities import ProbabilityFormat
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.presets import default_labeler
from selflabel.labeling.settings import Soft
from selflabel.numerics.descent.smoothing import Entropic, Euclidean, Smoothing
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.multigrid import Multigrid
from selflabel.numerics.linear.system import LinearSolver
from selflabel.solvers import SOLVERS
from selflabel.terms import COUPLINGS, RELAXATIONS, VARIATIONS

AFFINITIES: dict[str, type[AffinityBuilder]] = {
    "grid": Grid,
    "contrast": Contrast,
    "window": Window,
    "dense": Dense,
    "edge-stop": EdgeStop,
    "sparse-nonlocal": SparseNonlocal,
}
LINEAR_SOLVERS: dict[str, type[LinearSolver]] = {
    "direct": Elimination,
    "conjugate-gradients": ConjugateGradients,
    "multigrid": Multigrid,
}
SMOOTHINGS: dict[str, type[Smoothing]] = {"euclidean": Euclidean, "entropic": Entropic}
PARTS: dict[type, tuple[str, Mapping[str, type]]] = {
    LinearSolver: ("linear solver", LINEAR_SOLVERS),
    Smoothing: ("smoothing", SMOOTHINGS),
}
"""Types of options that are named: what they are, and which there are."""
SOFT = {"none": None, "uint8": Soft.UINT8, "float16": Soft.FLOAT16}
CHANNELS_LAST = {"auto": None, "khw": False, "hwk": True}
LOGITS = {"auto": None, "probabilities": False, "logits": True}
NO_ANNOTATOR = "none"

__all__ = [
    "AFFINITIES",
    "ANNOTATORS",
    "CHANNELS_LAST",
    "LINEAR_SOLVERS",
    "LOGITS",
    "NO_ANNOTATOR",
    "SOFT",
    "SOLVERS",
    "affinity_with",
    "check_terms",
    "configured",
    "default_labeler",
    "energy_with",
    "labeler",
    "name_of",
    "option_defaults",
    "probability_format",
    "settings_of",
    "spelled",
]

T = TypeVar("T")


def labeler(options: LabelerOptions, *, predicted: bool = False) -> Labeler:
    """The solver's default labeler, changed by the options. predicted: predictions are given, no annotator is needed.

    Both are combined if an annotator is named. Raises `ValueError` for unknown names and options, with the known ones.
    """
    base = default_labeler(known("solver", options.solver, SOLVERS)(), predicted=predicted)
    terms = tuple(term.name for term in base.energy.regularizers)
    settings = by_part(options.set, ("annotator", "affinity", *terms), "solver")
    energy, affinities = terms_with(base.energy, base.affinities, settings)
    check_terms(base.solver, settings["solver"])
    solver = configured(base.solver, settings["solver"])
    annotator = _annotator(base.annotator, options.annotator)
    if settings["annotator"] and annotator is None:
        raise ValueError(f"there is no annotator to set {settings['annotator'][0]} of")
    return Labeler(
        solver=solver,
        energy=energy_with(energy, options),
        affinity=configured(affinity_with(base.affinity, options), settings["affinity"]),
        annotator=None if annotator is None else configured(annotator, settings["annotator"]),
        max_steps=base.max_steps if options.max_steps is None else options.max_steps,
        affinities=affinities,
    )


def probability_format(options: SourceOptions) -> ProbabilityFormat:
    """How predictions are read. Raises `ValueError` for unknown names."""
    return ProbabilityFormat(
        known("layout", options.probs_layout, CHANNELS_LAST),
        options.probs_key,
        known("kind of values", options.probs_values, LOGITS),
        PROBABILITIES,
    )


def terms_with(
    energy: Energy, affinities: tuple[AffinityBuilder, ...], settings: Mapping[str, Sequence[str]]
) -> tuple[Energy, tuple[AffinityBuilder, ...]]:
    """Energy and affinities with options of the further terms, by their names; ``affinity.`` is that of the term."""
    terms = energy.regularizers
    parts = [by_part(settings[term.name], ("affinity",), "term") for term in terms]
    for term, part in zip(terms, parts, strict=True):
        if part["affinity"] and not affinities:
            raise ValueError(f"{term.name} has no affinity of its own to set {part['affinity'][0]} of")
    changed = tuple(configured(term, part["term"]) for term, part in zip(terms, parts, strict=True))
    built = tuple(
        configured(affinity, part["affinity"])
        for affinity, part in zip(affinities, parts[: len(affinities)], strict=True)
    )
    return replace(energy, regularizers=changed), built


def check_terms(solver: Solver, settings: Sequence[str]) -> None:
    """Raise `ValueError` for an option of a term that this solver's energy lacks, with the solvers that have it."""
    for setting in settings:
        name, dot, option = setting.partition(".")
        having = [
            other
            for other, kind in SOLVERS.items()
            if name in [term.name for term in kind.default_energy.regularizers]
        ]
        if dot and having:
            raise ValueError(
                f"{solver.name} has no {name} to set {option} of: only --solver {' or '.join(having)} has one"
            )


def configured(instance: T, options: Sequence[str]) -> T:
    """A frozen dataclass with options ``key=value`` set; ``part.key=value`` is an option of a part.

    Raises `ValueError` for unknown keys and for values that do not fit the field's type.
    """
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"expected --set key=value, got {option!r}")
        instance = _with(instance, key.strip().replace("-", "_"), text.strip())
    return instance


def _with(instance: T, key: str, text: str) -> T:
    field_name, dot, rest = key.partition(".")
    there = option_defaults(type(instance))
    if field_name not in there:
        raise ValueError(
            f"{name_of(instance)} has no option {field_name!r}: it has {', '.join(there) or 'none'}"
        )
    if dot:
        part = getattr(instance, field_name)
        if not is_dataclass(part):
            raise ValueError(f"{field_name} of {name_of(instance)} has no options of its own: {rest} is none")
        value: object = _with(part, rest, text)
    else:
        value = _parse(key, text, typing.get_type_hints(type(instance))[field_name])
    return replace(instance, **{field_name: value})  # type: ignore[type-var]


def option_defaults(kind: type) -> dict[str, object]:
    """The fields of a frozen dataclass with their defaults."""
    found: dict[str, object] = {}
    for entry in fields(kind):
        if entry.default is not MISSING:
            found[entry.name] = entry.default
        elif entry.default_factory is not MISSING:
            found[entry.name] = entry.default_factory()
        else:
            found[entry.name] = None
    return found


def settings_of(instance: object, prefix: str = "") -> list[str]:
    """The options of a frozen dataclass and of its parts as ``key=value``, all that `configured` sets."""
    found: list[str] = []
    hints = typing.get_type_hints(type(instance))
    for key in option_defaults(type(instance)):
        value = getattr(instance, key)
        if _is_parsed(spelled(value), hints[key]):
            found.append(f"{prefix}{key}={spelled(value)}")
        if is_dataclass(value):
            found += settings_of(value, f"{prefix}{key}.")
    return found


def _is_parsed(text: str, hint: Any) -> bool:
    try:
        _parse("", text, hint)
    except ValueError:
        return False
    return True


def spelled(value: object) -> str:
    """A default as the command line takes it."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if is_dataclass(value):
        return name_of(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def name_of(value: object) -> str:
    """The name of an annotator, an affinity, a solver or one of its parts; of others, their own or of the class."""
    tables: tuple[Mapping[str, type], ...] = (SOLVERS, ANNOTATORS, AFFINITIES)
    for table in (*tables, *(table for _, table in PARTS.values())):
        for name, kind in table.items():
            if type(value) is kind:
                return name
    return str(getattr(value, "name", type(value).__name__))


def energy_with(base: Energy, options: EnergyOptions) -> Energy:
    """The energy, changed by the options."""
    tables: dict[str, Mapping[str, object]] = {
        "coupling": {one.name: one for one in COUPLINGS},
        "relaxation": {one.name: one for one in (*RELAXATIONS, *VARIATIONS)},
    }
    given = _given(options, EnergyOptions)
    for name in tables.keys() & given:
        given[name] = known(name, given[name], tables[name])
    return replace(base, **given)


def _given(options: object, group: type) -> dict[str, Any]:
    """The options of a group that are not None, by name."""
    values = {name: getattr(options, name) for name in declared(group)}
    return {name: value for name, value in values.items() if value is not None}


def _annotator(base: Annotator | None, name: str | None) -> Annotator | None:
    if name is None:
        return base
    if name == NO_ANNOTATOR:
        return None
    chosen = known("annotator", name, {**ANNOTATORS, NO_ANNOTATOR: None})
    assert chosen is not None
    return base if base is not None and type(base) is chosen else chosen()


def affinity_with(base: AffinityBuilder, options: AffinityOptions) -> AffinityBuilder:
    """The affinity, changed by the options; one of another kind starts from that kind's defaults."""
    builder = base
    if options.affinity is not None:
        chosen = known("affinity", options.affinity, AFFINITIES)
        builder = base if isinstance(base, chosen) else chosen()
    there, given = option_defaults(type(builder)), _given(options, AffinityOptions)
    given.pop("affinity", None)
    for key in given:
        if key not in there:
            flag = "--" + key.replace("_", "-")
            raise ValueError(f"the {name_of(builder)} affinity has no {flag}: it has {', '.join(there)}")
    return replace(builder, **given)  # type: ignore[type-var]


def _parse(key: str, text: str, hint: Any) -> object:
    """A value of the field's type from its text."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in options:
        if kind in PARTS and text != "none":
            what, table = PARTS[kind]
            return known(what, text, table)()
        if kind is type(None) and text.lower() == "none":
            return None
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if isinstance(kind, type) and issubclass(kind, enum.Enum) and text.upper() in kind.__members__:
            return kind[text.upper()]
        if typing.get_origin(kind) is typing.Literal and text in typing.get_args(kind):
            return text
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        if kind is str:
            return text
    names = " or ".join(name for kind in options for name in _values(kind))
    raise ValueError(f"expected {key} as {names}, got {text!r}")


def _values(kind: Any) -> Sequence[str]:
    """What a type takes: its values where they can be listed, else its name."""
    if kind in PARTS:
        return list(PARTS[kind][1])
    if kind is type(None):
        return ["none"]
    if kind is bool:
        return ["true", "false"]
    if typing.get_origin(kind) is typing.Literal:
        return [str(value) for value in typing.get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [name.lower() for name in kind.__members__]
    return [getattr(kind, "__name__", str(kind))]
