"""A given prediction and an annotator's: their mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.folders import LABELER, MeanColor, picture

import selflabel
from selflabel.affinity.image import as_image
from selflabel.labels import UNLABELED

pytestmark = pytest.mark.quick


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An image, its seeds, a prediction of three classes, and the mean of it and the annotator's of classes 0 and 2."""
    image, seeds, _ = picture(5_531)
    probs = np.random.default_rng(733).dirichlet(np.ones(3), seeds.shape).astype(np.float32)
    probs = np.moveaxis(probs, -1, 0)
    numbers = torch.from_numpy(seeds).long()
    numbers[numbers == 2] = 1
    unit = torch.from_numpy(image).movedim(-1, 0)[None]
    local = MeanColor().predict(as_image(unit), numbers[None], 2)[0].numpy()
    kept = probs[[0, 2]] / probs[[0, 2]].sum(0)
    return image, seeds, probs, (local + kept) / 2


def test_their_mean_is_solved_for() -> None:
    image, seeds, probs, mean = scene()
    alone = replace(LABELER, annotator=None)
    full = np.stack([mean[0], np.zeros_like(mean[0]), mean[1]])
    both = selflabel.label(image, seeds, LABELER, probs=probs)
    expected = selflabel.label(image, seeds, alone, probs=full)
    np.testing.assert_allclose(both.labels, expected.labels, atol=1e-6)
    assert both.energy == pytest.approx(expected.energy, rel=1e-5)
    assert both.changes == expected.changes
    other = selflabel.label(image, seeds, alone, probs=probs)
    assert abs(both.labels - other.labels).max() > 0.1


def test_an_image_without_seeds_has_the_prediction_alone() -> None:
    image, seeds, probs, _ = scene()
    unseeded = np.full_like(seeds, UNLABELED)
    found = selflabel.label(image, unseeded, LABELER, probs=probs)
    expected = selflabel.label(image, unseeded, replace(LABELER, annotator=None), probs=probs)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_without_an_annotator_the_prediction_stays_as_it_is() -> None:
    image, seeds, probs, _ = scene()
    given = torch.from_numpy(probs)
    unit = torch.from_numpy(image).movedim(-1, 0) / 255
    found = replace(LABELER, annotator=None).combined(unit, torch.from_numpy(seeds).long(), 3, given)
    assert found is given
