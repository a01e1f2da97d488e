"""The gradient of a loss at a prediction, by class: what a step of training asks for at every pixel."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.labels import LOG_FLOOR, floored_logits

LossOfLogits = Callable[[Float[Tensor, "b k *s"]], Float[Tensor, ""]]
"""A loss as a function of logits alone: images and seeds are bound to it."""


def gradient_by_logits(loss: LossOfLogits, probs: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """``∂L/∂l`` at ``l = ln σ`` for a prediction σ: what reaches the network. Zero where σ is certain.

    A negative value raises the class at its pixel in a step of descent; the values of a pixel sum to zero.
    Probabilities count as 1e-13 at least. Cost: one forward and one backward pass of the loss.
    """
    logits = floored_logits(probs, LOG_FLOOR).requires_grad_()
    with torch.enable_grad():
        value = loss(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    return gradient


def gradient_by_probs(loss: LossOfLogits, probs: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """``∂L/∂σ_i^k - 1/K Σ_m ∂L/∂σ_i^m``: the gradient by the prediction, along the simplex.

    The mean over the classes, which is taken off, leaves the simplex, and the softmax cancels it: the degree in
    ``d - 2 W S`` of the dense CRF is a part of it (Tang et al., ECCV 2018, eq. 11). Certain pixels have a gradient,
    too. Computed from ``∂L/∂l = σ (∂L/∂σ - mean)``.
    """
    gradient = gradient_by_logits(loss, probs) / floored_logits(probs, LOG_FLOOR).softmax(1)
    return gradient - gradient.mean(1, keepdim=True)
