"""Separable filters by kernels in Triton, against the matrices in torch."""

import math

import pytest
import torch
from torch import Tensor

from selflabel.affinity import FINE, Exact
from selflabel.affinity.filters.exact import SeparableFilter
from selflabel.affinity.filters.protocol import Filter
from selflabel.affinity.filters.separable_gpu import MOST_RADIUS, TritonSeparable
from selflabel.kernels.backend import Backend, Routine, backend

pytestmark = pytest.mark.needs_triton

FLOAT = torch.float32
CASES: dict[tuple[int, ...], tuple[float, ...]] = {
    (37,): (2.0,),
    (9, 70): (1.5, 2.0),
    (3, 2): (0.4, 0.5),
    (34, 3): (2.0, 0.4),
    (1, 1): (2.0, 2.0),
    (3, 34, 5): (1.0, 0.4, 0.4),
}


def built(size: tuple[int, ...], sigmas: tuple[float, ...], device: torch.device) -> Filter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selflabel.affinity.filters.exact.backend", lambda routine, device, dtype: Backend.GPU)
        return Exact().build_grid(size, sigmas, FLOAT, device)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double().cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("size", "classes"), [*((size, 2) for size in CASES), ((37,), 21), ((3, 2), 150)], ids=str
)
def test_filters_as_in_torch(
    size: tuple[int, ...], classes: int, generator: torch.Generator, kernel_device: torch.device
) -> None:
    x = torch.randn(2, classes, math.prod(size), generator=generator)
    exact = SeparableFilter.build(size, CASES[size], dtype=torch.float64)
    found = built(size, CASES[size], kernel_device)
    assert isinstance(found, TritonSeparable)
    assert relative(found.apply(x.to(kernel_device)), exact.apply(x.double())) < 1e-6
    assert relative(found.degree(), exact.degree()) < 1e-6


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("size", CASES, ids=str)
def test_scales_and_adds(
    size: tuple[int, ...], images: int, generator: torch.Generator, kernel_device: torch.device
) -> None:
    n = math.prod(size)
    x, to = (torch.randn(2, n, 3, generator=generator).mT for _ in range(2))
    scale = torch.rand(images, 1, n, generator=generator)
    exact = SeparableFilter.build(size, CASES[size], dtype=torch.float64)
    found = built(size, CASES[size], kernel_device)
    assert isinstance(found, TritonSeparable)
    for own in (scale, None):
        factor: Tensor | float = 1.0 if own is None else own.double()
        added = to.clone(memory_format=torch.contiguous_format).to(kernel_device)
        found.add_scaled(x.to(kernel_device), None if own is None else own.to(kernel_device), 0.7, added)
        assert relative(added, to + 0.7 * factor * exact.apply(factor * x.double())) < 1e-6


def test_wide_kernels_stay_in_torch(kernel_device: torch.device) -> None:
    assert isinstance(built((200, 200), (2.0, MOST_RADIUS / 3.0), kernel_device), SeparableFilter)


def test_values_are_checked(kernel_device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"\[b k 6\]"):
        built((2, 3), (1.0, 1.0), kernel_device).apply(torch.zeros(1, 1, 7, device=kernel_device))


def test_kernels_are_chosen_for_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert backend(Routine.SEPARABLE, cuda, FLOAT) is Backend.GPU
    assert backend(Routine.SEPARABLE, cuda, torch.float64) is Backend.TORCH
    small = FINE.build_grid((9, 9), (0.5, 0.5), FLOAT, torch.device("cpu"))
    assert isinstance(small, SeparableFilter)
