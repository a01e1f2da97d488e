"""Affinities against plain loops written from the formulas, and against their own full matrix."""

from math import exp, hypot, sqrt

import numpy as np
import pytest
import torch
from support.affinity_loops import FLAT, IMAGES, SOLID, Array, assert_matrix, grid_weight, kernel, loop
from support.problems import DENSE, KERNELS, KINDS, SPARSE, gates, make_case, random_labels
from torch import Tensor

from selflabel.affinity import (
    GATED_CRF_KERNELS,
    Affinity,
    GaussianKernel,
    GridAffinity,
    SparseAffinity,
    WindowAffinity,
)
from selflabel.affinity.grid import grid_offsets
from selflabel.affinity.stencil import Stencil
from selflabel.energy import Energy
from selflabel.terms import BILINEAR, potts

# --- every affinity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_apply_and_degree_are_those_of_the_matrix(kind: str, dtype: torch.dtype) -> None:
    case = make_case(Energy(), kind).to(dtype)
    affinity, labels = case.affinity, random_labels(case.probs)
    before = labels.clone()
    matrix = affinity.as_matrix()
    assert isinstance(affinity, Affinity)
    assert isinstance(affinity, SparseAffinity) == (kind in SPARSE)
    assert affinity.shape == tuple(case.seeds.shape)
    product_ = torch.einsum("bij,bkj->bki", matrix, labels.flatten(2)).view_as(labels)
    result = affinity.apply(labels)
    assert result.dtype == dtype
    torch.testing.assert_close(result, product_, rtol=1e-4, atol=1e-5)
    degree = affinity.degree()
    assert degree.shape == (2, 1, *labels.shape[2:])
    torch.testing.assert_close(degree.flatten(1), matrix.sum(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matrix, matrix.transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert float(matrix.min()) >= (0 if kind in SPARSE or "exact" in kind else -0.01)
    assert torch.equal(labels, before)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_another_type_keep_it(kind: str) -> None:
    case = make_case(Energy(), kind)
    labels = random_labels(case.probs).double()
    result = case.affinity.apply(labels)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, case.affinity.apply(labels.float()).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_floats_times_255(kind: str) -> None:
    image = (make_case(Energy(), kind).image * 255).round().to(torch.uint8)
    build = KINDS[kind][1]
    one: Affinity
    other: Affinity
    if kind == "gated":  # its gates are made from the image
        source, destination = gates(image / 255)
        one, other = (
            WindowAffinity.from_image(x, 2, KERNELS, source=source, destination=destination)
            for x in (image, image / 255)
        )
    else:
        one, other = build(image), build(image / 255)
    torch.testing.assert_close(one.as_matrix(), other.as_matrix(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SPARSE)
def test_edges_list_each_pair_once(kind: str) -> None:
    case = make_case(Energy(), kind)
    affinity = case.affinity
    assert isinstance(affinity, SparseAffinity)
    edges = affinity.edges()
    pairs = {frozenset(pair) for pair in zip(edges.first.tolist(), edges.second.tolist(), strict=True)}
    assert len(pairs) == len(edges.first)
    assert all(len(pair) == 2 for pair in pairs)
    matrix = affinity.as_matrix()
    torch.testing.assert_close(edges.weight, matrix[:, edges.first, edges.second])
    total = matrix.double().sum((1, 2)) / 2
    torch.testing.assert_close(edges.weight.double().sum(1), total)
    order = sorted(zip(edges.first.tolist(), edges.second.tolist(), strict=True))
    assert all(first < second for first, second in order)


@pytest.mark.parametrize("kind", SPARSE)
def test_pairs_add_where_they_look(kind: str) -> None:
    """`add` is the adjoint of `first` and `second`."""
    case = make_case(Energy(), kind)
    affinity, values = case.affinity, random_labels(case.probs)
    assert isinstance(affinity, SparseAffinity)
    total = torch.zeros_like(values)
    for pairs in affinity.pairs():
        before = total.clone()
        pairs.add(total, pairs.second(values), torch.zeros_like(pairs.first(values)))
        changed = total - before
        torch.testing.assert_close(
            (changed * values).sum(), (pairs.second(values) * pairs.first(values)).sum(), rtol=1e-4, atol=1e-5
        )


# --- grid ---------------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("by_distance", [False, True])
@pytest.mark.parametrize(
    ("neighbors", "spacing"),
    [
        (4, None),
        (4, (2.0, 0.7)),
        (8, None),
        (8, (2.0, 0.7)),
        (6, (3.0, 1.0, 0.5)),
        (26, None),
        (26, (3.0, 1.0, 0.5)),
    ],
)
def test_grid_is_the_formula(neighbors: int, spacing: tuple[float, ...] | None, by_distance: bool) -> None:
    axes = 2 if neighbors in (4, 8) else 3
    image = IMAGES[axes]
    affinity = GridAffinity.from_image(image, 41.0, neighbors, by_distance=by_distance, spacing=spacing)
    weight = grid_weight(neighbors, 41.0, by_distance, spacing or (1.0,) * axes)
    assert_matrix(affinity, [loop(one * 255, weight) for one in image.double().numpy()])


@pytest.mark.parametrize("axes", [2, 3])
def test_grid_of_features_has_their_units(axes: int) -> None:
    features = torch.randn(
        2, 5, *IMAGES[axes].shape[2:], generator=torch.Generator().manual_seed(6_551)
    ).double()
    neighbors = 3**axes - 1
    affinity = GridAffinity.from_features(features, 1.7, neighbors)
    weight = grid_weight(neighbors, 1.7, False, (1.0,) * axes)
    assert_matrix(affinity, [loop(one, weight) for one in features.numpy()], 1e-9)
    default = GridAffinity.from_features(features, 1.7)
    assert torch.equal(default.as_matrix(), GridAffinity.from_features(features, 1.7, 2 * axes).as_matrix())


@pytest.mark.parametrize(("neighbors", "axes"), [(4, 2), (8, 2), (6, 3), (26, 3)])
def test_contrast_is_relative_to_each_image(neighbors: int, axes: int) -> None:
    features = IMAGES[axes].double()
    spacing = (1.6, 0.9, 0.8)[:axes]
    affinity = GridAffinity.from_contrast(features, 5.0, neighbors, by_distance=True, spacing=spacing)
    expected = []
    for one in features.numpy():
        linked = loop(one, grid_weight(neighbors, 1e9, False, (1.0,) * axes)) > 0
        squares = loop(one, lambda o, a, b, i, j: float(((a - b) ** 2).sum()))
        rms = sqrt(squares[linked].mean())

        def weight(o: tuple[int, ...], a: Array, b: Array, i: int, j: int, rms: float = rms) -> float:
            length = hypot(*(x * s for x, s in zip(o, spacing, strict=True)))
            return float((exp(-5.0 * sqrt(((a - b) ** 2).sum()) / rms) + 1e-6) / max(length, 1e-9))

        expected.append(np.where(linked, loop(one, weight), 0))
    assert_matrix(affinity, expected, 1e-9)
    louder = GridAffinity.from_contrast(3 * features + 1, 5.0, neighbors, by_distance=True, spacing=spacing)
    torch.testing.assert_close(louder.as_matrix(), affinity.as_matrix())


def test_contrast_of_a_constant_image_is_one() -> None:
    for dtype in (torch.float32, torch.float64):
        affinity = GridAffinity.from_contrast(torch.full((1, 3, 3, 4), 0.3, dtype=dtype), 7.0, 8)
        for weight in affinity.weights:
            torch.testing.assert_close(weight, torch.full_like(weight, 1 + 1e-6))
    lonely = GridAffinity.from_contrast(torch.ones(2, 1, 1, 1))
    assert lonely.as_matrix().tolist() == [[[0.0]], [[0.0]]]


def test_grid_errors() -> None:
    with pytest.raises(ValueError, match="expected 4 or 8 neighbors for 2 axes, got 6"):
        GridAffinity.from_image(FLAT, 9.0, 6)
    with pytest.raises(ValueError, match="expected 6 or 26 neighbors for 3 axes, got 8"):
        GridAffinity.from_image(SOLID, 9.0, 8)
    with pytest.raises(ValueError, match="6 or 26"):
        grid_offsets(4, 3)
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="expected a finite sigma > 0, got"):
            GridAffinity.from_image(FLAT, sigma)
    with pytest.raises(ValueError, match="expected a finite strength > 0"):
        GridAffinity.from_contrast(FLAT, 0.0)
    for spacing in ((1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -2.0)):
        with pytest.raises(ValueError, match="expected a finite, positive spacing for each of 2 axes"):
            GridAffinity.from_image(FLAT, spacing=spacing)
    for shape in ((1, 3, 5), (1, 3, 2, 2, 2, 2), (1, 3, 0, 4)):
        with pytest.raises(ValueError, match="expected two or three spatial axes with pixels"):
            GridAffinity.from_features(torch.zeros(shape))


# --- window -------------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("axes", "radius", "spacing"), [(2, 1, None), (2, 3, (1.7, 0.6)), (3, 2, (2.0, 1.1, 0.7)), (2, 9, None)]
)
def test_window_is_the_formula(
    axes: int, radius: int, spacing: tuple[float, ...] | None, gated: bool
) -> None:
    image = IMAGES[axes]
    kernels = (*KERNELS, GaussianKernel(0.3, 1.1, None))
    source, destination = gates(image) if gated else (None, None)
    affinity = WindowAffinity.from_image(
        image, radius, kernels, source=source, destination=destination, spacing=spacing
    )
    ones = torch.ones_like(image[:, :1])
    expected = []
    for number, one in enumerate(image.double().numpy()):
        src = (ones if source is None else source)[number].flatten().double().numpy()
        dst = (ones if destination is None else destination)[number].flatten().double().numpy()

        def weight(
            o: tuple[int, ...], a: Array, b: Array, i: int, j: int, src: Array = src, dst: Array = dst
        ) -> float:
            if i == j or max(map(abs, o)) > radius:
                return 0.0
            mixture = sum(kernel(o, a, b, spacing or (1.0,) * axes, each) for each in kernels)
            return float(mixture * (dst[i] * src[j] + dst[j] * src[i]) / 2)

        expected.append(loop(one * 255, weight))
    assert_matrix(affinity, expected)


def test_one_gate_is_enough() -> None:
    source, _ = gates(FLAT)
    one = WindowAffinity.from_image(FLAT, 1, source=source)
    other = WindowAffinity.from_image(FLAT, 1, source=source, destination=torch.ones_like(source))
    none = WindowAffinity.from_image(FLAT, 1)
    assert torch.equal(one.as_matrix(), other.as_matrix())
    assert not torch.equal(one.as_matrix(), none.as_matrix())


def test_window_of_features_and_of_one_pixel() -> None:
    features = FLAT.double() * 255
    assert torch.allclose(
        WindowAffinity.from_features(features, 2).as_matrix(),
        WindowAffinity.from_image(FLAT.double(), 2).as_matrix(),
    )
    assert WindowAffinity.from_features(features[..., :1, :1], 2).as_matrix().tolist() == [[[0.0]], [[0.0]]]


def test_window_errors() -> None:
    with pytest.raises(ValueError, match="expected radius as a whole number >= 1, got 0"):
        WindowAffinity.from_image(FLAT, 0)
    with pytest.raises(ValueError, match="at least one kernel"):
        WindowAffinity.from_image(FLAT, 1, ())
    with pytest.raises(ValueError, match="two or three spatial axes"):
        WindowAffinity.from_features(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="positive spacing"):
        WindowAffinity.from_image(FLAT, 1, spacing=(1.0, 0.0))


@pytest.mark.usefixtures("unchecked")
def test_window_gates_are_checked() -> None:
    with pytest.raises(
        ValueError, match=r"expected a source gate of shape \(2, 1, 5, 6\), got \(1, 1, 5, 6\)"
    ):
        WindowAffinity.from_image(FLAT, 1, source=torch.ones(1, 1, 5, 6))
    with pytest.raises(ValueError, match="expected a destination gate"):
        WindowAffinity.from_image(FLAT, 1, destination=torch.ones(2, 1, 6, 5))


# --- coarsening ---------------------------------------------------------------------------------------------


def energy_of_pairs(affinity: Stencil, labels: Tensor) -> Tensor:
    edges = affinity.edges()
    p, q = (labels.flatten(2)[..., ends] for ends in (edges.first, edges.second))
    return (edges.weight * (p - q).square().sum(1) / 2).sum(1)


def blow_up(blocks: Tensor, size: tuple[int, ...]) -> Tensor:
    for axis in range(2, blocks.ndim):
        blocks = blocks.repeat_interleave(2, axis)
    inside = tuple(slice(n) for n in size)
    return blocks[(slice(None), slice(None), *inside)]


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("odd", [0, 1])
def test_coarse_affinity_gives_the_sum_of_constant_blocks(kind: str, odd: int) -> None:
    axes = KINDS[kind][0]
    size = tuple(n + odd * (a != 1) for a, n in enumerate((6, 4, 4)[:axes]))
    affinity = make_case(Energy(), kind, size=size).to(torch.float64).affinity
    assert isinstance(affinity, Stencil)
    coarse = affinity.coarsen()
    assert coarse.shape == (2, *((n + 1) // 2 for n in size))
    soft = random_labels(torch.zeros(2, 3, *coarse.size, dtype=torch.float64))
    torch.testing.assert_close(energy_of_pairs(coarse, soft), energy_of_pairs(affinity, blow_up(soft, size)))
    hard = torch.nn.functional.one_hot(soft.argmax(1)).movedim(-1, 1).double()
    expected = potts(blow_up(hard, size), affinity, BILINEAR)
    torch.testing.assert_close(potts(hard, coarse, BILINEAR), expected)
    edges = coarse.edges()
    pairs = {frozenset(pair) for pair in zip(edges.first.tolist(), edges.second.tolist(), strict=True)}
    assert len(pairs) == len(edges.first)
    assert all(len(pair) == 2 for pair in pairs)


def test_coarse_affinity_of_one_line() -> None:
    """One pixel an axis: blocks of one by two."""
    features = torch.arange(5.0).view(1, 1, 1, 5) / 3
    coarse = GridAffinity.from_features(features, 1.0, 8).coarsen()
    assert coarse.size == (1, 3)
    weight = exp(-1 / 18)
    expected = torch.tensor([[0, weight, 0], [weight, 0, weight], [0, weight, 0]])
    torch.testing.assert_close(coarse.as_matrix()[0], expected)


def test_weights_of_another_type() -> None:
    affinity = make_case(Energy(), "grid8").affinity
    assert isinstance(affinity, Stencil)
    double = affinity.to(torch.float64)
    assert all(weight.dtype == torch.float64 for weight in double.weights)
    torch.testing.assert_close(double.as_matrix().float(), affinity.as_matrix())


def test_kinds_cover_all_affinities() -> None:
    assert set(DENSE) | set(SPARSE) == set(KINDS)
    assert {KINDS[kind][0] for kind in DENSE} == {KINDS[kind][0] for kind in SPARSE} == {2, 3}


def test_protocol_of_tensors() -> None:
    assert not isinstance(Tensor, Affinity)


@pytest.mark.usefixtures("unchecked")
def test_features_are_finite_floats() -> None:
    whole = torch.randint(0, 255, (1, 3, 5, 6), dtype=torch.uint8)
    nan = torch.full((1, 3, 5, 6), torch.nan)
    for build in (GridAffinity.from_features, GridAffinity.from_contrast, WindowAffinity.from_features):
        with pytest.raises(ValueError, match="finite features"):
            build(nan)
        with pytest.raises(ValueError, match=r"floating point, got torch\.uint8"):
            build(whole)


def test_kernels_weigh_something() -> None:
    for weight in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"finite weight of every kernel > 0, got {weight}"):
            GaussianKernel(weight, 6.0, 15.0)


def test_bandwidths_of_kernels_are_positive() -> None:
    for sigma in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"expected a finite sigma_xy > 0, got {sigma}"):
            GaussianKernel(1.0, sigma, 5.0)
        with pytest.raises(ValueError, match=f"expected a finite sigma_rgb > 0, got {sigma}"):
            GaussianKernel(1.0, None, sigma)


def test_published_window_kernel() -> None:
    assert (GaussianKernel(1.0, 6.0, 15.0),) == GATED_CRF_KERNELS


@pytest.mark.parametrize("sigma", [1e-300, 1e-160, 1e-30, 1e-20, 1e-3])
def test_a_tiny_bandwidth_leaves_the_weight_between_equal_pixels(sigma: float) -> None:
    image = torch.tensor([[0.25, 0.25, 0.5, 0.5]])[None, None]
    for affinity in (
        GridAffinity.from_image(image, sigma),
        WindowAffinity.from_image(image, 1, (GaussianKernel(1.0, None, sigma),)),
    ):
        weights = affinity.edges().weight
        assert weights.tolist() == [[1.0, 0.0, 1.0]]
    far = WindowAffinity.from_image(image, 2, (GaussianKernel(1.0, sigma, None),)).edges().weight
    assert not far.any()


@pytest.mark.parametrize("sigma", [1e15, 1e30, 1e200])
def test_a_huge_bandwidth_makes_all_weights_one(sigma: float) -> None:
    image = torch.tensor([[0.25, 0.75, 0.5]])[None, None]
    for affinity in (
        GridAffinity.from_image(image, sigma),
        WindowAffinity.from_image(image, 2, (GaussianKernel(1.0, sigma, sigma),)),
    ):
        assert bool((affinity.edges().weight == 1).all())


def test_a_window_beyond_the_image_is_that_of_the_image() -> None:
    image = torch.rand(1, 2, 6, 9, generator=torch.Generator().manual_seed(3))
    largest, beyond = (WindowAffinity.from_image(image, radius) for radius in (8, 100_000))
    assert largest.offsets == beyond.offsets
    assert torch.equal(largest.as_matrix(), beyond.as_matrix())


def test_a_window_too_large_for_the_memory_is_refused_before_it_is_computed() -> None:
    image = torch.rand(1, 3, 2000, 2000)
    with pytest.raises(
        MemoryError, match=r"a window of radius 3000 on \(2000, 2000\) .* take .* GB .*: use a smaller"
    ):
        WindowAffinity.from_image(image, 3000)
