"""Simulated scribbles and clicks: where they lie in regions of known shapes."""

import numpy as np
import pytest
from data_packs.strokes import clicks, longest_path, regions, scribbles


@pytest.mark.quick
def test_regions_are_connected_and_not_small() -> None:
    mask = np.full((20, 40), 255, dtype=np.uint8)
    mask[2:10, 2:10] = 1  # 64 pixels
    mask[10:18, 10:18] = 1  # the same region: they touch in a corner
    mask[0:7, 30:39] = 2  # 63 pixels
    assert [(region.label, int(region.inside.sum())) for region in regions(mask)] == [(1, 128)]


@pytest.mark.quick
def test_scribbles_are_inside_of_each_region_and_repeated() -> None:
    mask = np.array([[3, 255, 0, 3, 7]], dtype=np.uint8).repeat(12, axis=0).repeat(12, axis=1)
    drawn = scribbles(mask, "a")
    labeled = drawn != 255
    np.testing.assert_array_equal(drawn[labeled], mask[labeled])
    for start in (0, 24, 36, 48):
        assert labeled[:, start : start + 12].any()
    assert labeled.mean() < 0.3
    np.testing.assert_array_equal(drawn, scribbles(mask, "a"))


def test_both_ends_of_a_path_are_cut_by_5_to_15_percent() -> None:
    bar = np.zeros((5, 204), dtype=np.uint8)  # eroded, a line of 200 pixels is left
    ends = set()
    for stem in "abcdefgh":
        drawn = scribbles(bar, stem) == 0
        columns = np.flatnonzero(drawn.any(axis=0))
        left, right = (
            columns[0] + 1 - 2,
            202 - columns[-1],
        )  # pixels that are cut: a stroke is one wider than its path
        assert 10 <= left < 30
        assert 10 <= right < 30
        ends |= {left, right}
        np.testing.assert_array_equal(drawn[1:4, columns[0] : columns[-1] + 1], True)
        assert not drawn[[0, 4]].any()
    assert len(ends) > 4


def test_a_region_too_thin_for_erosion_is_scribbled() -> None:
    mask = np.full((40, 80), 255, dtype=np.uint8)
    mask[20, 5:75] = 4
    drawn = scribbles(mask, "thin")
    assert (drawn == 4).sum() >= 40
    assert (mask[drawn == 4] == 4).all()


def test_what_two_steps_of_erosion_remove_is_not_scribbled() -> None:
    mask = np.full((20, 120), 255, dtype=np.uint8)
    mask[:, :20] = 0
    mask[8:12, 20:] = 0  # an arm 4 pixels wide
    assert not (scribbles(mask, "arm")[:, 22:] == 0).any()
    mask[8:13, 20:] = 0
    assert (scribbles(mask, "arm")[:, 22:] == 0).any()


def test_scribbles_of_diagonal_lines_stay_on_them() -> None:
    falling = np.where(np.eye(80, dtype=bool), 0, 255).astype(np.uint8)
    for mask in (falling, falling[:, ::-1]):
        labeled = scribbles(mask, "line") == 0
        assert 56 <= labeled.sum() <= 76
        assert not labeled[mask != 0].any()


@pytest.mark.quick
def test_the_longest_path_of_a_tree() -> None:
    thin = np.zeros((12, 12), dtype=bool)
    thin[5, 1:11] = True
    thin[2:5, 4] = True  # a branch of 3 pixels
    path = longest_path(thin)
    assert sorted(path.tolist()) == [[5, column] for column in range(1, 11)]
    assert len(longest_path(np.ones((1, 1), dtype=bool))) == 1


@pytest.mark.quick
def test_a_click_is_farthest_from_the_boundary() -> None:
    mask = np.full((11, 30), 255, dtype=np.uint8)
    mask[:, :11] = 2
    mask[1:10, 15:24] = 5
    assert np.argwhere(clicks(mask) != 255).tolist() == [[5, 5], [5, 19]]
    assert (clicks(mask)[5, 5], clicks(mask)[5, 19]) == (2, 5)
