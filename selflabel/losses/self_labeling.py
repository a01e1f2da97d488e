"""The network's half of the self-labeling loss."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.inputs import check_tensor, widened, widened_distributions
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_kind
from selflabel.labels import check_distributions, is_on_cpu, unlabeled
from selflabel.losses.base import checked_seeds, full_precision, mean_per_pixel
from selflabel.terms import STANDARD, Coupling, total


def self_labeling_loss(
    logits: Float[Tensor, "b k *s"],
    labels: Float[Tensor, "b k *s"],
    seeds: Integer[Tensor, "b *s"],
    coupling: Coupling = STANDARD,
) -> Float[Tensor, ""]:
    """``1/N Σ_{i∉Ω} H(y_i, σ_i)`` with pseudo-labels y held fixed (Zhang & Boykov 2025, second term of eq. 8).

    Ω are the seeds, N all pixels of the batch, σ = softmax(logits). Computed from ln σ, so that the gradient is
    right for logits of any size: standard ``σ - y``; collision ``σ - q`` with ``q ∝ σ y``; reverse
    ``-σ (ln y - Σ σ ln y)``, y not below ``exp(LOG_FLOOR)``; quadratic ``2 σ (σ - y - Σ σ (σ - y))``. Raises
    `ValueError` unless labels are floats of the shape of the logits: not an image, not an index. On the CPU it raises
    it for labels that are no distributions, too, such as logits; a GPU would have to be waited for in every step.
    """
    check_tensor(logits, "logits")
    check_tensor(labels, "labels")
    check_kind(coupling, Coupling, "coupling", "a constant of selflabel.terms, such as STANDARD")
    if not labels.is_floating_point():
        raise ValueError(f"expected labels as probabilities in floating point, got {labels.dtype}")
    if tuple(labels.shape) != tuple(logits.shape):
        raise ValueError(
            f"expected labels of the shape of the logits {tuple(logits.shape)}, got {tuple(labels.shape)}"
        )
    _check_labels(labels)
    free = unlabeled(checked_seeds(logits, seeds))
    with full_precision(logits):
        log_probs = widened(logits).log_softmax(1)
        values = coupling.from_log_probs(labels.detach().to(log_probs.dtype), log_probs)
        return mean_per_pixel(total(values * free), logits)


@opaque
def _check_labels(labels: Tensor) -> None:
    if is_on_cpu(labels) and not torch._C._functorch.is_functorch_wrapped_tensor(labels):
        advice = "pass pseudo-labels, or logits.softmax(1) of another network's"
        check_distributions(widened_distributions(labels.detach()), "labels", advice)
