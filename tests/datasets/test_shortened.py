"""Shorter strokes."""

import pytest
import torch
from scipy import ndimage

from selflabel.datasets.shortened import shortened
from selflabel.labels import UNLABELED

pytestmark = pytest.mark.quick


def strokes() -> torch.Tensor:
    """A straight one, one of two arms of another class that touches it, and a dot."""
    seeds = torch.full((20, 24), UNLABELED)
    seeds[3, 2:22] = 0
    seeds[4:16, 5] = 1
    seeds[15, 5:15] = 1
    seeds[18, 20] = 0
    return seeds


@pytest.mark.parametrize("length", [0.0, 0.3, 0.5, 1.0])
def test_each_stroke_keeps_its_share_and_stays_connected(length: float) -> None:
    seeds = strokes()
    found = shortened(seeds, length)
    kept = found != UNLABELED
    assert bool((found[kept] == seeds[kept]).all())
    for number, (drawn, components) in {0: (20, 2), 1: (21, 1)}.items():
        labels, count = ndimage.label((found == number).numpy(), structure=[[1, 1, 1]] * 3)
        assert count == components
        assert (labels == 1).sum() == max(1, round(length * drawn))


def test_the_middle_stays() -> None:
    left = (shortened(strokes(), 0.3)[3] == 0).nonzero().flatten()
    assert len(left) == 6
    assert abs(float(left.double().mean()) - 11.5) <= 1  # drawn from 2 to 21


def test_lengths_are_shares() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1 of the drawn one, got 1\.5"):
        shortened(strokes(), 1.5)
