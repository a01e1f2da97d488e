"""Degenerate problems by name: sizes, seeds, predictions, weights, memory and types at their limits.

Each is one change to a plain problem, for every solver and kind of affinity. `refused` is a pattern of the error that
says why a problem is none; without it, a solver has to answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from selflabel.affinity import Affinity, DenseAffinity, GaussianKernel, GridAffinity, WindowAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.problem import Problem

BUILDERS: dict[str, Callable[[Tensor], Affinity]] = {
    "grid": lambda image: GridAffinity.from_image(image, 30.0),
    "window": lambda image: WindowAffinity.from_image(image, 2, (GaussianKernel(1.0, 1.5, 40.0),)),
    "lattice": lambda image: DenseAffinity.from_image(image, (GaussianKernel(0.1, 2.0, 40.0),)),
}


@dataclass(frozen=True)
class Given:
    """What a problem is made of: each change replaces a part."""

    energy: Energy
    kind: str
    image: Any
    probs: Any
    seeds: Any
    classes: Tensor | None = None
    change: Callable[[Affinity], Affinity] = lambda affinity: affinity
    start: Tensor | None = None

    @property
    def problem(self) -> Problem:
        return Problem(
            self.energy, self.probs, self.seeds, self.change(BUILDERS[self.kind](self.image)), self.classes
        )


@dataclass(frozen=True)
class Degenerate:
    """A change to the plain problem."""

    change: Callable[[Given], Given]
    refused: str | None = None
    sparse: bool = False
    """Changes weights of pairs, which a dense affinity does not list."""


def plain(energy: Energy, kind: str) -> Given:
    """Two images of 6 x 7 pixels, three classes, a seed of each."""
    return sized((6, 7))(Given(energy, kind, None, None, None))


def sized(
    size: tuple[int, ...], classes: int = 3, batch: int = 2, seeds: int | None = None
) -> Callable[[Given], Given]:
    """Random images and predictions of this size, with a seed of each class as far as there is room."""

    def change(given: Given) -> Given:
        generator = torch.Generator().manual_seed(61_403)
        image = torch.rand(batch, 3, *size, generator=generator)
        probs = torch.randn(batch, classes, *size, generator=generator).mul(1.5).softmax(1)
        index = torch.full((batch, *size), UNLABELED)
        flat = index.view(batch, -1) if index.numel() else index
        for label in range(min(classes, 3) if seeds is None else seeds):
            if flat.numel() and flat.shape[1] > 5 * label + 1:
                flat[:, 5 * label] = label
        return replace(given, image=image, probs=probs, seeds=index)

    return change


def seeded(change: Callable[[Tensor], Any]) -> Callable[[Given], Given]:
    return lambda given: replace(given, seeds=change(given.seeds.clone()))


def predicted(change: Callable[[Tensor], Any]) -> Callable[[Given], Given]:
    return lambda given: replace(given, probs=change(given.probs.clone()))


def pictured(change: Callable[[Tensor], Any]) -> Callable[[Given], Given]:
    return lambda given: replace(given, image=change(given.image.clone()))


def weighing(**weights: float) -> Callable[[Given], Given]:
    return lambda given: replace(given, energy=replace(given.energy, **weights))  # type: ignore[arg-type]


def weighted(change: Callable[[Tensor, int], Tensor]) -> Callable[[Given], Given]:
    """Changes the weights ``[b 1 *box]`` of each offset, given its number."""

    def of(affinity: Affinity) -> Affinity:
        assert isinstance(affinity, Stencil)
        weights = tuple(change(weight.clone(), number) for number, weight in enumerate(affinity.weights))
        return Stencil(affinity.size, affinity.offsets, weights)

    return lambda given: replace(given, change=of)


def put(tensor: Tensor, place: tuple[Any, ...], value: Any) -> Tensor:
    """The tensor, with a value written to a place."""
    tensor[place] = value
    return tensor


def spread(weight: Tensor, number: int) -> Tensor:
    """Weights from 1e-30 to 1e30."""
    generator = torch.Generator().manual_seed(7_919 + number)
    return 10 ** (60 * torch.rand(weight.shape, generator=generator) - 30)


def cut(value: float) -> Callable[[Tensor, int], Tensor]:
    """Weights between the columns 3 and 4 become this value (those of pairs that cross the border)."""

    def change(weight: Tensor, number: int) -> Tensor:
        whole = 7 - weight.shape[-1]  # how far these pairs reach to the side
        if whole:
            weight[..., max(4 - whole, 0) : 4] = value
        return weight

    return change


def started(change: Callable[[Tensor], Any]) -> Callable[[Given], Given]:
    return lambda given: replace(given, start=change(given.probs.clone()))


def steps(tensor: Tensor) -> Tensor:
    """The same numbers, two apart in memory."""
    return torch.stack([tensor, tensor + 1], -1)[..., 0]


def turned(tensor: Tensor) -> Tensor:
    """The same numbers, with the last two axes exchanged in memory."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def last(tensor: Tensor) -> Tensor:
    """The same numbers, with the channels last in memory."""
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def vertices(probs: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(probs.argmax(1), probs.shape[1]).movedim(-1, 1).to(probs)


def against(given: Given) -> Given:
    """Predictions that are sure, and exclude the class of each seed."""
    seeded = torch.where(given.seeds == UNLABELED, 0, given.seeds)
    next_class = torch.nn.functional.one_hot((seeded + 1) % 3, 3).movedim(-1, 1)
    return replace(given, probs=next_class.to(given.probs))


def without(*classes: int) -> Callable[[Given], Given]:
    """Excludes classes, of images and seeds."""

    def change(given: Given) -> Given:
        allowed = torch.ones(given.probs.shape[:2], dtype=torch.bool)
        seeds = given.seeds.clone()
        for label in classes:
            allowed[:, label] = False
            seeds[seeds == label] = UNLABELED
        return replace(given, classes=allowed, seeds=seeds)

    return change


NAN, INF = float("nan"), float("inf")
SEED = (0, 0, 0)
"""The first pixel of the first image: a seed of class 0."""
PIXEL = (0, slice(None), 3, 4)
"""The prediction of a pixel without a seed."""

SIZES = {
    "one pixel": Degenerate(sized((1, 1))),
    "one pixel, no seed": Degenerate(sized((1, 1), seeds=0)),
    "two pixels": Degenerate(sized((1, 2))),
    "one row": Degenerate(sized((1, 9))),
    "one column": Degenerate(sized((9, 1))),
    "thin and long": Degenerate(sized((1, 500), batch=1)),
    "odd by even": Degenerate(sized((17, 32), batch=1)),
    "one voxel": Degenerate(sized((1, 1, 1))),
    "volume of one slice": Degenerate(sized((1, 6, 7))),
    "volume of one column": Degenerate(sized((7, 1, 1))),
    "one image": Degenerate(sized((6, 7), batch=1)),
    "nine images": Degenerate(sized((3, 4), batch=9)),
    "no image": Degenerate(sized((6, 7), batch=0), "at least one image|none of them 0"),
    "empty axis": Degenerate(sized((0, 7)), "two or three spatial axes with pixels|at least one image"),
    "no class": Degenerate(sized((6, 7), 0, seeds=0), "at least one image, class"),
    "one class": Degenerate(sized((6, 7), 1)),
    "one class, one pixel": Degenerate(sized((1, 1), 1)),
    "two classes": Degenerate(sized((6, 7), 2)),
    "255 classes": Degenerate(sized((5, 6), 255, batch=1)),
    "256 classes": Degenerate(sized((5, 6), 256, batch=1), "at most 255 classes"),
}
SEEDS = {
    "nothing seeded": Degenerate(seeded(lambda seeds: torch.full_like(seeds, UNLABELED))),
    "everything seeded": Degenerate(lambda given: replace(given, seeds=given.probs.argmax(1))),
    "all but one pixel seeded": Degenerate(
        lambda given: replace(given, seeds=put(given.probs.argmax(1), (0, 3, 4), UNLABELED))
    ),
    "one image seeded, the other not": Degenerate(
        lambda given: replace(given, seeds=put(given.probs.argmax(1), (1,), UNLABELED))
    ),
    "one class seeded": Degenerate(seeded(lambda seeds: put(seeds, (seeds != 1,), UNLABELED))),
    "seeds against the prediction": Degenerate(against),
    "seeds next to each other": Degenerate(seeded(lambda seeds: put(put(seeds, (0, 2), 0), (0, 3), 1))),
    "seeds of uint8": Degenerate(seeded(lambda seeds: seeds.to(torch.uint8))),
    "seeds of int16": Degenerate(seeded(lambda seeds: seeds.to(torch.int16))),
    "seeds of int32": Degenerate(seeded(lambda seeds: seeds.to(torch.int32))),
    "seeds of int8": Degenerate(seeded(lambda seeds: seeds.to(torch.int8)), "whole numbers"),
    "seeds of bool": Degenerate(seeded(lambda seeds: seeds != UNLABELED), "whole numbers"),
    "seeds of float": Degenerate(seeded(lambda seeds: seeds.float()), "whole numbers"),
    "seeds of numpy": Degenerate(seeded(lambda seeds: seeds.numpy()), "torch tensor"),
    "a seed above the classes": Degenerate(seeded(lambda seeds: put(seeds, SEED, 3)), "seeds in 0..2"),
    "a seed below zero": Degenerate(seeded(lambda seeds: put(seeds, SEED, -1)), "seeds in 0..2"),
    "a seed of an excluded class": Degenerate(
        lambda given: replace(without(1)(given), seeds=given.seeds), "every class that has seeds"
    ),
    "seeds of another size": Degenerate(seeded(lambda seeds: seeds[:, 1:]), "seeds of shape"),
    "seeds elsewhere": Degenerate(seeded(lambda seeds: seeds.to("meta")), "seeds on the device"),
    "seeds turned in memory": Degenerate(seeded(turned)),
    "seeds expanded": Degenerate(seeded(lambda seeds: seeds[:1].expand_as(seeds))),
}

PREDICTIONS = {
    "sure predictions": Degenerate(predicted(vertices)),
    "a sure class, and it is another": Degenerate(
        predicted(lambda probs: put(torch.zeros_like(probs), (slice(None), 2), 1.0))
    ),
    "uniform": Degenerate(predicted(lambda probs: torch.full_like(probs, 1 / 3))),
    "ties of two classes": Degenerate(
        predicted(lambda probs: torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1).expand_as(probs))
    ),
    "denormal probabilities": Degenerate(
        predicted(lambda probs: torch.tensor([1.0, 1e-40, 1e-45]).view(1, 3, 1, 1).expand_as(probs).clone())
    ),
    "sums off by rounding": Degenerate(predicted(lambda probs: probs * (1 + 5e-4))),
    "a prediction of nan": Degenerate(
        predicted(lambda probs: put(probs, PIXEL, NAN)), "finite probabilities"
    ),
    "a prediction of inf": Degenerate(
        predicted(lambda probs: put(probs, PIXEL, INF)), "finite probabilities"
    ),
    "a negative prediction": Degenerate(
        predicted(lambda probs: put(probs, PIXEL, torch.tensor([-0.5, 0.5, 1.0]))), "probabilities >= 0"
    ),
    "sums of two": Degenerate(predicted(lambda probs: 2 * probs), "sum to one"),
    "logits": Degenerate(predicted(lambda probs: probs.log()), "from_logits"),
    "predictions of float64": Degenerate(predicted(lambda probs: probs.double())),
    "predictions of whole numbers": Degenerate(
        predicted(lambda probs: vertices(probs).long()), "floating point"
    ),
    "predictions of numpy": Degenerate(predicted(lambda probs: probs.numpy()), "torch tensor"),
    "predictions that require gradients": Degenerate(predicted(lambda probs: probs.requires_grad_())),
    "predictions with channels last": Degenerate(predicted(last)),
    "predictions turned in memory": Degenerate(predicted(turned)),
    "predictions two apart in memory": Degenerate(predicted(steps)),
    "predictions expanded": Degenerate(predicted(lambda probs: probs[:1].expand_as(probs))),
    "predictions of one pixel, expanded": Degenerate(
        predicted(lambda probs: probs[:1, :, :1, :1].expand_as(probs))
    ),
    "predictions without a batch axis": Degenerate(
        predicted(lambda probs: probs[0]), "batch axis|seeds of shape"
    ),
    "predictions elsewhere": Degenerate(predicted(lambda probs: probs.to("meta")), "seeds on the device"),
    "one class left": Degenerate(without(0, 2)),
    "two classes left": Degenerate(without(1)),
    "no class left": Degenerate(without(0, 1, 2), "at least one allowed class"),
    "the predicted class excluded": Degenerate(
        lambda given: without(2)(
            replace(given, probs=put(torch.zeros_like(given.probs), (slice(None), 2), 1.0))
        )
    ),
}
STARTS = {
    "start at vertices": Degenerate(started(vertices)),
    "start at the wrong vertex": Degenerate(
        started(lambda probs: put(torch.zeros_like(probs), (slice(None), 0), 1.0))
    ),
    "start of float64": Degenerate(started(lambda probs: probs.double())),
    "start that requires gradients": Degenerate(started(lambda probs: probs.requires_grad_())),
    "start with channels last": Degenerate(started(last)),
    "start of nan": Degenerate(started(lambda probs: probs * NAN), "finite labels to start from"),
    "start of logits": Degenerate(started(lambda probs: probs.log()), "pass labels, not logits"),
    "start of another size": Degenerate(started(lambda probs: probs[..., 1:]), "start of shape"),
}
WEIGHTS = {
    "weights of 1e-30": Degenerate(weighted(lambda weight, _: weight * 1e-30), sparse=True),
    "weights of 1e-12": Degenerate(weighted(lambda weight, _: weight * 1e-12), sparse=True),
    "weights of 1e8": Degenerate(weighted(lambda weight, _: weight * 1e8), sparse=True),
    "weights of 1e15": Degenerate(weighted(lambda weight, _: weight * 1e15), sparse=True),
    "weights of 1e30": Degenerate(weighted(lambda weight, _: weight * 1e30), sparse=True),
    "weights from 1e-30 to 1e30": Degenerate(weighted(spread), sparse=True),
    "weights of zero": Degenerate(weighted(lambda weight, _: weight * 0), sparse=True),
    "two regions, no pair between them": Degenerate(weighted(cut(0.0)), sparse=True),
    "two regions, pairs of 1e-15 between them": Degenerate(weighted(cut(1e-15)), sparse=True),
    "two regions, pairs of 1e-30 between them": Degenerate(weighted(cut(1e-30)), sparse=True),
    "weights along one axis": Degenerate(
        weighted(lambda weight, number: weight * (number == 0)), sparse=True
    ),
    "a weight of nan": Degenerate(
        weighted(lambda weight, number: put(weight, (0, 0, 1, 1), NAN)), "weights of pairs", sparse=True
    ),
    "a weight of inf": Degenerate(
        weighted(lambda weight, number: put(weight, (0, 0, 1, 1), INF)), "weights of pairs", sparse=True
    ),
    "a negative weight": Degenerate(
        weighted(lambda weight, number: put(weight, (0, 0, 1, 1), -1.0)),
        "weights of pairs from 0",
        sparse=True,
    ),
    "weights of float64": Degenerate(weighted(lambda weight, _: weight.double()), sparse=True),
    "no pairwise term": Degenerate(weighing(pairwise_weight=0.0)),
    "pairwise term of 1e-30": Degenerate(weighing(pairwise_weight=1e-30)),
    "pairwise term of 1e6": Degenerate(weighing(pairwise_weight=1e6)),
    "pairwise term of 1e8": Degenerate(weighing(pairwise_weight=1e8)),
    "pairwise term of 1e30": Degenerate(weighing(pairwise_weight=1e30)),
    "no coupling": Degenerate(weighing(coupling_weight=0.0)),
    "coupling of 1e-30": Degenerate(weighing(coupling_weight=1e-30)),
    "coupling of 1e8": Degenerate(weighing(coupling_weight=1e8)),
    "coupling of 1e30": Degenerate(weighing(coupling_weight=1e30)),
    "neither": Degenerate(weighing(coupling_weight=0.0, pairwise_weight=0.0)),
    "coupling of nan": Degenerate(weighing(coupling_weight=NAN), "finite coupling_weight"),
    "pairwise term of inf": Degenerate(weighing(pairwise_weight=INF), "finite pairwise_weight"),
}
IMAGES = {
    "constant image": Degenerate(pictured(lambda image: torch.full_like(image, 0.5))),
    "black and white": Degenerate(pictured(lambda image: image.round())),
    "image of uint8": Degenerate(pictured(lambda image: (image * 255).to(torch.uint8))),
    "image of float64": Degenerate(pictured(lambda image: image.double())),
    "one channel": Degenerate(pictured(lambda image: image[:, :1])),
    "image that requires gradients": Degenerate(pictured(lambda image: image.requires_grad_())),
    "image with channels last": Degenerate(pictured(last)),
    "image expanded": Degenerate(pictured(lambda image: image[:1].expand_as(image))),
    "image of nan": Degenerate(pictured(lambda image: put(image, PIXEL, NAN)), "floating-point image in"),
    "image in 0..255": Degenerate(pictured(lambda image: image * 255), "floating-point image in"),
    "image of whole numbers": Degenerate(pictured(lambda image: (image * 255).long()), "uint8 in 0..255"),
    "image of another size": Degenerate(pictured(lambda image: image[..., 1:]), "affinity over"),
    "another number of images": Degenerate(pictured(lambda image: image[:1]), "affinity over"),
}
DEGENERATE = {**SIZES, **SEEDS, **PREDICTIONS, **STARTS, **WEIGHTS, **IMAGES}
