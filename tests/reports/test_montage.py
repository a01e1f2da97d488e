"""Pictures side by side."""

import numpy as np
import pytest

from selflabel.reports.montage import Tile, montage


def test_a_montage_shows_every_tile() -> None:
    red, blue = np.zeros((10, 30, 3), np.uint8), np.zeros((20, 10, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    picture = np.array(montage([[Tile(red, "a"), Tile(blue, "b")], [Tile(blue, "c")]]))
    assert ((picture == (255, 0, 0)).all(-1)).sum() == red.size // 3
    assert ((picture == (0, 0, 255)).all(-1)).sum() == 2 * blue.size // 3
    with pytest.raises(ValueError, match="at least one tile"):
        montage([])
