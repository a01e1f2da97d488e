"""Every public class and function refuses values of other kinds where they are given, and names the parameter.

New ones are found by themselves: a class of settings calls `check_fields`, others check what they take.
"""

from typing import Any

import pytest
from support.entries import MAY_BE_NEGATIVE, WRONG, Entry, entries, may_be

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("unchecked")]

ENTRIES = entries()


def fault(entry: Entry, name: str, value: Any) -> str | None:
    """What is wrong with the refusal of a value; None if it is refused by the name of the parameter."""
    try:
        entry.call(**{**entry.fitting(), name: value})
    except ValueError as error:
        last = name.rpartition("_")[2]
        words = name, name.replace("_", " "), last, _one_of(last), last.removesuffix("y") + "ies"
        named = any(word in str(error).lower() for word in words)
        return None if "expected" in str(error) and named else f"{name} = {value!r}: {error}"
    except Exception as error:
        return f"{name} = {value!r}: {type(error).__name__}: {error}"
    return f"{name} = {value!r} is taken"


def _one_of(words: str) -> str:
    """The singular."""
    ending, single = (
        ("sses", "ss") if words.endswith("sses") else ("ies", "y") if words.endswith("ies") else ("s", "")
    )
    return words.removesuffix(ending) + single if words.endswith(ending) else words


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_other_kinds_are_refused_by_name(entry: Entry) -> None:
    entry.call(**entry.fitting())
    wrong = [
        (name, value)
        for name, kind in entry.parameters().items()
        for value in WRONG
        if not may_be(value, kind) or (value == -1 and (entry.name, name) not in MAY_BE_NEGATIVE)
    ]
    assert [found for name, value in wrong if (found := fault(entry, name, value)) is not None] == []


def test_all_entries_are_seen() -> None:
    names = {entry.name for entry in ENTRIES}
    assert {"SelfLabeling", "Alternator", "PottsLoss", "Grid", "GraphCut", "Rules", "label", "solve"} <= names
    assert len(names) > 60
