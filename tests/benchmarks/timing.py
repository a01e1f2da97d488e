"""Timing of this project and a peer, in turn in one process, and rows of the report."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the report: seconds are medians over inputs and repeats, the ratio is the median of ratios."""

    job: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    target: float
    check: str  # errors or energies of both
    fine: bool  # the check is passed

    @staticmethod
    def head() -> str:
        return (
            "| job | peer | seconds | peer's | ratio | target | error or energy |\n"
            "| --- | --- | --- | --- | --- | --- | --- |"
        )

    def __str__(self) -> str:
        ratio = f"**{self.ratio:.2f}**" if self.ratio <= self.target else f"{self.ratio:.2f}"
        check = self.check if self.fine else f"NOT MET: {self.check}"
        return (
            f"| {self.job} | {self.peer} | {self.ours:.3f} | {self.theirs:.3f} | {ratio} | "
            f"{self.target:g} | {check} |"
        )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


class Duel:
    """Seconds of this project and of a peer, input by input."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def run(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[Any, Any]:
        """Run both once, which does not count, then `repeats` times in turn; return their first results."""
        results = ours(), theirs()
        for _ in range(self.repeats):
            self.theirs.append(timed(theirs)[0])
            self.ours.append(timed(ours)[0])
        return results

    def row(self, job: str, peer: str, target: float, check: str, fine: bool) -> Row:
        ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        medians = [statistics.median(x) for x in (self.ours, self.theirs, ratios)]
        return Row(job, peer, *medians, target, check, fine)


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """The median and the largest, which is the worst."""
    return f"{statistics.median(values):{form}} (worst {max(values):{form}})"
