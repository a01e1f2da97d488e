"""Options are declared once: fields of frozen dataclasses, annotated with `Option`.

Flags (`selflabel.cli.flags`), files of options (`toml`) and the checks of both are made from these declarations.
"""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar, Union, dataclass_transform

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """How a field is given on the command line and what it may be.

    help: a line for people. flags: other than ``--name``. min, max: the bounds, themselves allowed. shown: in words,
    what None takes.
    """

    help: str
    flags: tuple[str, ...] = ()
    min: int | float | None = None
    max: int | float | None = None
    shown: str | None = None
    metavar: str | None = None


@dataclass(frozen=True)
class Argument(Option):
    """An option given by its place, without a flag."""


@dataclass(frozen=True)
class Declared:
    """A field with what its annotation says. default: `dataclasses.MISSING` if it must be given."""

    name: str
    kind: Any
    default: object
    option: Option
    panel: str | None


@dataclass_transform(frozen_default=True, kw_only_default=True)
def option_group(kind: type[T]) -> type[T]:
    """Make a class of options a frozen dataclass, given by keywords.

    Without comparison and text, which take time to generate: the help would wait for them.
    """
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(kind)


@cache
def declared(kind: type) -> Mapping[str, Declared]:
    """The options of a dataclass by name, in order. Each is in the ``PANEL`` of the class that declares it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    panels = {
        name: vars(base).get("PANEL")
        for base in reversed(kind.__mro__)
        for name in inspect.get_annotations(base)
    }
    found = {}
    for entry in fields(kind):
        hint = hints[entry.name]
        for option in getattr(hint, "__metadata__", ()):
            if isinstance(option, Option):
                plain = typing.get_args(hint)[0]
                found[entry.name] = Declared(entry.name, plain, entry.default, option, panels[entry.name])
    return found


def known(what: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of a table. Raises `ValueError` with the names that there are, and the nearest."""
    if name in table:
        return table[name]
    import difflib  # not for the help

    near = difflib.get_close_matches(name, table, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"there is no {what} {name!r}{hint}: there are {', '.join(table)}")


def checked(values: Mapping[str, object], kind: type) -> dict[str, object]:
    """Values by name, `-` and `_` alike, each of its option's type: whole numbers become floats, lists tuples.

    Raises `ValueError` for names that are no options of `kind`, for values of another type and those out of bounds.
    """
    options = declared(kind)
    found = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        found[name] = _checked(known("option", name, options), value)
    return found


def parsed(name: str, text: str, kind: type) -> object:
    """The value of an option from its text, as in ``key=value``; "none" for an option that may be None.

    Raises `ValueError` as `checked` does.
    """
    import json  # not for the help

    one = known("option", name, declared(kind))
    kinds = _kinds(one.kind)
    if text.lower() == "none" and type(None) in kinds:
        return None
    if str in kinds:
        return text
    try:
        value = json.loads(text.lower())
    except ValueError:
        value = text
    return _checked(one, value)


def _checked(one: Declared, value: object) -> object:
    found, option = _typed(one, value), one.option
    if isinstance(found, int | float):
        if found != found:
            raise ValueError(f"expected {one.name} as a number, got nan")
        if option.min is not None and not found >= option.min:
            raise ValueError(f"expected {one.name} >= {option.min:g}, got {found}")
        if option.max is not None and not found <= option.max:
            raise ValueError(f"expected {one.name} <= {option.max:g}, got {found}")
    return found


def _typed(one: Declared, value: object) -> object:
    for kind in _kinds(one.kind):
        if typing.get_origin(kind) is tuple:
            if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                return tuple(value)
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    wanted = " or ".join(_words(one.kind))
    raise ValueError(f"expected {one.name} as {wanted}, got {value!r}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _words(hint: Any) -> Iterator[str]:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    for kind in _kinds(hint):
        if kind is not type(None):
            yield words.get(kind, "a list of texts")
