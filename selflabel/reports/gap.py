"""The gap between full and weak supervision, and what each strategy closes of it (Mayer et al., eq. 1, Table 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from selflabel.kinds import check_number


@dataclass(frozen=True)
class Gap:
    """``gap = mIoU_full - mIoU_weak``: of a network trained on full masks and of one on the weak labels alone.

    full, weak: mean IoU in [0, 1] on the same images. Raises `ValueError` for other numbers.
    """

    full: float
    weak: float

    def __post_init__(self) -> None:
        for name in ("full", "weak"):
            value = getattr(self, name)
            check_number(value, name)
            if not 0 <= value <= 1:
                raise ValueError(f"expected {name} as a mean IoU in 0..1, got {value}")

    @property
    def value(self) -> float:
        """The gap; below zero where weak labels did better."""
        return self.full - self.weak

    def remaining(self, iou: float) -> float:
        """What a strategy with this mean IoU leaves of it."""
        return self.full - iou

    def reduction(self, iou: float) -> float | None:
        """``(gap - remaining) / gap``; None if there is no gap to reduce."""
        return (self.value - self.remaining(iou)) / self.value if self.value > 0 else None


def gap_markdown(gap: Gap, runs: Sequence[tuple[str, float]]) -> str:
    """A table with a line a run, in percent. runs: names and mean IoU."""
    lines = ["| run | mIoU (%) | remaining gap | reduction (%) |", "| --- | ---: | ---: | ---: |"]
    for name, iou in (("full", gap.full), ("weak", gap.weak), *runs):
        reduction = gap.reduction(iou)
        shown = "-" if reduction is None else f"{100 * reduction:.1f}"
        title = name.replace("|", "\\|")
        lines.append(f"| {title} | {100 * iou:.1f} | {100 * gap.remaining(iou):.1f} | {shown} |")
    return "\n".join(lines) + "\n"
