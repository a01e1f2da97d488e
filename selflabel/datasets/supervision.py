"""Where the seeds of an image come from: its scribbles, its mask, both, or nowhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from selflabel.files.folders import some
from selflabel.kinds import check_fields
from selflabel.labels import UNLABELED


@dataclass(frozen=True)
class Supervision:
    """Seeds are scribbles, unless it is said here that they are not.

    curated: the class of a seed is that of its pixel in the mask, and pixels without one there are no seeds: scribbles
    without mistakes (Mayer et al., Sec. 2.2). full: stems whose masks are their seeds. none: stems without seeds. These
    two need no scribbles. masks: the folder of the masks that are looked at.

    Raises `ValueError` for stems that are in both lists.
    """

    curated: bool = False
    full: frozenset[str] = frozenset()
    none: frozenset[str] = frozenset()
    masks: str = "masks"

    def __post_init__(self) -> None:
        check_fields(self)
        both = sorted(self.full & self.none)
        if both:
            raise ValueError(
                f"expected images with their masks as seeds, or without seeds, got both for {some(both)}: leave each "
                f"in one of the lists"
            )

    def scribbled(self, stems: Sequence[str]) -> tuple[str, ...]:
        """The stems that need scribbles."""
        return tuple(stem for stem in stems if stem not in self.full and stem not in self.none)

    def masked(self, stems: Sequence[str]) -> tuple[str, ...]:
        """The stems whose seeds need a mask."""
        return tuple(stem for stem in stems if stem in self.full or (self.curated and stem not in self.none))


SCRIBBLES = Supervision()


def curated(seeds: Int64[Tensor, "h w"], mask: Int64[Tensor, "h w"]) -> Int64[Tensor, "h w"]:
    """The seeds with the classes of the mask."""
    return torch.where(seeds == UNLABELED, UNLABELED, mask)
