"""The photographs of the demo and their strokes."""

import numpy as np

from selflabel.datasets.gallery import Stroke, draw, photographs


def test_strokes_are_lines_in_percent() -> None:
    seeds = draw(
        [Stroke(3, ((0.0, 50.0), (100.0, 50.0))), Stroke(1, ((50.0, 0.0), (50.0, 100.0)))], (20, 40), width=2
    )
    assert seeds.shape == (20, 40)
    assert set(np.unique(seeds).tolist()) == {1, 3, 255}
    assert (seeds[:, 20] == 1).all()  # the later stroke is on top
    assert (seeds[10, :15] == 3).all()
    assert (seeds == 3).sum() < 3 * 40


def test_every_photograph_has_seeds_of_each_class() -> None:
    shown = photographs()
    assert len(shown) >= 5
    for photograph in shown:
        image = photograph.image(96)
        assert max(image.shape[:2]) == 96
        assert image.shape[2] == 3
        seeds = photograph.seeds((image.shape[0], image.shape[1]))
        assert set(np.unique(seeds).tolist()) == {*range(len(photograph.classes)), 255}
        assert 2 <= len(photograph.classes) <= 5
        assert (seeds != 255).mean() < 0.35
