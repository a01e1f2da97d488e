"""The three dense filters against the explicit matrix in double precision."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selflabel.affinity.filters.exact import Exact, SeparableFilter
from selflabel.affinity.filters.lattice import COARSE, FINE, Lattice
from selflabel.affinity.filters.lattice_torch import blurs
from selflabel.affinity.filters.permutohedral import blur_taps, evenness, gain, self_weights
from selflabel.affinity.filters.protocol import (
    Filter,
    FilterBuilder,
    check_features,
    check_values,
    filter_values,
)

pytestmark = pytest.mark.usefixtures("either_path")

DOUBLE = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def explicit(features: Tensor) -> Tensor:
    """K ``[b n n]`` in double precision, element by element."""
    f = features.double()
    return torch.exp(-0.5 * (f[:, :, None] - f[:, None]).square().sum(3))


def scene(size: tuple[int, ...], seed: int, colors: int = 3) -> Tensor:
    """Features ``[1 n d]`` of an image with three flat regions, shading and noise; bandwidths (15, 10)."""
    draw = generator(seed)
    axes = torch.meshgrid(*(torch.arange(s, dtype=DOUBLE) for s in size), indexing="ij")
    place = torch.stack(axes, -1).reshape(-1, len(size))
    middles = torch.rand(3, len(size), generator=draw, dtype=DOUBLE) * torch.tensor(size)
    region = torch.cdist(place, middles).argmin(1)
    paint = 255 * torch.rand(3, colors, generator=draw, dtype=DOUBLE)[region]
    paint += 0.5 * place.sum(1, keepdim=True)
    paint += 8 * torch.randn(paint.shape, generator=draw, dtype=DOUBLE)
    return torch.cat([place / 10, paint / 15], 1)[None]


def soft(b: int, k: int, n: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(b, k, n, generator=generator(seed), dtype=dtype).mul(3).softmax(1)


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


SCENES = {
    "photo": lambda: scene((48, 40), 812),
    "gray": lambda: scene((40, 48), 377, colors=1),
    "volume": lambda: scene((9, 14, 16), 965, colors=1),
    "color-volume": lambda: scene((9, 14, 16), 118),
}


@pytest.mark.parametrize("name", SCENES)
def test_exact_filter_is_the_matrix(name: str) -> None:
    features = SCENES[name]().float()
    kernel = explicit(features)
    x = soft(1, 4, features.shape[1], 5210)
    wanted = x.double() @ kernel
    exact = Exact().build(features)
    assert relative(exact.apply(x), wanted) < 2e-6
    assert relative(exact.degree(), kernel.sum(2)) < 2e-6
    double = Exact().build(features.double())
    assert double.apply(x.double()).dtype == DOUBLE
    assert relative(double.apply(x.double()), wanted) < 1e-13


def test_exact_filter_joins_its_tiles() -> None:
    features = torch.rand(2, 2311, 3, generator=generator(64), dtype=DOUBLE) * 5  # no multiple of a tile
    x = soft(2, 3, 2311, 65, DOUBLE)
    assert relative(Exact().build(features).apply(x), x @ explicit(features)) < 1e-13


@pytest.mark.parametrize("kind", ["soft", "masks", "ones"])
@pytest.mark.parametrize("name", SCENES)
def test_lattice_is_within_four_percent(name: str, kind: str) -> None:
    features = SCENES[name]()
    n = features.shape[1]
    index = (torch.arange(n) * 3 // n)[None]
    x = {
        "soft": soft(1, 4, n, 7031),
        "masks": torch.nn.functional.one_hot(index).float().transpose(1, 2),
        "ones": torch.ones(1, 1, n),
    }[kind]
    wanted = x.double() @ explicit(features)
    got = Lattice().build(features.float()).apply(x)
    assert relative(got, wanted) < 0.04
    assert abs(float(got.sum()) / float(wanted.sum()) - 1) < 0.03


def test_settings_are_values() -> None:
    assert (Lattice(1.3, 2), Lattice(0.8, 1)) == (FINE, COARSE)
    assert all(isinstance(settings, FilterBuilder) for settings in (FINE, Exact()))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6])
def test_lattice_gain_is_one(d: int) -> None:
    features = torch.rand(1, 3000, d, generator=generator(40 + d), dtype=DOUBLE) * 4
    whole = explicit(features).sum()
    for variance, radius, bound in ((1.2, 2, 0.04), (1.6, 4, 0.01)):  # a short blur loses the tails
        ratio = Lattice(variance, radius).build(features).degree().sum() / whole
        assert abs(float(ratio) - 1) < bound


def test_finer_lattice_is_more_accurate() -> None:
    features = scene((48, 40), 2309)
    x = soft(1, 3, features.shape[1], 11, DOUBLE)
    wanted = x @ explicit(features)
    errors = [
        relative(Lattice(v, r).build(features).apply(x), wanted) for v, r in ((0.7, 2), (1.2, 3), (3.0, 5))
    ]
    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2]
    assert errors[2] < 0.01


def test_lattice_of_pixels_apart_is_the_identity_nearly() -> None:
    """Only the diagonal is left: between its values at a vertex and in the middle of a simplex."""
    features = torch.rand(1, 400, 3, generator=generator(77), dtype=DOUBLE) * 4000
    degree = Lattice().build(features).degree()
    assert float(degree.min()) > 0.85
    assert float(degree.max()) < 1.35
    assert abs(float(degree.mean()) - 1) < 0.04


def test_taps_and_interpolation_have_the_variance_asked_for() -> None:
    for variance, radius in ((0.9, 6), (1.1, 6), (2.3, 9)):
        weights = blur_taps(variance, radius)
        total = weights[0] + 2 * sum(weights[1:])
        second = 2 * sum(q * q * w for q, w in enumerate(weights))
        assert total == pytest.approx(1, abs=2e-3)
        assert second + 1 / 6 == pytest.approx(variance, abs=2e-2)


def test_gain_makes_up_for_cut_blur_taps() -> None:
    """For a twelfth of what they carry, of a constant on a full lattice; with all taps it is the cell's volume."""
    cell = (2 * math.pi * 1.3) ** 2.5 * math.sqrt(6)
    assert gain(1.3, 5, blur_taps(1.3, 9)) == pytest.approx(cell, rel=1e-4)
    weights = blur_taps(1.3, 2)
    lost = 6 * (1 - weights[0] - 2 * sum(weights[1:]))
    assert gain(1.3, 5, weights) / cell - 1 == pytest.approx(lost / 12, rel=0.1)


def test_self_weights_are_the_blur_between_corners() -> None:
    d, weights = 3, blur_taps(1.1, 2)
    strides = [400, 20, 1]
    corners = torch.tensor([0, 400, 420, 421])  # base, and one unit vector more each time
    dense = torch.eye(4, dtype=DOUBLE)
    along = torch.tensor(weights[:0:-1] + weights, dtype=DOUBLE)
    for step in blurs(corners + 5000, [*strides, -sum(strides)], along):
        dense = step.apply(dense)
    wanted = torch.tensor(self_weights(weights, d), dtype=DOUBLE)
    torch.testing.assert_close(dense, wanted[(torch.arange(4)[:, None] - torch.arange(4)).abs()])


def test_evenness_averages_to_one_over_the_simplex() -> None:
    corner = -torch.rand(5, 200_000, generator=generator(31), dtype=DOUBLE).log()
    place = corner / corner.sum(0)  # uniform
    weights = blur_taps(1.1, 2)
    assert evenness(place, weights).pow(-4).mean() == pytest.approx(1, abs=1e-3)
    assert evenness(torch.eye(5, dtype=DOUBLE), weights).max() < 1  # sharp at the vertices: less there


def filters(features: Tensor, size: tuple[int, ...]) -> dict[str, Filter]:
    return {
        "exact": Exact().build(features),
        "lattice": Lattice().build(features),
        "separable": SeparableFilter.build(size, 2.7, dtype=features.dtype),
    }


NAMES = ("exact", "lattice", "separable")


@pytest.mark.parametrize("name", NAMES)
def test_symmetric(name: str) -> None:
    linear = filters(scene((12, 17), 431), (12, 17))[name]
    matrix = linear.apply(torch.eye(204, dtype=DOUBLE)[None])[0]
    assert (matrix - matrix.t()).abs().max() < 1e-12


def test_lattice_has_no_large_negative_eigenvalue() -> None:
    linear = Lattice().build(scene((12, 17), 432))
    values = torch.linalg.eigvalsh(linear.apply(torch.eye(204, dtype=DOUBLE)[None])[0])
    assert values.min() > -1e-3 * values.max()


@pytest.mark.parametrize("name", NAMES)
def test_adjoint_in_single_precision(name: str) -> None:
    linear = filters(scene((30, 25), 52).float(), (30, 25))[name]
    x, y = soft(1, 3, 750, 1), soft(1, 3, 750, 2)
    left, right = (linear.apply(x) * y).double().sum(), (x * linear.apply(y)).double().sum()
    assert abs(float(left / right) - 1) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradient(name: str) -> None:
    linear = filters(scene((3, 5), 88), (3, 5))[name]
    x = torch.randn(1, 2, 15, generator=generator(89), dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: filter_values(linear.apply, v), x)
    assert torch.autograd.gradgradcheck(lambda v: filter_values(linear.apply, v).square(), x)
    assert not linear.apply(x).requires_grad


def test_gradient_keeps_no_graph_of_the_features() -> None:
    features = scene((3, 5), 90).requires_grad_()
    for linear in filters(features, (3, 5)).values():
        assert not filter_values(linear.apply, soft(1, 2, 15, 91, DOUBLE)).requires_grad


@pytest.mark.parametrize("filtering", [Exact(), Lattice()])
def test_batch_is_each_alone(filtering: FilterBuilder) -> None:
    features = torch.cat([scene((20, 30), seed).float() for seed in (1, 2, 3)])
    features[1] = features[1] * 3 + 100  # other cells, and another range of them
    x = soft(3, 4, 600, 4)
    together = filtering.build(features).apply(x)
    for i in range(3):
        assert torch.equal(filtering.build(features[i : i + 1]).apply(x[i : i + 1])[0], together[i])


def test_separable_batch_is_each_alone() -> None:
    x = soft(3, 4, 35, 44, DOUBLE)
    linear = SeparableFilter.build((5, 7), (1.5, 2.5), dtype=DOUBLE)
    for i in range(3):
        torch.testing.assert_close(linear.apply(x[i : i + 1])[0], linear.apply(x)[i])


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_twice_and_inputs_untouched(name: str) -> None:
    features, x = scene((20, 30), 17).float(), soft(1, 4, 600, 18)
    kept = features.clone(), x.clone()
    first, second = (filters(features, (20, 30))[name].apply(x) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(features, kept[0])
    assert torch.equal(x, kept[1])


@pytest.mark.parametrize("name", NAMES)
def test_values_may_be_strided(name: str) -> None:
    linear = filters(scene((6, 5), 23), (6, 5))[name]
    x = soft(1, 30, 3, 24, DOUBLE).transpose(1, 2)
    torch.testing.assert_close(linear.apply(x), linear.apply(x.contiguous()))
    torch.testing.assert_close(linear.apply(x[:, :1].expand(1, 4, 30))[:, 3], linear.apply(x)[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_degree_is_computed_once(name: str) -> None:
    linear = filters(scene((6, 5), 25), (6, 5))[name]
    assert linear.degree() is linear.degree()
    torch.testing.assert_close(linear.degree(), linear.apply(torch.ones(1, 1, 30, dtype=DOUBLE))[:, 0])


@pytest.mark.parametrize("filtering", [Exact(), Lattice()])
@pytest.mark.parametrize("d", [1, 5])
def test_degenerate_features(filtering: FilterBuilder, d: int) -> None:
    one = filtering.build(torch.full((1, 1, d), 3.7)).degree()
    assert one.shape == (1, 1)
    assert 0.95 < float(one) < 1.05
    flat = filtering.build(torch.full((1, 500, d), -12.3)).degree()
    assert torch.allclose(flat, 500 * one, rtol=1e-4)


@pytest.mark.parametrize("d", [2, 3])
def test_wide_features_have_keys(d: int) -> None:
    features = torch.rand(1, 300, d, generator=generator(d), dtype=DOUBLE) * 1e4
    assert relative(Lattice().build(features).degree(), explicit(features).sum(2)) < 0.2


@pytest.mark.parametrize(
    ("size", "sigma"),
    [((31, 19), 2.0), ((300, 3), (1.5, 4.0)), ((7, 9, 11), (1.0, 2.0, 40.0)), ((450,), 20.0)],
)
def test_separable_filter_is_the_matrix(size: tuple[int, ...], sigma: float | tuple[float, ...]) -> None:
    axes = torch.meshgrid(*(torch.arange(s, dtype=DOUBLE) for s in size), indexing="ij")
    place = torch.stack([a.flatten() for a in axes], 1)
    kernel = explicit(place[None] / torch.tensor(sigma, dtype=DOUBLE))
    x = soft(2, 3, math.prod(size), 612)
    wanted = x.double() @ kernel
    assert relative(SeparableFilter.build(size, sigma).apply(x), wanted) < 1e-6
    double = SeparableFilter.build(size, sigma, dtype=DOUBLE)
    assert relative(double.apply(x.double()), wanted) < 1e-7
    assert relative(double.degree(), kernel.sum(2)) < 1e-7


def test_separable_cut_is_where_it_is_said() -> None:
    row = SeparableFilter.build((101,), 4.0, truncate=2.0).apply(torch.eye(101)[None, 50:51])[0, 0]
    assert row.nonzero()[:, 0].tolist() == list(range(42, 59))


@pytest.mark.parametrize("check", [check_features, Exact().build, Lattice().build])
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 0, 3), "shape"),
        (torch.zeros(1, 4, 0), "shape"),
        (torch.zeros(1, 4, 3, dtype=torch.float16), "float16"),
        (torch.tensor([[[0.0], [math.nan]]]), "finite"),
        (torch.tensor([[[0.0], [math.inf]]]), "finite"),
    ],
)
def test_features_are_checked(check: Callable[[Tensor], object], features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(features)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\[b n d\]"):
        check_features(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"\[2 k 12\]"):
        check_values(torch.zeros(2, 12), 2, 12, torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_checked(name: str) -> None:
    linear = filters(scene((4, 3), 26), (4, 3))[name]
    for shape in ((1, 2, 13), (1, 0, 12)):
        with pytest.raises(ValueError, match="shape"):
            linear.apply(torch.zeros(shape, dtype=DOUBLE))
    with pytest.raises(ValueError, match="float32"):
        linear.apply(torch.zeros(1, 2, 12))
    if name != "separable":
        with pytest.raises(ValueError, match="shape"):
            linear.apply(torch.zeros(2, 2, 12, dtype=DOUBLE))


def test_keys_that_overflow_are_an_error() -> None:
    with pytest.raises(
        ValueError,
        match=r"fewer than 2\^62 lattice cells, got about 10\^\d+ in \d+ dimensions: keep at most \d",
    ):
        Lattice().build(torch.rand(1, 9, 6, generator=generator(8)) * 1e5)


@pytest.mark.parametrize(("variance", "radius"), [(0.1, 2), (1.1, 0), (math.nan, 2)])
def test_lattice_parameters_are_checked(variance: float, radius: int) -> None:
    with pytest.raises(ValueError, match="variance"):
        Lattice(variance, radius)


@pytest.mark.parametrize(
    ("size", "sigma", "truncate"),
    [((), 1.0, 6.0), ((4, 0), 1.0, 6.0), ((4, 4), (1.0,), 6.0), ((4, 4), 0.0, 6.0), ((4, 4), 1.0, -1.0)],
)
def test_separable_parameters_are_checked(
    size: tuple[int, ...], sigma: float | tuple[float, ...], truncate: float
) -> None:
    with pytest.raises(ValueError, match="expected positive"):
        SeparableFilter.build(size, sigma, truncate=truncate)


def test_filters_are_frozen_and_known_by_their_protocol() -> None:
    for linear in filters(scene((4, 3), 27), (4, 3)).values():
        assert isinstance(linear, Filter)
        with pytest.raises(dataclasses.FrozenInstanceError):
            linear.batch = 3  # type: ignore[attr-defined]


def test_mean_field_on_the_lattice_gives_the_exact_labels() -> None:
    """For 99 % of the pixels, after ten steps with an appearance and a smoothness kernel."""
    size = (64, 64)
    features = scene(size, 5521)
    smooth = SeparableFilter.build(size, 3.0, dtype=DOUBLE)
    unary = torch.randn(1, 21, 64 * 64, generator=generator(5522), dtype=DOUBLE)
    labels = []
    for appearance in (Exact().build(features), Lattice().build(features)):
        x = unary.softmax(1)
        for _ in range(10):
            x = (unary + 0.004 * appearance.apply(x) + 0.02 * smooth.apply(x)).softmax(1)
        labels.append(x.argmax(1))
    assert (labels[0] == labels[1]).double().mean() > 0.99
    assert len(set(labels[0].flatten().tolist())) > 2
