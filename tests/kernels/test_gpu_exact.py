"""The exact filter by kernels in Triton, against the matrix in double precision."""

import pytest
import torch
from torch import Tensor

from selflabel.affinity import Exact
from selflabel.affinity.filters.exact import ExactFilter
from selflabel.affinity.filters.exact_gpu import MOST_DIMENSIONS, TritonExact
from selflabel.affinity.filters.protocol import Filter
from selflabel.kernels.backend import Backend, Routine, backend

pytestmark = pytest.mark.needs_triton


def built(features: Tensor) -> Filter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selflabel.affinity.filters.exact.backend", lambda routine, device, dtype: Backend.GPU)
        return Exact().build(features)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double().cpu() - expected).norm() / expected.norm())


def matrix(features: Tensor) -> Tensor:
    f = features.double()
    return torch.exp(-0.5 * (f[:, :, None] - f[:, None]).square().sum(3))


@pytest.mark.parametrize(
    ("batch", "pixels", "d", "classes"),
    [(1, 300, 5, 3), (2, 130, 3, 1), (1, 1, 2, 2), (1, 70, 2, 21), (1, 65, 1, 150)],
)
def test_filters_as_the_matrix(
    batch: int,
    pixels: int,
    d: int,
    classes: int,
    generator: torch.Generator,
    kernel_device: torch.device,
) -> None:
    features = 100 + 3 * torch.rand(batch, pixels, d, generator=generator)
    x = torch.randn(batch, classes, pixels, generator=generator)
    found, kernel = built(features.to(kernel_device)), matrix(features)
    assert isinstance(found, TritonExact)
    assert relative(found.apply(x.to(kernel_device)), x.double() @ kernel) < 5e-6
    assert relative(found.degree(), kernel.sum(2)) < 5e-6


@pytest.mark.parametrize("images", [1, 2])
def test_scales_and_adds(images: int, generator: torch.Generator, kernel_device: torch.device) -> None:
    features, scale = (
        torch.rand(2, 90, 2, generator=generator),
        torch.rand(images, 1, 90, generator=generator),
    )
    x, to = (torch.randn(2, 90, 3, generator=generator).mT for _ in range(2))
    found, kernel = built(features.to(kernel_device)), matrix(features)
    assert isinstance(found, TritonExact)
    for own in (scale, None):
        factor: Tensor | float = 1.0 if own is None else own.double()
        added = to.clone(memory_format=torch.contiguous_format).to(kernel_device)
        found.add_scaled(x.to(kernel_device), None if own is None else own.to(kernel_device), 0.7, added)
        assert relative(added, to + 0.7 * factor * ((factor * x.double()) @ kernel)) < 5e-6


def test_many_dimensions_stay_in_torch(kernel_device: torch.device) -> None:
    features = torch.zeros(1, 3, MOST_DIMENSIONS + 1, device=kernel_device)
    assert isinstance(built(features), ExactFilter)


def test_values_are_checked(kernel_device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"\[1 k 3\]"):
        built(torch.zeros(1, 3, 2, device=kernel_device)).apply(torch.zeros(1, 1, 4, device=kernel_device))


def test_kernels_are_chosen_for_float32_on_a_gpu() -> None:
    cuda = torch.device("cuda")
    assert backend(Routine.EXACT, cuda, torch.float32) is Backend.GPU
    assert backend(Routine.EXACT, cuda, torch.float64) is Backend.TORCH
