"""The dense CRF as a layer: against explicit matrices, finite differences and the published updates."""

import pytest
import torch
from support.problems import make_case
from torch import Tensor, nn

from selflabel import Energy
from selflabel.affinity import DenseAffinity, Exact, GaussianKernel
from selflabel.networks import MeanFieldLayer, WithMeanField, check_name, module_of, network
from selflabel.numerics.descent.messages import Pairwise, updated

KERNELS = (GaussianKernel(0.8, 2.0, 40.0), GaussianKernel(0.5, 1.5))


def inputs() -> tuple[Tensor, Tensor]:
    case = make_case(Energy(), "exact", size=(4, 5))
    return case.probs.double().log(), case.image.double()


def layer(iterations: int = 3, *, scrambled: bool = True) -> MeanFieldLayer:
    """In double precision; with parameters of no symmetry if scrambled."""
    made = MeanFieldLayer(3, KERNELS, iterations, filtering=Exact()).double()
    if scrambled:
        generator = torch.Generator().manual_seed(5)
        for parameter in made.parameters():
            parameter.data += 0.3 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def explicit(made: MeanFieldLayer, logits: Tensor, images: Tensor) -> Tensor:
    """With a matrix for each kernel, pixel by pixel."""
    matrices = [
        DenseAffinity.from_image(
            images, (GaussianKernel(1.0, k.sigma_xy, k.sigma_rgb),), filtering=Exact(), symmetric=True
        ).as_matrix()
        for k in KERNELS
    ]
    flat = logits.flatten(2)
    refined = flat
    for _ in range(made.iterations):
        labels = refined.softmax(1)
        messages = torch.zeros_like(flat)
        for m, matrix in enumerate(matrices):
            for c in range(3):
                messages[:, c] += made.weights[m, c].detach() * (matrix @ labels[:, c, :, None])[..., 0]
        refined = flat - torch.stack(
            [(made.compatibility[c].detach()[:, None] * messages).sum(1) for c in range(3)], 1
        )
    return refined.view(logits.shape)


@pytest.mark.quick
def test_it_is_the_formula() -> None:
    logits, images = inputs()
    made = layer()
    torch.testing.assert_close(made(logits, images).detach(), explicit(made, logits, images))


@pytest.mark.quick
def test_gradients_are_finite_differences() -> None:
    """Through all iterations, to the logits, the weights of kernels and the compatibilities."""
    logits, images = inputs()
    logits, images = logits[:1, :, :3, :3], images[:1, :, :3, :3]
    made = layer(iterations=2)

    def refined(given: Tensor, weights: Tensor, compatibility: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(
            made, {"weights": weights, "compatibility": compatibility}, (given, images)
        )
        return result

    given = (
        logits.requires_grad_(),
        made.weights.detach().requires_grad_(),
        made.compatibility.detach().requires_grad_(),
    )
    assert torch.autograd.gradcheck(refined, given, eps=1e-5, atol=1e-7, rtol=1e-4)


@pytest.mark.quick
def test_fresh_layers_are_published_mean_field() -> None:
    """Potts compatibilities and the kernels' weights: parallel updates, as `numerics.descent.messages`."""
    logits, images = inputs()
    affinity = DenseAffinity.from_image(images, KERNELS, filtering=Exact(), symmetric=True)
    unary = -logits.flatten(2).mT
    labels = unary.neg().softmax(2)
    for _ in range(3):
        labels = updated(unary, Pairwise(affinity.filters), labels)
    found = layer(scrambled=False)(logits, images).softmax(1)
    torch.testing.assert_close(found.flatten(2).mT, labels)


def test_it_learns_to_undo_noise() -> None:
    """Weights grow from zero where pixels of one color share a class; the loss falls."""
    case = make_case(Energy(), "exact", size=(12, 12), spread=1.5)
    truth = case.probs.argmax(1)
    logits = case.probs.log() + torch.randn(case.probs.shape, generator=torch.Generator().manual_seed(1))
    made = MeanFieldLayer(3, (GaussianKernel(0.01, 3.0, 30.0),), 3, filtering=Exact())
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(made(logits, case.image), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert float(made.weights.detach().mean()) > 0.05


@pytest.mark.quick
def test_networks_by_name_have_it_behind_them() -> None:
    images = torch.rand(1, 3, 16, 16)
    made = network("crf:unet:4", 3, 2, 16)
    assert isinstance(made, WithMeanField)
    assert made(images).shape == (1, 2, 16, 16)
    loss: Tensor = made(images).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())
    assert {"layer.weights", "layer.compatibility"} <= set(made.state_dict())


def test_bytes_are_images_too() -> None:
    logits, images = inputs()
    made = MeanFieldLayer(3, KERNELS, 2, filtering=Exact())
    pixels = (255 * images).round()
    torch.testing.assert_close(
        made(logits, pixels.to(torch.uint8)), made(logits, pixels / 255), rtol=1e-4, atol=1e-4
    )


def test_half_precision_is_widened() -> None:
    logits, images = inputs()
    made = MeanFieldLayer(3, KERNELS, 2, filtering=Exact())
    half = made(logits.half(), images.float())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, made(logits.half().float(), images.float()))


@pytest.mark.quick
def test_arguments_that_do_not_fit(unchecked: None) -> None:
    for arguments, message in (
        ((0,), "expected classes as a whole number >= 1, got 0"),
        ((3, ()), "expected at least one kernel, got none"),
        ((3, GaussianKernel(1.0, 2.0)), "expected a tuple of kernels"),
        ((3, ("place",)), "expected a GaussianKernel, got a str"),
        ((3, KERNELS, 0), "expected iterations as a whole number >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanFieldLayer(*arguments)
    with pytest.raises(ValueError, match="expected a filtering such as FINE, got a str"):
        MeanFieldLayer(3, filtering="fine")  # type: ignore[arg-type]
    logits, images = inputs()
    with pytest.raises(ValueError, match=r"expected images .*: a single one needs a batch axis"):
        MeanFieldLayer(3, KERNELS)(logits[0].float(), images[0].float())
    with pytest.raises(ValueError, match="images"):
        MeanFieldLayer(3, KERNELS)(logits.float(), images.numpy())
    with pytest.raises(ValueError, match="expected logits of shape"):
        MeanFieldLayer(2, KERNELS)(logits.float(), images.float())
    for name in ("crf", "crf:"):
        with pytest.raises(ValueError, match="expected crf:NETWORK"):
            network(name, 3, 2)


@pytest.mark.quick
def test_names_behind_it_are_checked() -> None:
    """Code of a factory behind it is code, too."""
    check_name("crf:unet:8")
    with pytest.raises(ValueError, match="expected a network out of"):
        check_name("crf:resnet")
    assert module_of("crf:my.module:make") == "my.module"
    assert module_of("crf:unet") is None
