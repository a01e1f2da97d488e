"""The interface of pydensecrf against explicit matrices, and scripts as they are written for it."""

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, UInt8
from scipy.special import xlogy

import selflabel.compat.pydensecrf.densecrf as dcrf
from selflabel.compat.pydensecrf.densecrf import Labels
from selflabel.compat.pydensecrf.utils import (
    compute_unary,
    create_pairwise_bilateral,
    create_pairwise_gaussian,
    softmax_to_unary,
    unary_from_labels,
    unary_from_softmax,
)

pytestmark = pytest.mark.quick

H, W, K = 7, 9, 3
SIZE = H * W
Matrix = Float[np.ndarray, "rows columns"]

COMPATIBILITIES = {
    "potts": (2.5, -2.5 * np.eye(K)),
    "diagonal": (np.array([1, 2, -3], np.float32), np.diag([1.0, 2, -3])),
    "matrix": (
        np.array([[0, 1, 2], [3, 0, 1], [0, 1, 0]], np.float32),
        np.array([[0, 2, 1], [2, 0, 1], [1, 1, 0.0]]),
    ),
}
"""As they are given, and as matrices of costs."""


@pytest.fixture
def image(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    return rng.integers(0, 256, (H, W, 3)).astype(np.uint8)


@pytest.fixture
def unary(rng: np.random.Generator) -> Labels:
    return (3 * rng.random((K, SIZE))).astype(np.float32)


def kernel(features: Matrix, normalization: dcrf.NormalizationType) -> Matrix:
    """The normalized kernel, as a matrix on columns of labels."""
    difference = features[:, :, None].astype(float) - features[:, None]
    k: Matrix = np.exp(-0.5 * (difference**2).sum(0))
    d = k.sum(1)
    found: dict[dcrf.NormalizationType, Matrix] = {
        dcrf.NO_NORMALIZATION: k,
        dcrf.NORMALIZE_BEFORE: k / d,
        dcrf.NORMALIZE_AFTER: k / d[:, None],
        dcrf.NORMALIZE_SYMMETRIC: k / np.sqrt(d) / np.sqrt(d)[:, None],
    }
    return found[normalization]


def mean_field(unary: Matrix, terms: list[tuple[Matrix, Matrix]], steps: int) -> Matrix:
    """Parallel updates with pairs of kernel and costs."""
    q = softmax(-unary.astype(float))
    for _ in range(steps):
        q = softmax(-unary - sum(costs @ q @ matrix.T for matrix, costs in terms))
    return q


def softmax(x: Matrix) -> Matrix:
    shifted: Matrix = np.exp(x - x.max(0))
    shifted /= shifted.sum(0)
    return shifted


@pytest.mark.parametrize("normalization", list(dcrf.NormalizationType))
@pytest.mark.parametrize("compat", COMPATIBILITIES)
def test_inference_is_that_of_matrices(
    normalization: dcrf.NormalizationType, compat: str, unary: Labels, image: UInt8[np.ndarray, "h w 3"]
) -> None:
    """Two kernels of one kind."""
    given, costs = COMPATIBILITIES[compat]
    features = create_pairwise_bilateral((4, 3), (80, 90, 100), image, chdim=2)
    places = create_pairwise_gaussian((2, 3), (H, W))
    crf = dcrf.DenseCRF(SIZE, K)
    crf.setUnaryEnergy(unary)
    crf.addPairwiseEnergy(features, given, normalization=normalization)
    crf.addPairwiseEnergy(places, given, normalization=normalization)
    terms = [(kernel(x, normalization), costs) for x in (features, places)]
    assert np.abs(crf.inference(4) - mean_field(unary, terms, 4)).max() < 2e-5
    q = crf.inference(2)
    energy = (xlogy(q, q) + q * (unary + sum(c @ q @ k.T for k, c in terms))).sum()
    assert crf.klDivergence(q) == pytest.approx(energy, rel=1e-5)


def test_steps_are_inference(unary: Labels, image: UInt8[np.ndarray, "h w 3"]) -> None:
    crf = dcrf.DenseCRF2D(W, H, K)
    crf.setUnaryEnergy(unary)
    crf.addPairwiseBilateral(sxy=5, srgb=60, rgbim=image, compat=4)
    q, one, other = crf.startInference()
    assert np.abs(q - softmax(-unary)).max() < 1e-6
    start = crf.klDivergence(q)
    for _ in range(3):
        crf.stepInference(q, one, other)
    assert np.array_equal(q, crf.inference(3))
    assert crf.klDivergence(q) < start


def test_without_unary_classes_are_alike() -> None:
    crf = dcrf.DenseCRF2D(W, H, K)
    crf.addPairwiseGaussian(sxy=3, compat=3)
    assert np.abs(crf.inference(2) - 1 / K).max() < 1e-6


def test_bandwidths_of_images_are_those_of_x_and_y(unary: Labels, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """`DenseCRF2D` takes x first, `utils` the axes in their order."""
    crf = dcrf.DenseCRF2D(W, H, K)
    crf.setUnaryEnergy(unary)
    crf.addPairwiseGaussian(sxy=(1.5, 4), compat=3)
    crf.addPairwiseBilateral(sxy=(6, 2), srgb=(40, 50, 60), rgbim=image, compat=2)
    general = dcrf.DenseCRF(SIZE, K)
    general.setUnaryEnergy(unary)
    general.addPairwiseEnergy(create_pairwise_gaussian((4, 1.5), (H, W)), 3)
    general.addPairwiseEnergy(create_pairwise_bilateral((2, 6), (40, 50, 60), image, 2), 2)
    assert np.abs(crf.inference(5) - general.inference(5)).max() < 1e-5


def test_lattices_are_near_the_matrices(rng: np.random.Generator) -> None:
    """More points than are filtered exactly."""
    height, width = 36, 40
    assert height * width > dcrf.EXACT_POINTS
    blocks = rng.integers(0, 256, (6, 8, 3))
    picture = np.kron(blocks, np.ones((6, 5, 1))).astype(np.uint8)
    costs = (2 * rng.random((K, height * width))).astype(np.float32)
    features = create_pairwise_bilateral((10, 10), 30, picture, 2)
    crf = dcrf.DenseCRF(height * width, K)
    crf.setUnaryEnergy(costs)
    crf.addPairwiseEnergy(features, 5)
    terms = [(kernel(features, dcrf.NORMALIZE_SYMMETRIC), -5 * np.eye(K))]
    expected = mean_field(costs, terms, 5)
    assert np.abs(crf.inference(5) - expected).mean() < 0.01
    assert (crf.inference(5).argmax(0) == expected.argmax(0)).mean() > 0.97


def test_a_script_with_an_annotation(image: UInt8[np.ndarray, "h w 3"]) -> None:
    """As pydensecrf's examples: labels whose 0 is unknown, the two usual kernels, the most probable class."""
    annotation = np.zeros((H, W), np.uint32)
    annotation[1:4, 1:4], annotation[4:6, 5:8] = 1, 2
    image[:, :4], image[:, 4:] = 10, 200
    crf = dcrf.DenseCRF2D(image.shape[1], image.shape[0], 2)
    crf.setUnaryEnergy(unary_from_labels(annotation, 2, gt_prob=0.7, zero_unsure=True))
    crf.addPairwiseGaussian(
        sxy=(3, 3), compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC
    )
    crf.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=image, compat=10)
    found = np.argmax(crf.inference(5), axis=0).reshape(image.shape[:2])
    assert np.array_equal(found, np.arange(W)[None].repeat(H, 0) >= 4)


def test_a_script_with_any_channels(rng: np.random.Generator) -> None:
    """An image of five channels, whose first axis they are; probabilities as the unary."""
    channels = rng.random((5, H, W)).astype(np.float32)
    probs = rng.dirichlet(np.ones(K), (H, W)).transpose(2, 0, 1)
    crf = dcrf.DenseCRF(SIZE, K)
    crf.setUnaryEnergy(unary_from_softmax(probs))
    features = create_pairwise_bilateral(sdims=(3, 3), schan=(0.1,) * 5, img=channels, chdim=0)
    crf.addPairwiseEnergy(features, compat=10)
    assert features.shape == (7, SIZE)
    assert np.allclose(np.sum(crf.inference(3), axis=0), 1, atol=1e-5)


def test_unaries(unary: Labels) -> None:
    logistic = dcrf.LogisticUnary(np.eye(K)[:, :2], unary[:2].astype(float))
    for crf, given in (
        (dcrf.DenseCRF(SIZE, K), dcrf.ConstUnary(logistic.costs)),
        (dcrf.DenseCRF(SIZE, K), logistic),
    ):
        crf.setUnary(given)
        assert np.abs(crf.inference(0) - softmax(np.vstack([-unary[:2], 0 * unary[2]]))).max() < 1e-6
    crf.setUnaryEnergy(np.eye(K)[:, :2], unary[:2])
    assert np.abs(crf.inference(0) - softmax(np.vstack([-unary[:2], 0 * unary[2]]))).max() < 1e-6


def test_labels_become_unaries() -> None:
    labels = np.array([[0, 1], [2, 1]])
    known, other = -np.log(0.7), -np.log(0.15)
    classes = np.arange(3)[:, None]
    plain = unary_from_labels(labels, 3, 0.7, zero_unsure=False)
    assert np.allclose(plain, np.where(classes == labels.ravel(), known, other))
    unsure = unary_from_labels(labels, 3, 0.7)
    assert np.allclose(unsure[:, 0], np.log(3))
    assert np.allclose(unsure[:, 1:], np.where(classes + 1 == labels.ravel()[1:], known, other))
    assert np.array_equal(compute_unary(labels, 3, 0.7), unsure)


def test_probabilities_become_unaries() -> None:
    probs = np.array([[0.5, 1.0], [0.5, 0.0]])
    assert np.allclose(unary_from_softmax(probs), -np.log([[0.5, 1], [0.5, 1e-5]]))
    assert np.allclose(unary_from_softmax(probs, 0.9), -np.log([[0.5, 0.95], [0.5, 0.05]]))
    assert np.allclose(softmax_to_unary(probs, 0.8), -np.log([[0.5, 0.9], [0.5, 0.1]]))
    assert unary_from_softmax(probs.reshape(2, 1, 2)).shape == (2, 2)


def test_features_are_places_and_channels() -> None:
    volume = np.arange(24.0).reshape(2, 3, 4)
    places = create_pairwise_gaussian((1, 2, 4), volume.shape)
    assert places[:, -1].tolist() == [1, 1, 0.75]
    features = create_pairwise_bilateral((1, 2, 4), 0.5, volume)
    assert np.array_equal(features[:3], places)
    assert np.array_equal(features[3], 2 * volume.ravel())


WRONG: dict[str, tuple[Any, str]] = {
    "no points": (lambda: dcrf.DenseCRF(0, K), "at least one point"),
    "unary of another shape": (
        lambda: dcrf.DenseCRF(SIZE, K).setUnaryEnergy(np.zeros((SIZE, K))),
        r"Need \(3, 63\), got \(63, 3\)",
    ),
    "unary with inf": (lambda: dcrf.DenseCRF(1, 2).setUnaryEnergy(np.array([[np.inf], [0]])), "clip"),
    "features of another shape": (lambda: dcrf.LogisticUnary(np.eye(2), np.eye(3)), r"features \(d, nvar\)"),
    "points in the first axis": (
        lambda: dcrf.DenseCRF(SIZE, K).addPairwiseEnergy(np.zeros((SIZE, 2)), 3),
        "the points are the second axis",
    ),
    "compat of float64": (lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian(3, np.ones(K)), "got float64"),
    "compat of other classes": (
        lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian(3, np.ones(5, np.float32)),
        "3 or 3 x 3",
    ),
    "compat nan": (lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian(3, np.nan), "a finite compat"),
    "compat with inf": (
        lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian(3, np.full(K, np.inf, np.float32)),
        "a finite compat",
    ),
    "bandwidth 0": (lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian(0, 3), "expected sxy > 0"),
    "one bandwidth of two": (lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian((3,), 3), "or 2 of them"),
    "height and width exchanged": (
        lambda: dcrf.DenseCRF2D(H, W, K).addPairwiseBilateral(3, 3, np.zeros((H, W, 3), np.uint8), 3),
        "width first",
    ),
    "an image of floats": (
        lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseBilateral(3, 3, np.zeros((H, W, 3)), 3),
        "only works for RGB",
    ),
    "fewer steps than none": (lambda: dcrf.DenseCRF(SIZE, K).inference(-1), "niter >= 0"),
    "steps as text": (lambda: dcrf.DenseCRF(SIZE, K).inference("5"), "whole number, got '5'"),
    "bandwidths as text": (
        lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian("33", 3),
        "of them, got '33'",
    ),
    "bandwidths of text": (
        lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian(("3", "3"), 3),
        "sxy as a number",
    ),
    "no bandwidth": (lambda: dcrf.DenseCRF2D(W, H, K).addPairwiseGaussian(None, 3), "got None"),
    "an array as unary": (
        lambda: dcrf.DenseCRF(SIZE, K).setUnary(np.zeros((K, SIZE))),  # type: ignore[arg-type]
        "setUnaryEnergy",
    ),
    "labels with fractions": (lambda: unary_from_labels(np.array([0.5, 1.0]), 2, 0.7), "whole numbers"),
    "one bandwidth for all axes": (lambda: create_pairwise_gaussian(3, (3, 4)), "give 2 of them"),
    "labels of another shape": (
        lambda: dcrf.DenseCRF(SIZE, K).klDivergence(np.zeros((2, 2), np.float32)),
        r"\(3, 63\)",
    ),
    "certain labels": (lambda: unary_from_labels(np.zeros(3, int), 2, 1.0), "0 < gt_prob < 1"),
    "labels that are no classes": (lambda: unary_from_labels(np.array([0, 255]), 2, 0.7), "got 255"),
    "scale 0": (lambda: unary_from_softmax(np.ones((2, 3)) / 2, 0.0), "0 < scale <= 1"),
    "bandwidths of other axes": (lambda: create_pairwise_gaussian((1, 2), (3, 4, 5)), "each of the axes"),
    "bandwidths of other channels": (
        lambda: create_pairwise_bilateral((1, 2), (1, 2), np.zeros((3, 4, 5)), 2),
        "each of the 5 channels",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="got cuda, and torch finds no GPU: device='cpu'"):
        dcrf.DenseCRF2D(W, H, K, device="cuda")


def test_a_dense_crf_is_one_short_line() -> None:
    field = dcrf.DenseCRF2D(W, H, K)
    field.addPairwiseGaussian(sxy=3, compat=3)
    assert repr(field) == "DenseCRF2D(pixels: 7 x 9, classes: 3, kernels: 1)"
    assert repr(dcrf.DenseCRF(5, 2)) == "DenseCRF(points: 5, classes: 2, kernels: 0)"


@pytest.mark.parametrize("wrong", ["7", None, 1.5, True], ids=str)
def test_sizes_are_whole_numbers(wrong: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match="expected nlabels as a whole number"):
        dcrf.DenseCRF(5, wrong)
    with pytest.raises(ValueError, match="expected w as a whole number"):
        dcrf.DenseCRF2D(wrong, 5, 2)
