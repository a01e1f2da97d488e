"""Builders of affinities use all of their settings."""

from dataclasses import replace

import pytest
import torch
from support.folders import picture

from selflabel.affinity.builders import Contrast, Dense, Grid, Window


def image_of(seed: int) -> torch.Tensor:
    return torch.from_numpy(picture(seed)[0]).movedim(-1, 0)[None] / 255


@pytest.mark.parametrize(
    "builder", [Grid(12.0, 8), Window(20.0, 3.0, 2), Dense(20.0, 5.0), Dense(20.0, 5.0, 1.5)]
)
def test_affinity_builders_use_their_settings(builder: Grid | Window | Dense) -> None:
    image = image_of(914)
    degree = builder(image).degree()
    assert degree.shape == (1, 1, 12, 16)
    assert not torch.allclose(replace(builder, sigma=builder.sigma * 3)(image).degree(), degree)


def test_contrast_and_dense_settings_reach_the_affinity() -> None:
    image = image_of(915)
    for one, other in (
        (Contrast(), Contrast(strength=3.0)),
        (Contrast(), Contrast(blur=2.0)),
        (Contrast(), Contrast(neighbors=4)),
        (Contrast(), Contrast(by_distance=False)),
        (Dense(), Dense(smoothness=2.0)),
        (Dense(smoothness=2.0), Dense(smoothness=2.0, smoothness_xy=1.0)),
        (Dense(), Dense(symmetric=True)),
        (Dense(smoothness=1.0, symmetric=True), Dense(smoothness=1.0, symmetric=True, coarse=True)),
        (Grid(), Grid(neighbors=8)),
        (Window(), Window(sigma_xy=2.0)),
    ):
        assert not torch.allclose(one(image).degree(), other(image).degree())


def test_a_coarse_affinity_is_symmetric() -> None:
    with pytest.raises(ValueError, match="expected symmetric as well"):
        Dense(coarse=True)
