"""GrabCut: its energy falls, its prediction gives its labels, boxes are seeds of the background."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from selflabel.annotators import Box, GrabCutAnnotator, MixtureAnnotator, box_seeds
from selflabel.annotators.mixture import Mixtures, mixture_features
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Problem
from selflabel.solvers import GraphCut
from selflabel.terms import potts

ANNOTATOR = GrabCutAnnotator(rounds=8)


def scene(classes: int, drawn: int = 3217, noise: float = 0.12) -> tuple[Tensor, Tensor, Tensor]:
    """An image ``[1 3 h w]`` of disks on a background, seeds of a few pixels a class, and the truth."""
    rng = np.random.default_rng(drawn)
    truth = np.zeros((28, 30), np.int64)
    y, x = np.indices(truth.shape)
    for k in range(1, classes):
        truth[(y - 14) ** 2 + (x - 3 - 24 * k / classes) ** 2 < 30] = k
    colors = np.linspace(0.2, 0.8, classes)[rng.permuted(np.tile(np.arange(classes), (3, 1)), axis=1).T]
    image = (colors[truth] + rng.normal(0, noise, (*truth.shape, 3))).clip(0, 1)
    seeds = np.full(truth.shape, UNLABELED)
    for k in range(classes):
        places = np.argwhere(truth == k)
        rows, columns = places[rng.permutation(len(places))[:12]].T
        seeds[rows, columns] = k
    tensors = (
        torch.from_numpy(image).float().movedim(-1, 0)[None].contiguous(),
        *map(torch.from_numpy, (seeds, truth)),
    )
    return tensors[0], tensors[1][None], tensors[2][None]


@pytest.mark.parametrize("classes", [2, 3])
def test_no_round_raises_the_energy(classes: int) -> None:
    """Neither its mixtures nor its cut, by the formula."""
    image, seeds, _ = scene(classes)
    rounds = list(ANNOTATOR.turns(image, seeds[0], torch.arange(classes)))
    assert len(rounds) >= 3
    affinity = ANNOTATOR.affinity(image)
    energies = []
    for turn in rounds:
        labels = one_hot(turn.labels[None], classes, torch.float64)
        likelihood = (labels[0].flatten(1) * turn.scores).sum()
        energies.append(float(-0.3 * likelihood + 2 * potts(labels, affinity, Energy().relaxation)))
        assert turn.energy == pytest.approx(energies[-1], rel=1e-9)
        assert torch.equal(turn.labels[seeds[0] < classes], seeds[0][seeds[0] < classes])
    assert all(after <= before + 1e-9 for before, after in pairwise(energies))
    assert energies[1] < energies[0]
    last, before = rounds[-1].labels, rounds[-2].labels
    assert torch.equal(last, before) or len(rounds) == ANNOTATOR.rounds


def test_graph_cut_of_the_prediction_gives_the_last_labels() -> None:
    image, seeds, truth = scene(2)
    *_, last = ANNOTATOR.turns(image, seeds[0], torch.arange(2))
    probs = ANNOTATOR.predict(image, seeds, 2)
    problem = Problem(Energy(pairwise_weight=2.0), probs, seeds, ANNOTATOR.affinity(image))
    labels = solve(problem, GraphCut()).labels.argmax(1)
    assert torch.equal(labels[0], last.labels)
    assert float((labels == truth).float().mean()) > 0.9


def test_images_of_a_batch_are_as_alone_and_absent_classes_have_no_probability() -> None:
    one, other = scene(2), scene(2, drawn=88)
    both = ANNOTATOR.predict(torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]]) * 1, 4)
    assert float(both[:, 2:].abs().max()) == 0
    torch.testing.assert_close(both.sum(1), torch.ones(2, 28, 30))
    assert torch.equal(both[1:], ANNOTATOR.predict(other[0], other[1], 4))


def test_mixtures_that_fit_worse_are_not_taken() -> None:
    image, _, truth = scene(2)
    features, index = mixture_features(image, MixtureAnnotator())[0], truth.numpy().ravel()
    good = Mixtures.fitted(features, index, 2, MixtureAnnotator())
    spoiled = good.refitted(features, index, MixtureAnnotator(components=1, regularization=1e4))
    assert spoiled.each == good.each
    without = good.refitted(features, np.zeros_like(index), MixtureAnnotator())
    assert without.each[1] is good.each[1]  # of no pixels


def test_boxes() -> None:
    image, _, truth = scene(3, noise=0.05)
    annotator = GrabCutAnnotator(MixtureAnnotator(places=False))
    boxes = []
    for k in (1, 2):
        rows, columns = (x.tolist() for x in np.nonzero(truth[0].numpy() == k))
        boxes.append(
            Box(max(min(columns) - 2, 0), min(rows) - 2, min(max(columns) + 3, 30), max(rows) + 3, k)
        )
    seeds = box_seeds(boxes, (28, 30))[None]
    assert set(seeds.flatten().tolist()) == {0, UNLABELED}
    assert not bool((seeds[truth > 0] == 0).any())
    probs = annotator.predict_in_boxes(image, boxes, 3)
    problem = Problem(Energy(pairwise_weight=2.0), probs, seeds, annotator.affinity(image))
    labels = solve(problem, GraphCut()).labels.argmax(1)
    assert float((labels == truth).float().mean()) > 0.9


@pytest.mark.parametrize("power", [0.0, 0.3])
def test_a_class_stays_in_its_boxes(power: float) -> None:
    """However alike objects of two classes are: pixels of one box would be of the other's class."""
    image = 0.2 * torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    image[:, :, 6:14, 4:12] += 0.7
    image[:, :, 6:14, 18:26] += 0.7
    boxes = [Box(2, 4, 14, 16, 1), Box(16, 4, 28, 16, 2), Box(12, 14, 20, 18, 2)]
    annotator = GrabCutAnnotator(MixtureAnnotator(places=False), power=power, rounds=3)
    probs = annotator.predict_in_boxes(image, boxes, 3)[0]
    inside = torch.zeros(3, 20, 30, dtype=torch.bool)
    inside[0] = True
    for box in boxes:
        inside[box.label, box.y0 : box.y1, box.x0 : box.x1] = True
    assert torch.equal(probs > 0, inside)
    present, first = torch.arange(3), torch.where(inside[1], 1, torch.where(inside[2], 2, 0))
    for turn in annotator.turns(image, box_seeds(boxes, (20, 30)), present, first, inside):
        assert bool(inside.gather(0, turn.labels[None]).all())


def test_boxes_that_are_none_are_refused() -> None:
    image, _, _ = scene(2)
    for corners in ((5, 5, 5, 9), (-1, 0, 4, 4), (0, 7, 4, 4)):
        with pytest.raises(ValueError, match="expected a box with 0 <= x0 < x1"):
            Box(*corners)
    for label in (0, 255):
        with pytest.raises(ValueError, match="expected label of a box as a class of 1 to 254"):
            Box(0, 0, 4, 4, label)
    with pytest.raises(ValueError, match="within the image of 30 x 28"):
        ANNOTATOR.predict_in_boxes(image, [Box(0, 0, 31, 4)], 2)
    with pytest.raises(ValueError, match="classes below 2"):
        ANNOTATOR.predict_in_boxes(image, [Box(0, 0, 4, 4, 2)], 2)
    for boxes in (
        [Box(2, 2, 8, 8, 1), Box(2, 2, 8, 8, 2)],
        [Box(2, 2, 8, 8, 1), Box(2, 2, 5, 8, 2), Box(5, 2, 8, 8, 2)],
    ):
        with pytest.raises(ValueError, match="class 1 with a pixel that no smaller box covers"):
            ANNOTATOR.predict_in_boxes(image, boxes, 3)
    for boxes in ([], [Box(0, 0, 30, 28)]):
        with pytest.raises(ValueError, match="leave some background"):
            ANNOTATOR.predict_in_boxes(image, boxes, 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("option", ["pairwise_weight", "power", "rounds"])
def test_options_out_of_range_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        replace(ANNOTATOR, **{option: -1})  # type: ignore[arg-type]
