"""Flips and quarter turns: changes of an image that move its pixels and mix none."""

from dataclasses import dataclass

from torch import Tensor

from selflabel.kinds import check_fields


@dataclass(frozen=True)
class Symmetry:
    """One of the eight symmetries of a square, on the last two axes: flipped left and right, then turned.

    quarters: turns of 90 degrees from the first of the two axes to the second; an odd number swaps height and width.
    """

    flip: bool = False
    quarters: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, x: Tensor) -> Tensor:
        """The moved tensor: a view, but for flips."""
        return (x.flip(-1) if self.flip else x).rot90(self.quarters % 4, (-2, -1))

    def undo(self, x: Tensor) -> Tensor:
        """The inverse of calling it."""
        turned = x.rot90(-self.quarters % 4, (-2, -1))
        return turned.flip(-1) if self.flip else turned

    def then(self, other: "Symmetry") -> "Symmetry":
        """This one first, then the other: a flip after q quarter turns is q turns back after a flip."""
        quarters = other.quarters + (-self.quarters if other.flip else self.quarters)
        return Symmetry(self.flip != other.flip, quarters % 4)


UNMOVED = Symmetry()
FLIPPED = Symmetry(flip=True)
FLIPPED_ROWS = Symmetry(flip=True, quarters=2)
