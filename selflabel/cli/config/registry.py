"""The only place where names become objects; those of training runs do in `recipes`."""

import difflib
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, Union

from selflabel.affinity.builders import AffinityBuilder, Contrast, Dense, Grid, Window
from selflabel.annotators import ANNOTATORS, Annotator
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.presets import default_labeler
from selflabel.labeling.settings import Soft
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.system import LinearSolver
from selflabel.problem import Energy
from selflabel.solvers import SOLVERS
from selflabel.terms import COUPLINGS, RELAXATIONS

AFFINITIES: dict[str, type[AffinityBuilder]] = {
    "grid": Grid,
    "contrast": Contrast,
    "window": Window,
    "dense": Dense,
}
LINEAR_SOLVERS: dict[str, type[LinearSolver]] = {
    "direct": Elimination,
    "conjugate-gradients": ConjugateGradients,
}
SOFT = {"none": None, "uint8": Soft.UINT8, "float16": Soft.FLOAT16}
CHANNELS_LAST = {"khw": False, "hwk": True}
NO_ANNOTATOR = "none"

__all__ = [
    "AFFINITIES",
    "ANNOTATORS",
    "CHANNELS_LAST",
    "LINEAR_SOLVERS",
    "NO_ANNOTATOR",
    "SOFT",
    "SOLVERS",
    "Choices",
    "affinity_with",
    "configured",
    "default_labeler",
    "energy_with",
    "engine",
    "known",
    "name_of",
    "option_defaults",
    "spelled",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Choices:
    """What the command line says about how to label; None where it says nothing."""

    solver: str
    options: Sequence[str] = ()
    annotator: str | None = None
    coupling: str | None = None
    relaxation: str | None = None
    coupling_weight: float | None = None
    pairwise_weight: float | None = None
    entropy_weight: float | None = None
    affinity: str | None = None
    affinity_options: Mapping[str, float | int | None] = field(default_factory=dict)
    max_steps: int | None = None
    has_probs: bool = False


def engine(choices: Choices) -> Labeler:
    """The solver's default engine with what was chosen put in its place.

    Raises `ValueError` for unknown names and options, with the known ones.
    """
    options = {"annotator": [], "affinity": [], "": []}  # type: dict[str, list[str]]
    for option in choices.options:
        part, dot, rest = option.partition(".")
        whose = part if dot and part in options else ""
        options[whose].append(rest if whose else option)
    solver = configured(known("solver", choices.solver, SOLVERS)(), options[""])
    base = default_labeler(solver)
    if choices.has_probs and choices.annotator not in (None, NO_ANNOTATOR):
        raise ValueError("--probs and --annotator both give a prediction: leave one of them out")
    annotator = None if choices.has_probs else _annotator(base.annotator, choices.annotator)
    if options["annotator"] and annotator is None:
        raise ValueError(f"there is no annotator to set {options['annotator'][0]} of")
    return Labeler(
        solver=solver,
        energy=energy_with(base.energy, choices),
        affinity=configured(affinity_with(base.affinity, choices), options["affinity"]),
        annotator=None if annotator is None else configured(annotator, options["annotator"]),
        max_steps=base.max_steps if choices.max_steps is None else choices.max_steps,
    )


def known(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of a table. Raises `ValueError` with the names that there are, and the nearest."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"there is no {kind} {name!r}{hint}: there are {', '.join(table)}")


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


def spelled(value: object) -> str:
    """A default as the command line takes it."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if is_dataclass(value):
        return name_of(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def name_of(value: object) -> str:
    """What the command line calls an annotator, an affinity, a solver or a linear solver."""
    tables: tuple[Mapping[str, type], ...] = (SOLVERS, ANNOTATORS, AFFINITIES, LINEAR_SOLVERS)
    for table in tables:
        for name, kind in table.items():
            if type(value) is kind:
                return name
    return type(value).__name__


def energy_with(base: Energy, choices: Choices) -> Energy:
    """The energy with what was chosen put in its place."""
    couplings = {coupling.name: coupling for coupling in COUPLINGS}
    relaxations = {relaxation.name: relaxation for relaxation in RELAXATIONS}
    energy = base
    if choices.coupling is not None:
        energy = replace(energy, coupling=known("coupling", choices.coupling, couplings))
    if choices.relaxation is not None:
        energy = replace(energy, relaxation=known("relaxation", choices.relaxation, relaxations))
    if choices.coupling_weight is not None:
        energy = replace(energy, coupling_weight=choices.coupling_weight)
    if choices.pairwise_weight is not None:
        energy = replace(energy, pairwise_weight=choices.pairwise_weight)
    if choices.entropy_weight is not None:
        energy = replace(energy, entropy_weight=choices.entropy_weight)
    return energy


def _annotator(base: Annotator | None, name: str | None) -> Annotator | None:
    if name is None:
        return base
    if name == NO_ANNOTATOR:
        return None
    chosen = known("annotator", name, {**ANNOTATORS, NO_ANNOTATOR: None})
    assert chosen is not None
    return base if base is not None and type(base) is chosen else chosen()


def affinity_with(base: AffinityBuilder, choices: Choices) -> AffinityBuilder:
    """The affinity with what was chosen put in its place; one of another kind with that kind's defaults."""
    builder = base
    if choices.affinity is not None:
        chosen = known("affinity", choices.affinity, AFFINITIES)
        builder = base if isinstance(base, chosen) else chosen()
    given = {key: value for key, value in choices.affinity_options.items() if value is not None}
    there = option_defaults(type(builder))
    for key in given:
        if key not in there:
            flag = "--" + key.replace("_", "-")
            raise ValueError(f"the {name_of(builder)} affinity has no {flag}: it has {', '.join(there)}")
    return replace(builder, **given)  # type: ignore[type-var]


def _parse(key: str, text: str, hint: Any) -> object:
    """A value of the field's type from its text."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in options:
        if kind is LinearSolver and text != "none":
            return known("linear solver", text, LINEAR_SOLVERS)()
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
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in options)
    raise ValueError(f"expected {key} as {names}, got {text!r}")
