"""Pictures that people look at."""

import numpy as np
import pytest

from selflabel.files.palette import visible

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("shape", [(40, 60, 1), (40, 60, 3), (700, 900, 1)])
def test_dim_pictures_are_stretched(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(4_019)
    ordinary = random.uniform(0.1, 0.9, shape).astype(np.float32)
    np.testing.assert_array_equal(visible(ordinary), ordinary)
    for dim in (ordinary / 16, ordinary / 100 + 0.5):  # 12 bits in 16; an offset
        shown = visible(dim)
        assert shown.dtype == np.float32
        np.testing.assert_allclose(shown, (ordinary - 0.1) / 0.8, atol=0.01)
    spots = ordinary / 16
    spots[0, 0] = 1  # a hot pixel
    assert visible(spots)[1:].max() > 0.8
    flat = np.full(shape, 0.01, np.float32)
    np.testing.assert_array_equal(visible(flat), flat)
