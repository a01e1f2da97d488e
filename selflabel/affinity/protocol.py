"""Protocols of affinities, the operators W of the pairwise term."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Integer
from torch import Tensor


@runtime_checkable
class Affinity(Protocol):
    """A symmetric, non-negative matrix W over the pixels of each image, as an operator."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The batch and the spatial axes, ``(b, *s)``."""

    def apply(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """``W x`` for every class; both orders of a pair count."""

    def degree(self) -> Float[Tensor, "b 1 *s"]:
        """``W 1``."""

    def as_matrix(self) -> Float[Tensor, "b n n"]:
        """W itself, for tests: n² numbers."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Every unordered pair of neighbors once: flat pixel numbers (the same in all images) and weights."""

    first: Integer[Tensor, " e"]
    second: Integer[Tensor, " e"]
    weight: Float[Tensor, "b e"]


@runtime_checkable
class Pairs(Protocol):
    """Some unordered pairs, as two aligned views of a tensor ``[b k *s]``."""

    @property
    def weight(self) -> Tensor:
        """``w_ij``, with one channel, aligned with `first` and `second`."""

    def first(self, values: Tensor) -> Tensor:
        """The values at the first pixel of each pair."""

    def second(self, values: Tensor) -> Tensor:
        """The values at the second pixel of each pair."""

    def add(self, to: Tensor, at_first: Tensor, at_second: Tensor) -> None:
        """Add one number per pair to each of its two pixels, in place."""

    def add_products(self, to: Tensor, scale: Tensor, at_first: Tensor, at_second: Tensor) -> None:
        """Add ``scale · at_first`` and ``scale · at_second`` to the two pixels of each pair, in place."""


@runtime_checkable
class SparseAffinity(Affinity, Protocol):
    """An affinity that lists its pairs: for any relaxation, and for graph cut and random walker."""

    def pairs(self) -> Iterator[Pairs]:
        """All unordered pairs, in a few blocks."""

    def edges(self) -> Edges:
        """All unordered pairs, as index lists."""
