"""Rows of affinities, as kernels are drawn, against the full matrix."""

import pytest
import torch

from selflabel.affinity.builders import AffinityBuilder, Dense, Grid, SparseNonlocal, Window
from selflabel.affinity.rows import rows

PIXELS = ((0, 0), (3, 5), (5, 6))
SIZE = (6, 7)


@pytest.mark.quick
@pytest.mark.parametrize(
    "build", [Grid(30.0), Window(40.0, 2.0, 2), Dense(40.0, 5.0), SparseNonlocal(40.0, 3.0, 4)]
)
def test_a_row_is_that_of_the_matrix(build: AffinityBuilder) -> None:
    image = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(61_553))
    affinity = build(image)
    found = rows(affinity, PIXELS)
    expected = affinity.as_matrix().view(2, *SIZE, *SIZE)
    for number, (row, column) in enumerate(PIXELS):
        torch.testing.assert_close(found[:, number], expected[:, row, column])


@pytest.mark.parametrize("pixel", [(6, 0), (0, -1), (0, 7), (2,)])
def test_a_pixel_outside_is_refused(pixel: tuple[int, ...]) -> None:
    affinity = Grid()(torch.rand(1, 3, *SIZE))
    with pytest.raises(ValueError, match="expected pixels in an image of 6 x 7, got"):
        rows(affinity, [(0, 0), pixel])
