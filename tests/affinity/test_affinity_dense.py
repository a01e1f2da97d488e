"""Dense affinities against plain loops; how images become features."""

from math import prod

import numpy as np
import pytest
import torch
from support.affinity_loops import FLAT, IMAGES, Array, assert_matrix, kernel, loop
from support.problems import KINDS, make_case, random_labels

from selflabel.affinity import (
    COARSE,
    DENSE_CRF_KERNELS,
    POST_PROCESSING,
    DenseAffinity,
    Exact,
    FilterBuilder,
    GaussianKernel,
    Lattice,
)
from selflabel.affinity.builders import Contrast, Dense, Grid, Window
from selflabel.affinity.gaussian import on_device
from selflabel.affinity.image import Image, as_image
from selflabel.energy import Energy

# --- dense --------------------------------------------------------------------------------------------------

DENSE_KERNELS = (
    GaussianKernel(0.7, 2.0, 40.0),
    GaussianKernel(0.4, 1.2, None),
    GaussianKernel(0.2, 5.0, 90.0),
)

pytestmark = pytest.mark.usefixtures("either_path")


@pytest.mark.quick
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("axes", "spacing"), [(2, None), (2, (1.6, 0.7)), (3, (2.0, 1.0, 0.6))])
def test_dense_is_the_formula(axes: int, spacing: tuple[float, ...] | None, symmetric: bool) -> None:
    image = IMAGES[axes]
    affinity = DenseAffinity.from_image(
        image, DENSE_KERNELS, filtering=Exact(), symmetric=symmetric, spacing=spacing
    )
    expected = []
    for one in image.double().numpy():
        total = np.zeros((prod(one.shape[1:]),) * 2)
        for each in DENSE_KERNELS:
            bare = GaussianKernel(1.0, each.sigma_xy, each.sigma_rgb)

            def weight(
                o: tuple[int, ...], a: Array, b: Array, i: int, j: int, bare: GaussianKernel = bare
            ) -> float:
                return kernel(o, a, b, spacing or (1.0,) * axes, bare)

            part = loop(one * 255, weight)
            if symmetric:
                part = part / np.sqrt(np.outer(part.sum(0), part.sum(1)))
            total += each.weight * part
        expected.append(total)
    assert_matrix(affinity, expected, 2e-5)
    assert np.linalg.eigvalsh(affinity.as_matrix().double().numpy()).min() > -1e-4


@pytest.mark.parametrize(
    ("filtering", "symmetric", "most"),
    [(Lattice(), False, 0.05), (Lattice(), True, 0.05), (COARSE, True, 0.1)],
)
def test_lattice_is_near_the_formula(filtering: FilterBuilder, symmetric: bool, most: float) -> None:
    """On a smooth image of some hundred pixels; the accuracy on photographs is in test_lattice."""
    places = torch.stack(torch.meshgrid(torch.arange(18.0), torch.arange(22.0), indexing="ij")) / 22
    image = torch.stack([places[0], places[1], (places[0] * 7).sin() / 2 + 0.5])[None]
    kernels = (GaussianKernel(1.0, 4.0, 50.0),)
    near, exact = (
        DenseAffinity.from_image(image, kernels, filtering=each, symmetric=symmetric)
        for each in (filtering, Exact())
    )
    values = random_labels(torch.zeros(1, 3, 18, 22))
    wanted = exact.apply(values)
    assert float((near.apply(values) - wanted).norm() / wanted.norm()) < most


def test_a_coarse_lattice_has_fewer_vertices() -> None:
    features = torch.rand(1, 3000, 3, generator=torch.Generator().manual_seed(4)) * 6
    fine, coarse = (lattice.build(features) for lattice in (Lattice(), COARSE))
    assert coarse.vertices < 0.8 * fine.vertices  # type: ignore[attr-defined]


def test_dense_gradient_is_the_filter_again() -> None:
    case = make_case(Energy(), "exact").to(torch.float64)
    values = random_labels(case.probs).requires_grad_()
    along = random_labels(case.probs, 9_311)
    (gradient,) = torch.autograd.grad((case.affinity.apply(values) * along).sum(), values)
    torch.testing.assert_close(gradient, case.affinity.apply(along))


def test_dense_errors() -> None:
    with pytest.raises(ValueError, match="at least one kernel"):
        DenseAffinity.from_image(FLAT, ())
    with pytest.raises(ValueError, match="expected a finite sigma_xy > 0"):
        DenseAffinity.from_image(FLAT, (GaussianKernel(1.0, 0.0, 15.0),))
    with pytest.raises(ValueError, match="expected a finite sigma_rgb > 0"):
        DenseAffinity.from_image(FLAT, (GaussianKernel(1.0, 3.0, -2.0),))
    with pytest.raises(ValueError, match="expected a sigma_xy for every kernel, got None"):
        DenseAffinity.from_image(FLAT, (GaussianKernel(1.0, None, 15.0),))
    with pytest.raises(ValueError, match="positive spacing"):
        DenseAffinity.from_image(FLAT, spacing=(1.0,))
    with pytest.raises(ValueError, match="two or three spatial axes"):
        DenseAffinity.from_features(torch.zeros(1, 3, 7))


def test_images_without_pixels() -> None:
    with pytest.raises(ValueError, match=r"spatial axes with pixels, .* got \(0, 4\)"):
        DenseAffinity.from_image(torch.rand(1, 3, 0, 4))


def test_bandwidths_that_were_seen_in_inference_first() -> None:
    """They are kept, and must not be refused by the graph of a later call."""
    with torch.inference_mode():
        kept = on_device((0.37, 0.41), torch.float32, torch.device("cpu"))
    assert not kept.is_inference()
    assert kept is on_device((0.37, 0.41), torch.float32, torch.device("cpu"))


def test_published_kernels() -> None:
    assert (GaussianKernel(1.0, 100.0, 15.0),) == DENSE_CRF_KERNELS
    assert (GaussianKernel(3.0, 30.0, 5.0), GaussianKernel(5.0, 2.0, None)) == POST_PROCESSING


# --- images -------------------------------------------------------------------------------------------------


def test_colors_are_checked() -> None:
    for ends in (torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.tensor([[[[0.0, 1.0]]]])):
        assert Image(ends).colors.tolist() == [[[[0.0, 255.0]]]]
        assert Image(ends).unit.tolist() == [[[[0.0, 1.0]]]]
        assert Image(ends).shape == (1, 1, 1, 2)
    assert Image(torch.zeros(1, 3, 0, 4)).colors.shape == (1, 3, 0, 4)
    for wrong in (torch.int64, torch.bool, torch.int16):
        with pytest.raises(ValueError, match=f"expected an image of uint8.*got {wrong}"):
            Image(torch.ones(1, 1, 2, 2, dtype=wrong))
    for low, high in ((0.0, 255.0), (-0.1, 0.5), (0.0, float("nan")), (0.0, float("inf"))):
        with pytest.raises(ValueError, match=r"floating-point image in \[0, 1\]"):
            Image(torch.tensor([[[[low, high]]]]))
    for kind in ("grid4", "window", "lattice"):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            KINDS[kind][1](FLAT * 255)


def test_an_image_keeps_what_was_computed_from_it() -> None:
    image = Image(FLAT)
    assert as_image(image) is image
    assert as_image(FLAT).pixels is FLAT
    assert image.unit is FLAT
    assert image.colors is image.colors
    for blur in (0.0, 1.5):
        assert image.lab(blur) is image.lab(blur)
        assert torch.equal(image.lab(blur), Image(FLAT).lab(blur))
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    as_read = Image(Image(bytes_).unit)
    assert torch.equal(as_read.colors, Image(bytes_).colors)
    assert torch.equal(as_read.lab(), Image(bytes_).lab())
    for build in (Grid(), Window(), Contrast(), Dense()):
        one, other = build(Image(FLAT)), build(FLAT)
        assert torch.equal(one.degree(), other.degree())


def test_lab() -> None:
    white = Image(torch.ones(1, 3, 2, 2)).lab()
    np.testing.assert_allclose(white[0, :, 0, 0].numpy(), [100, 0, 0], atol=0.02)
    red = Image(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).lab()
    np.testing.assert_allclose(red.flatten().numpy(), [53.24, 80.09, 67.20], atol=0.02)
    gray = Image(torch.full((2, 1, 2, 2, 2), 0.25)).lab()
    torch.testing.assert_close(gray, torch.full((2, 1, 2, 2, 2), 25.0))
    assert Image(FLAT.double()).lab().dtype == torch.float32
    blurred = Image(FLAT).lab(blur=2.0)
    assert float(blurred.std()) < float(Image(FLAT).lab().std())
    torch.testing.assert_close(blurred[1:], Image(FLAT[1:]).lab(blur=2.0))  # neither over images
    channel = Image(torch.cat([FLAT[:, :1] * 0, FLAT[:, 1:2]], 1)).lab(blur=2.0)[:, 0]
    assert float(channel.abs().max()) == 0  # nor over channels
