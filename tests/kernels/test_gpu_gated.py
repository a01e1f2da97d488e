"""The gated CRF loss by kernels in Triton, against the same loss in torch in double precision."""

import pytest
import torch
from support.gated_formulas import KERNELS, SIZES, SPACINGS, asymmetric, case, gates_of
from torch import Tensor

from selflabel.affinity import GaussianKernel, streamed_gpu
from selflabel.affinity.streamed import StreamedWindow
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.losses.gated_crf import gated_crf_loss

pytestmark = pytest.mark.needs_triton


@pytest.fixture(autouse=True)
def on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for float32 on the CPU, too."""

    def chosen(routine: Routine, device: torch.device, dtype: torch.dtype) -> Backend:
        return Backend.GPU if dtype == torch.float32 else Backend.TORCH

    monkeypatch.setattr("selflabel.affinity.streamed.backend", chosen)


def both_ways(logits: Tensor, images: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    """The loss and its gradient, on the CPU in double precision."""
    logits = logits.detach().requires_grad_()
    loss = gated_crf_loss(logits, images, **options)  # type: ignore[arg-type]
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return loss.detach().double().cpu(), logits.grad.double().cpu()


def moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) else value


def check(
    logits: Tensor, images: Tensor, device: torch.device, tolerance: float = 1e-5, **options: object
) -> None:
    options = {"radius": 1, "kernels": KERNELS, **options}
    there = {name: moved(value, device) for name, value in options.items()}
    found = both_ways(logits.float().to(device), images.float().to(device), **there)
    expected = both_ways(logits, images, **options)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= tolerance * float(other.norm())


@pytest.mark.parametrize("costs", [False, True])
@pytest.mark.parametrize("gated", ["no", "source", "destination", "both"])
def test_gates_and_costs(gated: str, costs: bool, kernel_device: torch.device) -> None:
    source, destination = gates_of(SIZES[0])
    check(
        *case(SIZES[0]),
        kernel_device,
        source=source if gated in ("source", "both") else None,
        destination=destination if gated in ("destination", "both") else None,
        compatibility=asymmetric() if costs else None,
    )


@pytest.mark.parametrize("size", [(5, 7), (2, 3, 4)])
def test_spacings(size: tuple[int, ...], kernel_device: torch.device) -> None:
    source, destination = gates_of(size, batch=1)
    check(
        *case(size, batch=1),
        kernel_device,
        source=source,
        destination=destination,
        compatibility=asymmetric(),
        spacing=SPACINGS[len(size)],
    )


@pytest.mark.parametrize("classes", [1, 2, 21, 150])
def test_numbers_of_classes(classes: int, kernel_device: torch.device) -> None:
    """Of many classes each has little: differences of slopes lose a digit."""
    check(*case((2, 18), classes, batch=1), kernel_device, tolerance=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (9, 33), (4, 65), (1, 1, 1), (1, 3, 2), (2, 3, 34)])
def test_ragged_edges(size: tuple[int, ...], kernel_device: torch.device) -> None:
    """Images that are smaller than a tile, a pixel larger than one, and thin."""
    check(*case(size, batch=1), kernel_device, radius=1, kernels=KERNELS[:1])


@pytest.mark.parametrize("radius", [2, 7])
def test_radii(radius: int, kernel_device: torch.device) -> None:
    """One reaches beyond the image on all sides."""
    check(*case((4, 6), batch=1), kernel_device, radius=radius, kernels=KERNELS[:1])


def test_certain_predictions_keep_their_digits(kernel_device: torch.device) -> None:
    """Of a pixel among its likes the loss is a small number, which is no difference of large ones."""
    logits, images = case((6, 7))
    logits = torch.zeros_like(logits).index_fill_(1, torch.tensor([1]), 12.0) + logits / 4
    check(logits, images, kernel_device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, kernel_device: torch.device) -> None:
    """Computed in float32; the gradient is rounded once."""
    logits, images = case((5, 7))
    logits = logits.to(dtype)
    loss, gradient = both_ways(logits.to(kernel_device), images.float().to(kernel_device), radius=1)
    expected, slope = both_ways(logits.double(), images, radius=1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert float((gradient - slope).norm()) <= 2 * torch.finfo(dtype).eps * float(slope.norm())


def test_other_memory_formats(kernel_device: torch.device) -> None:
    logits, images = case((5, 7))
    check(
        logits.to(memory_format=torch.channels_last),
        images.to(memory_format=torch.channels_last),
        kernel_device,
    )


def test_the_same_bytes_twice(kernel_device: torch.device) -> None:
    logits, images = (x.float().to(kernel_device) for x in case((5, 40), batch=1))
    first, second = (both_ways(logits, images, radius=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_loss_alone_makes_no_gradient(kernel_device: torch.device) -> None:
    logits, images = (x.float().to(kernel_device) for x in case((5, 7)))
    loss = gated_crf_loss(logits, images, radius=1)
    assert loss.item() == pytest.approx(both_ways(*case((5, 7)), radius=1)[0].item(), rel=1e-6)


def test_what_does_not_fit_runs_in_torch() -> None:
    few, many = torch.zeros(1, 3, 4, 4), torch.zeros(1, 33, 4, 4)
    assert streamed_gpu.supports(StreamedWindow(few), 255)
    assert not streamed_gpu.supports(StreamedWindow(many), 2)
    assert not streamed_gpu.supports(
        StreamedWindow(torch.zeros(1, 1, 1, 1).expand(1, 1, 1 << 12, 1 << 12)), 150
    )


def test_kernels_are_chosen_for_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert backend(Routine.GATED, cuda, torch.float32) is Backend.GPU
    assert backend(Routine.GATED, cuda, torch.float64) is Backend.TORCH
    assert backend(Routine.GATED, cpu, torch.float32) is Backend.TORCH
    monkeypatch.setattr("selflabel.kernels.backend.has_triton", lambda: False)
    assert backend(Routine.GATED, cuda, torch.float32) is Backend.TORCH


def test_one_kernel_alone(kernel_device: torch.device) -> None:
    check(*case((5, 7)), kernel_device, kernels=(GaussianKernel(1.0, 6.0, 15.0),))
