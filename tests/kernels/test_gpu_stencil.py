"""Stencils applied by kernels in Triton, and their Potts sums, against torch in double precision."""

import pytest
import torch
from support.problems import make_case, random_labels

from selflabel.affinity.stencil import Stencil
from selflabel.energy import Energy
from selflabel.kernels.backend import Backend, Routine
from selflabel.kernels.gpu import formulas
from selflabel.terms import RELAXATIONS, Relaxation, potts, potts_and_grad

pytestmark = pytest.mark.needs_triton


@pytest.fixture(autouse=True)
def on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for float32 on the CPU, too."""

    def chosen(routine: Routine, device: torch.device, dtype: torch.dtype) -> Backend:
        return Backend.GPU if dtype == torch.float32 else Backend.TORCH

    monkeypatch.setattr("selflabel.affinity.stencil.backend", chosen)


def drawn(
    kind: str, size: tuple[int, ...], classes: int, device: torch.device
) -> tuple[Stencil, torch.Tensor]:
    """An affinity and labels, in double precision on the CPU."""
    case = make_case(Energy(), kind, size=size, classes=classes, batch=2)
    assert isinstance(case.affinity, Stencil)
    return case.affinity.to(torch.float64), random_labels(case.probs).double()


def there(affinity: Stencil, device: torch.device) -> Stencil:
    weights = tuple(weight.to(device, torch.float32) for weight in affinity.weights)
    return Stencil(affinity.size, affinity.offsets, weights)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
def test_every_relaxation(relaxation: Relaxation, kernel_device: torch.device) -> None:
    affinity, labels = drawn("grid8", (5, 7), 3, kernel_device)
    single = there(affinity, kernel_device), labels.float().to(kernel_device)
    expected, slope = potts_and_grad(labels, affinity, relaxation)
    found, other = potts_and_grad(single[1], single[0], relaxation)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(potts(single[1], single[0], relaxation), found, rtol=1e-12, atol=0)
    for one, precise in ((other.value, slope.value), (other.curvature, slope.curvature)):
        torch.testing.assert_close(one.cpu().double(), precise, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "size", "classes"),
    [
        ("grid4", (1, 1), 2),
        ("grid4", (5, 34), 21),
        ("grid8", (9, 2), 1),
        ("window", (4, 7), 150),
        ("gated", (5, 6), 2),
        ("grid26", (3, 2, 5), 3),
    ],
)
def test_every_size(kind: str, size: tuple[int, ...], classes: int, kernel_device: torch.device) -> None:
    affinity, labels = drawn(kind, size, classes, kernel_device)
    values = labels - 0.3  # any numbers, not labels alone
    single = there(affinity, kernel_device)
    found = single.apply(values.float().to(kernel_device))
    torch.testing.assert_close(found.cpu().double(), affinity.apply(values), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.degree().cpu().double(), affinity.degree(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
def test_labels_in_double_precision(relaxation: Relaxation, kernel_device: torch.device) -> None:
    """With weights in single precision, as where an energy is in doubt."""
    affinity, labels = drawn("grid8", (5, 7), 3, kernel_device)
    single, values = there(affinity, kernel_device), labels.to(kernel_device)
    precise = single.to(torch.float64)
    assert single.has_kernels(values)
    assert not precise.has_kernels(values)
    expected, slope = potts_and_grad(values, precise, relaxation)
    found, other = potts_and_grad(values, single, relaxation)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(potts(values, single, relaxation), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.value, slope.value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(other.curvature, slope.curvature, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(single.apply(values), precise.apply(values), rtol=1e-12, atol=1e-12)


def test_the_formulas_are_those_of_terms() -> None:
    assert list(formulas.RELAXATIONS) == [relaxation.name for relaxation in RELAXATIONS]


def test_graphs_other_types_and_other_shapes_are_left_to_torch(kernel_device: torch.device) -> None:
    affinity, labels = drawn("grid4", (4, 5), 3, kernel_device)
    single, values = there(affinity, kernel_device), labels.float().to(kernel_device)
    assert single.has_kernels(values)
    assert not single.has_kernels(values.requires_grad_())
    assert not affinity.has_kernels(labels.float())
    assert not single.has_kernels(values.detach().half())
    assert not single.has_kernels(values.detach()[:1])
