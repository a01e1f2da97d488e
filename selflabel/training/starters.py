"""Labels of the seeds alone, as the start of solves; kept by image and moved with it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Contrast
from selflabel.datasets.samples import Batch
from selflabel.datasets.symmetry import Symmetry
from selflabel.driver import Solver, solve
from selflabel.energy import Energy
from selflabel.kinds import check_count, check_fields
from selflabel.labels import UNLABELED
from selflabel.losses.modules import Images, Seeds, build
from selflabel.problem import Problem
from selflabel.solvers.random_walker import RandomWalker
from selflabel.training.objectives import Logits

FULL = 255
"""The byte that stands for a probability of one."""

LIFT = 0.25
"""Parts of 255 that every class gets in addition: gradient descent leaves zeros slowly."""

KEPT_BYTES = 2**32
"""Bytes of labels that a run keeps at most."""


@runtime_checkable
class Starter(Protocol):
    """Makes the labels that a solve starts from, of the seeds alone."""

    @property
    def solver(self) -> Solver:
        """The solver that makes them."""

    @property
    def affinity(self) -> AffinityBuilder:
        """Of the images, for this solver."""

    @property
    def energy(self) -> Energy:
        """What it minimizes."""

    def __call__(self, problem: Problem, batch: Batch) -> Logits:
        """The labels; the prediction for images without seeds."""


@dataclass(frozen=True)
class InitialLabels:
    """A `Starter` that solves for each batch: a solver minimizes its own default pairwise energy."""

    solver: Solver = RandomWalker()
    affinity: AffinityBuilder = Contrast()

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def energy(self) -> Energy:
        """The pairwise energy alone: a uniform prediction says nothing."""
        return replace(self.solver.default_energy, coupling_weight=0.0)

    def __call__(self, problem: Problem, batch: Batch) -> Logits:
        """The labels; the prediction for images without seeds."""
        seeded = _seeded(batch.seeds)
        if not bool(seeded.any()):
            return problem.probs
        labels = self.solved(batch.images, batch.seeds, problem.probs, problem.classes)
        return torch.where(seeded.view(-1, *[1] * (labels.ndim - 1)), labels, problem.probs)

    def solved(
        self, images: Images, seeds: Seeds, like: Logits, classes: Bool[Tensor, "b k"] | None = None
    ) -> Logits:
        """The labels of images with seeds, of the shape and type of `like`; `classes`: those allowed."""
        uniform = torch.full_like(like, 1 / like.shape[1])
        problem = Problem(self.energy, uniform, seeds, build(self.affinity, images), classes)
        return solve(problem, self.solver).labels


@dataclass(frozen=True, eq=False)
class Kept:
    """Labels of one image as it lies under its stem: bytes of those of its classes that occur, which sum to 255."""

    classes: tuple[int, ...]
    labels: UInt8[Tensor, "p *s"]


MISSING = Kept((), torch.empty(0, 1, dtype=torch.uint8))
"""Stands for what is not kept yet."""


@dataclass(frozen=True, eq=False)
class KeptLabels:
    """A `Starter` that solves once an image and keeps the labels, to move them with flips and turns (`Batch.moved`).

    The labels depend on image and seeds alone, and whatever moves pixels without mixing them moves the labels: the
    affinities do not know directions. They are kept in bytes, to 1/255, with zeros lifted to 1e-3: a solve only
    begins there. Where pixels or colors were mixed (`Batch.moved` is None) it solves anew. (A crop moves pixels, too,
    but is none of the augmentations: cut out of kept labels it would be a good start, which knows the seeds beyond.)

    budget: bytes to keep at most, of one byte a pixel and class that occurs; labels beyond it are solved for each time,
    with the same result. Images of one stem must be the same image but for `moved`. Kept labels do not depend on the
    batch that first had the image, on the CPU to the last bit: resumed runs start from the same.
    """

    inner: InitialLabels
    budget: int = KEPT_BYTES
    kept: dict[str, Kept | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        check_count(self.budget, "budget", least=0)

    @property
    def solver(self) -> Solver:
        """That of the inner starter."""
        return self.inner.solver

    @property
    def affinity(self) -> AffinityBuilder:
        """That of the inner starter."""
        return self.inner.affinity

    @property
    def energy(self) -> Energy:
        """That of the inner starter."""
        return self.inner.energy

    @property
    def bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(one.labels.numel() for one in self.kept.values() if one is not None)

    def __call__(self, problem: Problem, batch: Batch) -> Logits:
        """The labels; the prediction for images without seeds."""
        moved = [symmetry for symmetry in batch.moved if symmetry is not None]
        if len(moved) < len(batch.stems):
            return self.inner(problem, batch)
        found = [self.kept.get(stem, MISSING) for stem in batch.stems]
        missing = [number for number, one in enumerate(found) if one is MISSING]
        if missing:
            for number, one in zip(missing, self._solved(problem, batch, missing), strict=True):
                found[number] = one
        labels = problem.probs.clone(memory_format=torch.contiguous_format)
        classes, alike = labels.shape[1], defaultdict[Symmetry, list[tuple[int, Kept]]](list)
        for number, (one, symmetry) in enumerate(zip(found, moved, strict=True)):
            if one is not None:
                alike[symmetry].append((number, one))
        some = [number for number, one in enumerate(found) if one is not None]
        if some:
            zero = float(lifted(torch.zeros((), dtype=labels.dtype), classes))
            labels.index_fill_(0, _indices(some, labels), zero)
        for symmetry, group in alike.items():
            rows = [number * classes + each for number, one in group for each in one.classes]
            parts = [one.labels.to(labels.device, non_blocking=True) for _, one in group]
            values = lifted(symmetry(torch.cat(parts)).to(labels.dtype), classes)
            labels.flatten(0, 1).index_copy_(0, _indices(rows, labels), values)
        return labels

    def _solved(self, problem: Problem, batch: Batch, numbers: Sequence[int]) -> list[Kept | None]:
        """Labels of some images as they lie under their stems, None without seeds; kept if the budget allows."""
        undo = [(number, symmetry) for number in numbers if (symmetry := batch.moved[number]) is not None]
        seeds = torch.stack([symmetry.undo(batch.seeds[number]) for number, symmetry in undo])
        seeded = _seeded(seeds).tolist()
        some = [place for place, has_seeds in enumerate(seeded) if has_seeds]
        found: list[Kept | None] = [None] * len(numbers)
        if some:
            images = torch.stack([undo[place][1].undo(batch.images[undo[place][0]]) for place in some])
            like = problem.probs.new_empty(len(some), problem.probs.shape[1], *images.shape[2:])
            classes = None if problem.classes is None else problem.classes[[numbers[place] for place in some]]
            labels = in_bytes(self.inner.solved(images, seeds[some], like, classes))
            for place, one in zip(some, labels, strict=True):
                found[place] = _kept(one)
        taken = self.bytes
        for number, one in zip(numbers, found, strict=True):
            size, stem = 0 if one is None else one.labels.numel(), batch.stems[number]
            if taken + size <= self.budget:
                taken += 0 if stem in self.kept else size
                self.kept[stem] = one
        return found


def in_bytes(labels: Float[Tensor, "b k *s"]) -> UInt8[Tensor, "b k *s"]:
    """Distributions in whole parts of 255 that sum to 255: differences of the rounded sums over the first classes.

    ``|error| < 1/255``, and zero stays zero.
    """
    sums = (labels.double().cumsum(1) * FULL).round()
    return torch.cat([sums[:, :1], sums.diff(dim=1)], 1).to(torch.uint8)


def lifted(parts: Float[Tensor, "..."], classes: int) -> Float[Tensor, "..."]:
    """Probabilities from parts of 255; distributions stay distributions."""
    return (parts + LIFT) / (FULL + classes * LIFT)


def _kept(labels: UInt8[Tensor, "k *s"]) -> Kept:
    occurs = labels.flatten(1).amax(1) > 0
    some = labels[occurs].cpu()
    # pinned, a copy to the GPU waits for nothing
    return Kept(tuple(occurs.nonzero().flatten().tolist()), some.pin_memory() if labels.is_cuda else some)


def _indices(places: Sequence[int], like: Tensor) -> Int64[Tensor, " n"]:
    """On the device of a tensor; a copy there waits for nothing."""
    return torch.tensor(places, pin_memory=like.is_cuda).to(like.device, non_blocking=True)


def _seeded(seeds: Seeds) -> Bool[Tensor, " b"]:
    return (seeds != UNLABELED).flatten(1).any(1)
