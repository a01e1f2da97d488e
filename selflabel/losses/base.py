"""The common parts of all losses: full precision, checks of shapes, analytic gradients, means per pixel."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.protocol import Affinity
from selflabel.inputs import check_tensor, check_untransformed, size_remedy
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_count, check_kind
from selflabel.labels import UNLABELED, check_index_type, check_seeds, per_image

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From labels ``[b k *s]`` to a value per image ``[b]`` and its gradient by the labels."""


def full_precision(like: Tensor) -> torch.autocast:
    """A context without automatic mixed precision on this tensor's device."""
    return torch.autocast(like.device.type, enabled=False)


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, labels: Tensor, term: ValueAndGradient) -> Tensor:
        value, gradient = term(labels)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivatives()
        (gradient,) = ctx.saved_tensors
        return gradient * per_image(grads[0], gradient), None


def refuse_second_derivatives() -> None:
    """Raise `RuntimeError` in a backward pass that is recorded itself.

    torch's `once_differentiable` accepts a constant incoming gradient and then gives wrong second derivatives.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("expected backward without create_graph=True: the loss has no second derivative")


@opaque
def differentiable(labels: Float[Tensor, "b k *s"], term: ValueAndGradient) -> Float[Tensor, " b"]:
    """The value of a term with an analytic gradient, to be backpropagated once.

    Value and gradient are computed here without a graph; backward is one product with the gradient.
    Raises `RuntimeError` in a backward pass with ``create_graph=True`` and inside of `torch.func`'s transforms.
    """
    check_untransformed(labels)
    value: Tensor = _KnownGradient.apply(labels, term)  # type: ignore[no-untyped-call]
    return value


def mean_per_pixel(sums: Float[Tensor, " b"], logits: Float[Tensor, "b k *s"]) -> Float[Tensor, ""]:
    """Sums over the pixels of each image, divided by all pixels of the batch, in float32 at least."""
    mean = sums.sum() / (len(sums) * prod(logits.shape[2:]))
    return mean.to(torch.promote_types(logits.dtype, torch.float32))


def check_logits(logits: Tensor) -> None:
    """Raise `ValueError` unless logits are floats ``[b k *s]``, two or three axes, nothing empty, k ≤ 255."""
    check_tensor(logits, "logits")
    if not logits.is_floating_point() or logits.ndim not in (4, 5) or 0 in logits.shape:
        raise ValueError(
            f"expected logits in floating point, [b k h w] or [b k d h w] with at least one image, class and "
            f"pixel, got {logits.dtype} {tuple(logits.shape)}: add the missing axes, `logits[None]`"
        )
    if logits.shape[1] > UNLABELED:
        raise ValueError(
            f"expected at most {UNLABELED} classes ({UNLABELED} means unlabeled), got {logits.shape[1]}"
        )


def check_affinity(logits: Tensor, affinity: Affinity) -> None:
    """Check the logits; raise `ValueError` unless the affinity is over their pixels.

    Raises `RuntimeError` inside of `torch.func`'s transforms.
    """
    check_logits(logits)
    check_untransformed(logits)
    _check_operator(affinity)
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(affinity.shape) != expected:
        raise ValueError(
            f"expected an affinity over {expected} as the logits', got {tuple(affinity.shape)}: "
            f"{size_remedy(tuple(logits.shape), tuple(affinity.shape))}"
        )


def _check_operator(affinity: Any) -> None:
    """Raise `ValueError` unless it is an affinity already: neither images nor what builds it of them."""
    remedy = "build it of the images, DenseAffinity.from_image(images) or GridAffinity.from_image(images)"
    check_kind(affinity, Affinity, "an affinity", remedy)


def checked_seeds(logits: Tensor, seeds: Tensor, ignore_index: int = UNLABELED) -> Integer[Tensor, "b *s"]:
    """The seeds as int64, `ignore_index` replaced by `UNLABELED`. Raises `ValueError` unless they fit the logits."""
    check_logits(logits)
    check_index_type(seeds)
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(seeds.shape) != expected:
        raise ValueError(
            f"expected seeds of shape {expected} for logits {tuple(logits.shape)}, got {tuple(seeds.shape)}: "
            f"{size_remedy(tuple(logits.shape), tuple(seeds.shape))}"
        )
    seeds = seeds.long()
    check_count(ignore_index, "ignore_index", least=torch.iinfo(torch.int64).min)
    if ignore_index != UNLABELED:
        seeds = seeds.masked_fill(seeds == ignore_index, UNLABELED)
    check_seeds(seeds, logits.shape[1])
    return seeds
