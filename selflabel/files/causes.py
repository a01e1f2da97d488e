"""Failures of many images by their causes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selflabel.files.folders import SHOWN, some


@dataclass(frozen=True)
class Cause:
    """What went wrong with some images. reason: that of the first of `names`."""

    names: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        """One line: the first names, how many there are, and the reason."""
        count = f" ({len(self.names)} in all)" if len(self.names) > SHOWN else ""
        return f"{some(self.names)}{count}: {self.reason}"


def by_cause(failures: Sequence[tuple[str, str]]) -> tuple[Cause, ...]:
    """Failures (name, reason) of one cause together, in order of the first of each.

    Reasons that differ in the names of the image's own files alone have one cause; those that differ in numbers, too,
    if there are many.
    """
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for name, reason in failures:
        own = _without(name, reason)
        form = re.sub(r"\d+([.,]\d+)*(e[+-]?\d+)?", "0", own)
        found.setdefault(form, {}).setdefault(own, []).append((name, reason))
    groups: list[list[tuple[str, str]]] = []
    for alike in found.values():
        together = [failure for same in alike.values() for failure in same]
        groups += [together] if len(together) > SHOWN else alike.values()
    return tuple(Cause(tuple(name for name, _ in group), group[0][1]) for group in groups)


def _without(name: str, reason: str) -> str:
    """A reason with "*" for the name, where that is the beginning of a file's name."""
    found, *rest = reason.split(f"{name}.")
    for part in rest:
        inside = found[-1:].isalnum() or found.endswith("_")  # of a longer name
        found += f"{name if inside else '*'}.{part}"
    return found
