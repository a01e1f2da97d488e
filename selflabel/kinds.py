"""Kinds of values: what is no number, no switch or no solver is refused by its name where it is given.

Settings are frozen dataclasses, and their annotations say what they take: `check_fields` holds them to it, in one line
a class. This module knows no array library, so that all rooms may use it.
"""

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

EXAMPLES = {
    "AffinityBuilder": "Grid() or Dense()",
    "Annotator": "ForestAnnotator() of selflabel.annotators",
    "Coupling": "COLLISION of selflabel.terms",
    "Energy": "Energy() or a solver's default_energy",
    "LabelStore": "MemoryStore()",
    "Labeler": "default_labeler(GraphCut()) of selflabel.labeling.presets",
    "LinearSolver": "Elimination()",
    "Loss": "PottsLoss()",
    "Objective": "SeedsOnly()",
    "OptimizerFactory": "AdamW()",
    "Relaxation": "BILINEAR of selflabel.terms",
    "SelfLabeling": "default_objective(GraphCut())",
    "Solver": "GraphCut()",
    "Starter": "InitialLabels()",
}
"""What to give where a class without a value of its own is expected, by its name."""

WORDS: Mapping[object, str] = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
}
"""Kinds in plain words."""

LONGEST = 60
"""Characters of a wrong value that an error shows."""


def check_kind(value: Any, kind: Any, name: str, remedy: str) -> None:
    """Raise `ValueError` unless the value is of the kind; a class or a name in its place is no value."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise ValueError(f"expected {name}, got {_typed(value)}: {remedy}")


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Raise `ValueError` unless the value is a whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"expected {name} as a whole number >= {least}, got {_shown(value)}")


def check_least(value: Any, name: str, least: float = 0) -> None:
    """Raise `ValueError` unless the value is a finite number from `least` on."""
    check_number(value, name)
    if not (isfinite(value) and value >= least):
        raise ValueError(f"expected a finite {name} >= {least:g}, got {value}")


def check_number(value: Any, name: str) -> None:
    """Raise `ValueError` unless the value is a number, or a tensor of one, so that it can be compared with others."""
    if not _is_number(value):
        raise ValueError(f"expected {name} as a number, got {_shown(value)}{_remedy(value, float)}")


def check_fields(settings: Any) -> None:
    """Raise `ValueError` unless each field of a dataclass is of the kind that its annotation says.

    What means the same is made the same: lists and arrays become tuples, texts paths, numbers of NumPy or in tensors
    those of Python, so that settings compare and are described alike. Ranges are the classes' own to check.
    """
    cls: Any = type(settings)
    for name, kind in _fields(cls):
        given = getattr(settings, name)
        value = checked(given, kind, name)
        if value is not given:
            object.__setattr__(settings, name, value)


def check_arguments(function: Callable[..., Any], given: Mapping[str, object]) -> None:
    """Raise `ValueError` unless each of these arguments is of the kind that the function's annotation says."""
    kinds = get_type_hints(function)
    for name, value in given.items():
        checked(value, kinds[name], name)


def checked(value: Any, kind: Any, name: str) -> Any:
    """The value, or what means the same in the kind of an annotation. Raises `ValueError` for other kinds."""
    found = _converted(value, kind)
    if found is _WRONG:
        raise ValueError(f"expected {name} as {_phrase(kind)}, got {_shown(value)}{_remedy(value, kind)}")
    return found


_WRONG = object()
"""In place of a value of another kind."""


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    """The names that a dataclass is made with, and their kinds."""
    kinds = get_type_hints(cls)
    return tuple((each.name, kinds[each.name]) for each in dataclasses.fields(cls) if each.init)


def _converted(value: Any, kind: Any) -> Any:
    """The value in the kind; `_WRONG` for one of another kind."""
    return _converter(kind)(value)


@cache
def _converter(kind: Any) -> Callable[[Any], Any]:
    """Kept for each kind: losses check their arguments in every step. `int | float` and `float | int` are one kind."""
    if kind is Any or kind is object:
        return lambda value: value
    if _is_union(kind):
        each = tuple(map(_converter, get_args(kind)))
        return lambda value: next(
            (found for convert in each if (found := convert(value)) is not _WRONG), _WRONG
        )
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin = get_origin(kind) or kind
    if origin is Callable:
        return lambda value: value if callable(value) else _WRONG
    convert = (
        partial(_sequence, kinds=get_args(kind))
        if origin in (tuple, Sequence)
        else partial(_instance, kind=origin)
    )

    def converted(value: Any) -> Any:
        is_other = isinstance(value, type) or (isinstance(value, str) and origin is Sequence)
        return _WRONG if is_other else convert(value)

    return converted


def _instance(value: Any, kind: Any) -> Any:
    return value if isinstance(value, kind) else _WRONG


def _number(value: Any) -> Any:
    if not _is_number(value):
        return _WRONG
    return value if type(value) in (int, float) else float(value)


def _whole_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return _WRONG
    return int(value)


def _switch(value: Any) -> Any:
    is_numpy = str(getattr(value, "dtype", "")) == "bool" and getattr(value, "shape", None) == ()
    return value if isinstance(value, bool) else bool(value) if is_numpy else _WRONG


def _path(value: Any) -> Any:
    return value if isinstance(value, Path) else Path(value) if isinstance(value, str) and value else _WRONG


_PLAIN: Mapping[object, Callable[[Any], Any]] = {
    float: _number,
    int: _whole_number,
    bool: _switch,
    str: lambda value: value if isinstance(value, str) else _WRONG,
    Path: _path,
    type(None): lambda value: None if value is None else _WRONG,
}


def _sequence(value: Any, kinds: tuple[Any, ...]) -> Any:
    """A tuple, list or array as a tuple with each member in its kind."""
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, tuple | list):
        return _WRONG
    each = kinds[:1] * len(values) if _is_open(kinds) else kinds
    if len(each) != len(values):
        return _WRONG
    found = tuple(_converter(kind)(one) for one, kind in zip(values, each, strict=True))
    if any(one is _WRONG for one in found):
        return _WRONG
    is_same = isinstance(value, tuple) and all(a is b for a, b in zip(found, value, strict=True))
    return value if is_same else found


def _is_open(kinds: tuple[Any, ...]) -> bool:
    """Of any length: ``tuple[float, ...]``, ``Sequence[float]``."""
    return len(kinds) == 1 or kinds[1:] == (...,)


def _is_number(value: Any) -> bool:
    if isinstance(value, Real):
        return not isinstance(value, bool)
    return hasattr(value, "numel") and hasattr(value, "item") and value.numel() == 1


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _phrase(kind: Any, many: bool = False) -> str:
    """A kind in plain words."""
    if _is_union(kind):
        return " or ".join(_phrase(each, many) for each in get_args(kind))
    if kind in WORDS:
        return WORDS[kind].removeprefix("a ") + "s" if many and WORDS[kind].startswith("a ") else WORDS[kind]
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (tuple, Sequence) and kinds:
        count = "" if _is_open(kinds) else f"{len(kinds)} "
        return f"{'tuples' if many else 'a tuple'} of {count}{_phrase(kinds[0], many=True)}"
    if hasattr(kind, "dim_str"):  # of jaxtyping
        return f"{'tensors' if many else 'a tensor'} of numbers [{kind.dim_str}]"
    name = getattr(origin or kind, "__name__", str(kind))
    if name == "Callable":
        return "functions" if many else "a function"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " or ".join(map(str, kind))
    example = EXAMPLES.get(name, f"{name}()" if _has_defaults(kind) else "")
    return (f"{name}s" if many else article(name)) + f" such as {example}" * bool(example)


def _has_defaults(kind: Any) -> bool:
    """Can it be made without an argument?"""
    missing = dataclasses.MISSING
    return dataclasses.is_dataclass(kind) and all(
        not each.init or each.default is not missing or each.default_factory is not missing
        for each in dataclasses.fields(kind)
    )


def _shown(value: Any) -> str:
    """A wrong value in an error: itself if it is short, else its type."""
    if value is None or isinstance(value, str | bool | int | float | tuple | list):
        text = repr(value)
        if len(text) <= LONGEST:
            return text
    return _typed(value)


def _typed(value: Any) -> str:
    """A wrong value in an error by its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shown = f" {value!r}" if isinstance(value, str) and len(value) <= LONGEST else ""
    return f"{article(type(value).__name__)}{shown}"


def _remedy(value: Any, kind: Any) -> str:
    """The way to the kind, where it is plain."""
    wanted = get_args(kind) if _is_union(kind) else (kind,)
    if isinstance(value, type):
        return f": make one, {value.__name__}(…)"
    if isinstance(value, str) and (int in wanted or float in wanted):
        with_number = "int" if float not in wanted else "float"
        return f": pass {with_number}({value!r})" if _reads_as_number(value) else ""
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def article(name: str) -> str:
    """A name with its article: "a str", "an int"."""
    return f"{'an' if name[:1].lower() in tuple('aeio') else 'a'} {name}"
