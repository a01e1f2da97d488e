"""The gated CRF loss against the paper's sums, written as loops, and what it costs."""

from itertools import product

import pytest
import torch
from support.gated_formulas import KERNELS, SIZES, SPACINGS, asymmetric, case, expected, gates_of
from support.memory import peak_bytes
from torch import Tensor
from torch.autograd import gradcheck

from selflabel.affinity import GaussianKernel, WindowAffinity
from selflabel.affinity import streamed as streamed_module
from selflabel.affinity.streamed import StreamedWindow
from selflabel.losses.gated_crf import GatedCRFLoss, gated_crf_loss
from selflabel.terms import BILINEAR, potts


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("costs", [False, True])
@pytest.mark.parametrize("gated", ["no", "source", "destination", "both"])
@pytest.mark.parametrize("size", SIZES)
def test_the_published_sums(size: tuple[int, ...], gated: str, costs: bool, spaced: bool) -> None:
    logits, images = case(size)
    source, destination = gates_of(size)
    source_given = source if gated in ("source", "both") else None
    destination_given = destination if gated in ("destination", "both") else None
    compatibility = asymmetric() if costs else None
    spacing = SPACINGS[len(size)] if spaced else None
    loss = gated_crf_loss(
        logits,
        images,
        radius=2,
        kernels=KERNELS,
        source=source_given,
        destination=destination_given,
        compatibility=compatibility,
        spacing=spacing,
    )
    reference = expected(
        logits,
        images,
        source=source_given,
        destination=destination_given,
        compatibility=compatibility,
        spacing=spacing,
    )
    assert loss.item() == pytest.approx(reference, rel=1e-12)


@pytest.mark.parametrize("radius", [1, 3, 9])
def test_any_radius(radius: int) -> None:
    """One radius reaches beyond the image on all sides."""
    logits, images = case((4, 6))
    loss = gated_crf_loss(logits, images, radius=radius, kernels=KERNELS)
    assert loss.item() == pytest.approx(expected(logits, images, radius), rel=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (1, 1, 1), (1, 3, 2), (2, 1, 3)])
@pytest.mark.parametrize("radius", [1, 4])
def test_thin_images(size: tuple[int, ...], radius: int) -> None:
    logits, images = case(size)
    logits.requires_grad_()
    loss = gated_crf_loss(logits, images, radius=radius, kernels=KERNELS)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected(logits, images, radius), rel=1e-12, abs=1e-15)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("costs", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_finite_differences(size: tuple[int, ...], gated: bool, costs: bool) -> None:
    logits, images = case(size)
    source, destination = gates_of(size) if gated else (None, None)

    def loss(logits: Tensor) -> Tensor:
        return gated_crf_loss(
            logits,
            images,
            radius=2,
            kernels=KERNELS,
            source=source,
            destination=destination,
            compatibility=asymmetric() if costs else None,
        )

    assert gradcheck(loss, logits.requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_same_as_a_potts_sum_over_the_stored_affinity(size: tuple[int, ...], gated: bool) -> None:
    """Value and gradient by automatic differentiation of the explicit matrix."""
    logits, images = case(size)
    source, destination = (gate.double() for gate in gates_of(size)) if gated else (None, None)
    affinity = WindowAffinity.from_image(images, 2, KERNELS, source=source, destination=destination)
    matrix = affinity.as_matrix()
    slow, fast = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    probs = slow.softmax(1).flatten(2)
    count = probs[:, 0].numel() if destination is None else destination.sum()
    reference = torch.einsum("bkm,bmn,bkn->", 1 - probs, matrix, probs) / count
    reference.backward()  # type: ignore[no-untyped-call]
    loss = gated_crf_loss(fast, images, radius=2, kernels=KERNELS, source=source, destination=destination)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(fast.grad, slow.grad)
    torch.testing.assert_close(2 * potts(logits.softmax(1), affinity, BILINEAR).sum() / count, reference)


@pytest.mark.parametrize("pixels", [1, 7, 40, 1_000_000])
def test_the_size_of_the_blocks_does_not_matter(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, images = case((5, 7))
    source, destination = gates_of((5, 7))

    def both() -> tuple[Tensor, Tensor]:
        point = logits.clone().requires_grad_()
        loss = gated_crf_loss(
            point,
            images,
            radius=3,
            kernels=KERNELS,
            source=source,
            destination=destination,
            compatibility=asymmetric(),
        )
        loss.backward()  # type: ignore[no-untyped-call]
        assert point.grad is not None
        return loss.detach(), point.grad

    as_it_is = both()
    monkeypatch.setitem(streamed_module.BLOCK_PIXELS, "cpu", pixels)
    torch.testing.assert_close(both(), as_it_is)


@pytest.mark.parametrize("size", SIZES)
def test_streamed_products_are_those_of_the_stored_affinity(size: tuple[int, ...]) -> None:
    logits, images = case(size)
    source, destination = (gate.double() for gate in gates_of(size))
    stored = WindowAffinity.from_features(images, 2, KERNELS, source=source, destination=destination)
    window = StreamedWindow(images, 2, KERNELS, source, destination)
    for part, streamed in window.parts():
        product_of = streamed.layout.image(streamed.apply(streamed.layout.flat(logits[part])))
        torch.testing.assert_close(product_of, stored.apply(logits)[part])


def test_neighbors_outside_of_the_image_never_count() -> None:
    """On a constant image every pair costs the same, near the border or not."""
    images = torch.zeros(1, 1, 6, 5)
    logits = torch.zeros(1, 2, 6, 5)
    loss = gated_crf_loss(logits, images, radius=2, kernels=(GaussianKernel(1.0, None, None),))
    pairs = sum(
        (min(5, y + 2) - max(0, y - 2) + 1) * (min(4, x + 2) - max(0, x - 2) + 1) - 1
        for y, x in product(range(6), range(5))
    )
    assert loss.item() == pytest.approx(0.5 * pairs / 30)
    larger = torch.full((1, 2, 8, 7), 3.0)  # gated pixels around it change nothing
    larger[..., 1:-1, 1:-1] = logits
    inside = torch.zeros(1, 1, 8, 7)
    inside[..., 1:-1, 1:-1] = 1
    gated = gated_crf_loss(
        larger,
        torch.zeros(1, 1, 8, 7),
        radius=2,
        kernels=(GaussianKernel(1.0, None, None),),
        source=inside,
        destination=inside,
    )
    assert gated.item() == pytest.approx(loss.item())


def test_gates_are_not_interchangeable() -> None:
    """With an asymmetric compatibility, source and destination differ."""
    logits, images = case((4, 5))
    source, destination = gates_of((4, 5))
    one = gated_crf_loss(logits, images, source=source, destination=destination, compatibility=asymmetric())
    other = gated_crf_loss(logits, images, source=destination, destination=source, compatibility=asymmetric())
    counts = destination.sum() / source.sum()
    assert abs(one - other / counts) > 1e-3 * one


def test_pixels_without_influence_get_no_gradient_from_each_other() -> None:
    logits, images = case((4, 6))
    source = torch.zeros(2, 1, 4, 6)
    source[..., :2] = 1
    logits.requires_grad_()
    gated_crf_loss(logits, images, radius=1, source=source).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[..., 3:].abs().max() == 0
    assert logits.grad[..., :3].abs().amax(1).min() > 0


def test_no_destination_at_all() -> None:
    logits, images = case((4, 5))
    logits.requires_grad_()
    loss = gated_crf_loss(logits, images, destination=torch.zeros(2, 1, 4, 5))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


def test_images_do_not_mix_and_have_no_order() -> None:
    logits, images = case((5, 6), batch=3)
    whole = gated_crf_loss(logits, images)
    alone = [gated_crf_loss(logits[i : i + 1], images[i : i + 1]) for i in (2, 0, 1)]
    torch.testing.assert_close(whole, torch.stack(alone).mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(dtype: torch.dtype) -> None:
    logits, images = case((5, 7))
    half = logits.to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    losses = [gated_crf_loss(x, images.float(), kernels=KERNELS) for x in (half, full)]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    assert losses[0].dtype == torch.float32
    assert losses[0].item() == losses[1].item()
    assert half.grad is not None
    assert full.grad is not None
    torch.testing.assert_close(half.grad, full.grad.to(dtype))


def test_half_precision_does_not_lose_small_gradients() -> None:
    """The share of one pixel in a mean over many is below the smallest half; a scaled loss keeps it."""
    logits = torch.randn(1, 2, 300, 301, generator=torch.Generator().manual_seed(77), dtype=torch.float32)
    images = torch.zeros(1, 1, 300, 301)
    half, full = logits.half().requires_grad_(), logits.half().float().requires_grad_()
    for point in (half, full):
        weak = gated_crf_loss(point, images, radius=1, kernels=(GaussianKernel(1e-3, None, None),))
        (weak * 2.0**16).backward()  # type: ignore[no-untyped-call]
    assert half.grad is not None
    assert full.grad is not None
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=2e-3, atol=1e-6)


def test_automatic_mixed_precision_changes_nothing() -> None:
    logits, images = case((5, 7))
    plain, mixed = (logits.float().requires_grad_() for _ in range(2))
    loss = gated_crf_loss(plain, images.float(), compatibility=asymmetric())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = gated_crf_loss(mixed, images.float(), compatibility=asymmetric())
    loss.backward()  # type: ignore[no-untyped-call]
    same.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == same.item()
    torch.testing.assert_close(plain.grad, mixed.grad, rtol=0, atol=0)


def test_certain_predictions() -> None:
    """With logits of ±100 all is finite, and agreement costs nothing."""
    _, images = case((5, 7))
    logits = torch.full((2, 3, 5, 7), -100.0)
    logits[:, 1] = 100
    logits.requires_grad_()
    loss = gated_crf_loss(logits, images.float())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_one_class() -> None:
    _, images = case((5, 7))
    assert gated_crf_loss(torch.randn(2, 1, 5, 7), images.float()).item() == 0


def test_the_resolution_of_the_logits() -> None:
    """Images and gates are averaged over each pixel of the logits."""
    logits, _ = case((4, 5))
    generator = torch.Generator().manual_seed(917)
    images = torch.rand(2, 3, 8, 10, generator=generator, dtype=torch.float64)
    gate = torch.rand(2, 1, 8, 10, generator=generator) > 0.5

    def blocks(values: Tensor) -> Tensor:
        return values.double().view(2, -1, 4, 2, 5, 2).mean((3, 5))

    loss = gated_crf_loss(logits, images, radius=2, kernels=KERNELS, source=gate, destination=gate)
    small = expected(logits, blocks(images), source=blocks(gate), destination=blocks(gate))
    assert loss.item() == pytest.approx(small, rel=1e-12)


def test_bytes_and_fractions_are_the_same_image() -> None:
    logits, images = case((5, 7))
    numbers = (images * 255).round().to(torch.uint8)
    one = gated_crf_loss(logits, numbers)
    torch.testing.assert_close(one, gated_crf_loss(logits, numbers.double() / 255))
    assert one.item() != pytest.approx(gated_crf_loss(logits, images * 0).item())


def test_it_lowers_what_it_says() -> None:
    logits, images = case((5, 7))
    logits.requires_grad_()
    before = gated_crf_loss(logits, images)
    before.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    after = gated_crf_loss((logits - 0.5 * logits.grad / logits.grad.norm()).detach(), images)
    assert after < before


def test_the_module() -> None:
    logits, images = case((4, 5))
    larger = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    seeds = torch.full((2, 8, 10), 255)
    seeds[:, :2, :2] = 1  # one pixel of the logits
    plain = GatedCRFLoss(2, KERNELS)(logits, larger, seeds)
    assert plain.item() == pytest.approx(expected(logits, images), rel=1e-12)
    destination = torch.ones(2, 1, 4, 5)
    destination[..., 0, 0] = 0
    module = GatedCRFLoss(2, KERNELS, unlabeled_only=True, compatibility=asymmetric())
    reference = expected(logits, images, destination=destination, compatibility=asymmetric())
    assert module(logits, larger, seeds).item() == pytest.approx(reference, rel=1e-6)
    assert module.double().compatibility is not None
    assert list(module.parameters()) == []
    assert module.state_dict() == {}  # settings are not in the checkpoints of a network


def test_only_one_derivative() -> None:
    logits, images = case((3, 3))
    logits.requires_grad_()
    loss = gated_crf_loss(logits, images)
    with pytest.raises(RuntimeError, match="without create_graph=True"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_errors(unchecked: None) -> None:
    logits, images = case((4, 5))
    with pytest.raises(ValueError, match=r"as many images and axes as the logits \[2, 3, 4, 5\]"):
        gated_crf_loss(logits, images[:1])
    with pytest.raises(ValueError, match="as many images and axes"):
        gated_crf_loss(logits, images[:, :, None])
    with pytest.raises(ValueError, match="logits"):
        gated_crf_loss(logits[0], images)
    with pytest.raises(ValueError, match=r"image in \[0, 1\]"):
        gated_crf_loss(logits, images * 255)
    with pytest.raises(ValueError, match=r"compatibility of 3 x 3 classes, got shape \[2, 2\]"):
        gated_crf_loss(logits, images, compatibility=torch.eye(2))
    with pytest.raises(ValueError, match="with nan or inf"):
        gated_crf_loss(logits, images, compatibility=torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match=r"source gate of shape \[2, 1, 4, 5\], got \[2, 3, 4, 5\]"):
        gated_crf_loss(logits, images, source=logits)
    with pytest.raises(ValueError, match=r"destination gate in \[0, 1\]"):
        gated_crf_loss(logits, images, destination=torch.full((2, 1, 4, 5), 255.0))
    with pytest.raises(ValueError, match="at least one kernel"):
        gated_crf_loss(logits, images, kernels=())
    with pytest.raises(ValueError, match="radius"):
        gated_crf_loss(logits, images, radius=0)
    with pytest.raises(ValueError, match="spacing"):
        gated_crf_loss(logits, images, spacing=(1.0,))


@pytest.mark.parametrize("batch", [1, 4])
def test_memory_does_not_grow_with_the_window(batch: int) -> None:
    """At radius 5 at most three times the inputs; a stored window has sixty weights for each pixel."""
    generator = torch.Generator().manual_seed(1_117)
    logits = torch.randn(batch, 21, 96, 96, generator=generator, requires_grad=True)
    images = torch.rand(batch, 3, 96, 96, generator=generator)
    inputs = sum(t.numel() * t.element_size() for t in (logits, images))

    def work(radius: int) -> None:
        logits.grad = None
        gated_crf_loss(logits, images, radius=radius).backward()  # type: ignore[no-untyped-call]

    work(1)  # made once
    small, large = peak_bytes(lambda: work(2)), peak_bytes(lambda: work(5))
    assert large <= 3 * inputs
    if batch > 1:  # inputs included
        assert large + inputs <= 3 * inputs
    assert large - small <= 600_000  # the weights of one row of the window and one block of pixels


@pytest.mark.cuda
@pytest.mark.parametrize("size", SIZES)
def test_on_the_device(size: tuple[int, ...]) -> None:
    logits, images = case(size)
    source, destination = gates_of(size)
    gradients, losses = [], []
    for device in ("cpu", "cuda"):
        point = logits.to(device).detach().requires_grad_()
        loss = gated_crf_loss(
            point,
            images.to(device),
            radius=2,
            kernels=KERNELS,
            source=source.to(device),
            destination=destination.to(device),
            compatibility=asymmetric(),
        )
        loss.backward()  # type: ignore[no-untyped-call]
        assert point.grad is not None
        gradients.append(point.grad.cpu())
        losses.append(loss.detach().cpu())
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])
