"""Kernels of place alone: a lattice on every device, with Numba and without."""

import pytest
import torch
from support.problems import random_labels

from selflabel.affinity import COARSE, DenseAffinity, Exact, FilterBuilder, GaussianKernel, Lattice
from selflabel.affinity.filters.lattice import FINE
from selflabel.affinity.filters.protocol import grid_features
from selflabel.affinity.filters.weighted import ScaledFilter, apply_sum

pytestmark = pytest.mark.usefixtures("either_path")

CPU = torch.device("cpu")


def test_settings_build_filters_of_the_grid(generator: torch.Generator) -> None:
    """As accurate as of other features; exact for bandwidths below a pixel."""
    size = (40, 50)
    x = (3 * torch.randn(2, 3, 2000, generator=generator)).softmax(1)
    for sigmas in ((3.0, 2.0), (0.9, 2.0)):
        exact, fine, coarse = (
            settings.build_grid(size, sigmas, torch.float32, CPU) for settings in (Exact(), FINE, COARSE)
        )
        wanted = exact.apply(x).double()
        lost = [float((linear.apply(x) - wanted).norm() / wanted.norm()) for linear in (fine, coarse)]
        if sigmas[0] < 1:
            assert lost == [0, 0]
        else:
            assert 0 < lost[0] < 0.04 < lost[1] < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lattice_of_places_is_that_of_features(dtype: torch.dtype, generator: torch.Generator) -> None:
    """For each image of a batch, with one scale for all images, one for each, and none."""
    size = (13, 9)
    shared = FINE.build_grid(size, (2.0, 1.5), dtype, CPU)
    alone = FINE.build(grid_features(size, (2.0, 1.5), dtype, CPU))
    x = torch.randn(3, 2, 117, generator=generator, dtype=dtype)
    torch.testing.assert_close(shared.degree(), alone.degree())
    each = torch.cat([alone.apply(image) for image in torch.split(x, 1)])
    torch.testing.assert_close(shared.apply(x), each)
    scales = torch.rand(3, 1, 117, generator=generator, dtype=dtype)
    for scale in (None, scales[:1], scales):
        factor = torch.ones(1, dtype=dtype) if scale is None else scale
        wanted = 0.7 * factor * torch.cat([alone.apply(image) for image in torch.split(factor * x, 1)])
        torch.testing.assert_close(apply_sum((ScaledFilter(shared, 0.7, scale),), x), wanted)
    with pytest.raises(ValueError, match="shape"):
        shared.apply(torch.zeros(2, 2, 116, dtype=dtype))


def test_a_place_kernel_is_of_its_lattice() -> None:
    """The coarse one loses mass; kernels of place are kept apart."""
    image = torch.zeros(1, 3, 40, 50)
    kernels = (GaussianKernel(1.0, 3.0, None),)
    fine, coarse, again = (
        DenseAffinity.from_image(image, kernels, filtering=filtering)
        for filtering in (Lattice(), COARSE, Lattice())
    )
    middle = [float(affinity.degree()[0, 0, 20, 25]) for affinity in (fine, coarse, again)]
    assert middle[1] < 0.95 * middle[0]
    assert middle[2] == middle[0]


@pytest.mark.parametrize("filtering", [Lattice(), COARSE])
@pytest.mark.needs_numba
def test_kernels_of_place_are_the_same_with_numba_and_without(
    filtering: FilterBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, kernels = torch.rand(2, 3, 30, 40), (GaussianKernel(1.0, 3.0), GaussianKernel(2.0, (1.0, 5.0)))
    values = random_labels(torch.zeros(2, 3, 30, 40))
    found = DenseAffinity.from_image(image, kernels, filtering=filtering, symmetric=True).apply(values)
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    plain = DenseAffinity.from_image(image, kernels, filtering=filtering, symmetric=True).apply(values)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
