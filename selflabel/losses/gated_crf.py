"""Gated CRF loss: neighbors within a radius that look alike should get the same class (Obukhov et al. 2019)."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Integer, Shaped
from torch import Tensor, nn

from selflabel.affinity.gaussian import GaussianKernel, check_kernels
from selflabel.affinity.image import Image, as_image
from selflabel.affinity.streamed import StreamedWindow, WindowPart
from selflabel.affinity.window import GATED_CRF_KERNELS, isotropic
from selflabel.inputs import check_tensor, check_untransformed
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_arguments, check_count
from selflabel.labels import unlabeled
from selflabel.losses.base import check_logits, full_precision, refuse_second_derivatives


@opaque
def gated_crf_loss(
    logits: Float[Tensor, "b k *s"],
    images: Image | Shaped[Tensor, "b c *t"] | Shaped[np.ndarray, "b c *t"],
    *,
    radius: int = 5,
    kernels: tuple[GaussianKernel, ...] = GATED_CRF_KERNELS,
    source: Tensor | None = None,
    destination: Tensor | None = None,
    compatibility: Float[Tensor, "k k"] | None = None,
    spacing: tuple[float, ...] | None = None,
) -> Float[Tensor, ""]:
    """``1/Σ_a m_a^dst Σ_a Σ_b≠a m_a^dst m_b^src K_ab Σ_ij μ(i, j) σ_a(i) σ_b(j)`` with b in the window of a.

    ``σ = softmax(logits)`` and ``K_ab = Σ_p K_p(a, b)`` of `GaussianKernel`, with colors in 0..255 units. Both
    orders of a pair count, neighbors outside of the image do not. A mean over the destinations of all images;
    0 if there are none.

    radius: the window has 2·radius + 1 pixels on each axis. source, destination: gates m [b 1 *t] or [b 1 *s],
    bool or numbers in [0, 1]: which pixels have an influence, and which feel it; 1 where not given.
    compatibility: μ, the cost of class i in a next to class j in b; the Potts model ``[i ≠ j]`` if not given.
    spacing: of the voxels, for kernels in physical units. Images (uint8 in 0..255 or floats in [0, 1]) and
    gates of another size than the logits are averaged over the pixels of the logits.

    Raises `ValueError` for images as `colors` does, for a window as `WindowAffinity` does, and for gates or a
    compatibility that do not fit. Half precision is computed in float32. The analytic gradient (of first order
    only) is made in the forward pass, half a window of multiply-adds for both pixels of each pair; backward
    scales it. Memory: the gradient of all images, the prediction and its sum over the window of a few images at
    a time, and nothing that grows with the radius.

    Obukhov, Georgoulis, Dai, Van Gool: Gated CRF Loss for Weakly Supervised Semantic Image Segmentation, 2019,
    eq. 1 to 5. The same as twice `potts` of a `WindowAffinity` (bilinear), over the number of destinations.
    """
    check_logits(logits)
    check_untransformed(logits)
    check_kernels(kernels)
    for name, values in (("source", source), ("destination", destination), ("compatibility", compatibility)):
        if values is not None:
            check_tensor(values, name)
    size, work = tuple(logits.shape[2:]), torch.promote_types(logits.dtype, torch.float32)
    images = as_image(images)
    if images.shape[0] != logits.shape[0] or len(images.shape) != logits.ndim:
        raise ValueError(
            f"expected as many images and axes as the logits {list(logits.shape)} have, got {list(images.shape)}"
        )
    gates = (_gate("source", source, logits, work), _gate("destination", destination, logits, work))
    colors = _resized(images.colors.detach().to(work), size)
    features, kernels, spacing = isotropic(colors, kernels, spacing)
    # the range of the image was checked; bandwidths of its channels may have made other numbers of it
    window = StreamedWindow(features, radius, kernels, *gates, spacing, are_finite=features is colors)
    destinations = float(logits.numel() // logits.shape[1] if gates[1] is None else gates[1].double().sum())
    if compatibility is not None:
        compatibility = _checked(compatibility, logits.shape[1]).to(logits.device, work)
    with full_precision(logits):
        loss: Tensor = _GatedCRF.apply(logits, window, compatibility, destinations or 1.0)  # type: ignore[no-untyped-call]
    return loss


class GatedCRFLoss(nn.Module):
    """`gated_crf_loss` of images in [0, 1]; seeds matter only with `unlabeled_only`.

    unlabeled_only: pixels with a seed are no destinations, as cross-entropy trains them. Published: better by a
    percent for clicks, no better for scribbles (Table 1).
    """

    def __init__(
        self,
        radius: int = 5,
        kernels: tuple[GaussianKernel, ...] = GATED_CRF_KERNELS,
        *,
        unlabeled_only: bool = False,
        compatibility: Float[Tensor, "k k"] | None = None,
    ) -> None:
        super().__init__()
        given = {"kernels": kernels, "unlabeled_only": unlabeled_only, "compatibility": compatibility}
        check_arguments(GatedCRFLoss.__init__, given)
        check_count(radius, "radius")
        check_kernels(kernels)
        self.radius = radius
        self.kernels = kernels
        self.unlabeled_only = unlabeled_only
        self.compatibility: Tensor | None
        self.register_buffer("compatibility", compatibility, persistent=False)

    def forward(
        self,
        logits: Float[Tensor, "b k *s"],
        images: Shaped[Tensor, "b c *t"],
        seeds: Integer[Tensor, "b *t"],
    ) -> Float[Tensor, ""]:
        """The loss; images and seeds may be larger or smaller than the logits."""
        check_logits(logits)
        check_tensor(images, "images")
        return gated_crf_loss(
            logits,
            images,
            radius=self.radius,
            kernels=self.kernels,
            destination=unlabeled(seeds) if self.unlabeled_only else None,
            compatibility=self.compatibility,
        )


def _resized(values: Float[Tensor, "b c *t"], size: tuple[int, ...]) -> Float[Tensor, "b c *s"]:
    return values if tuple(values.shape[2:]) == size else F.interpolate(values, size=size, mode="area")


def _checked(compatibility: Tensor, classes: int) -> Tensor:
    if compatibility.shape != (classes, classes) or not bool(compatibility.isfinite().all()):
        raise ValueError(
            f"expected a finite compatibility of {classes} x {classes} classes, got shape "
            f"{list(compatibility.shape)}{' with nan or inf' * (not bool(compatibility.isfinite().all()))}"
        )
    return compatibility.detach()


def _gate(name: str, gate: Tensor | None, logits: Tensor, work: torch.dtype) -> Tensor | None:
    if gate is None:
        return None
    if gate.ndim != logits.ndim or gate.shape[:2] != (logits.shape[0], 1):
        wanted = [logits.shape[0], 1, *logits.shape[2:]]
        raise ValueError(f"expected a {name} gate of shape {wanted}, got {list(gate.shape)}")
    gate = gate.detach().to(work)
    if not bool(((gate >= 0) & (gate <= 1)).all()):  # false for nan, too
        raise ValueError(
            f"expected a {name} gate in [0, 1], got values from {gate.min():g} to {gate.max():g}"
        )
    return _resized(gate, tuple(logits.shape[2:]))


class _GatedCRF(torch.autograd.Function):
    """``Ψ / destinations``, a quadratic form of the prediction.

    With G_ab = m_a^dst m_b^src K_ab it is ``Σ_ab G_ab σ_a'μσ_b``. Split into parts that do not change and parts
    that change sign when a and b, i and j are exchanged, G = W + A and μ = M + N, two of four products remain:
    ``Ψ = Σ_a σ_a'(M (Wσ)_a + N (Aσ)_a)``. The bracket is half of the gradient by σ.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, window: StreamedWindow, compatibility: Tensor | None, destinations: float
    ) -> Tensor:
        value, gradient = _energy(logits, window, compatibility, ctx.needs_input_grad[0])
        if gradient is not None:
            ctx.save_for_backward(gradient)
            ctx.destinations = destinations
        return (value / destinations).to(window.features.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivatives()
        (gradient,) = ctx.saved_tensors
        # divided here: the share of one pixel of many would vanish in half precision
        return gradient * (grads[0] / ctx.destinations), None, None, None


def _energy(
    logits: Float[Tensor, "b k *s"],
    window: StreamedWindow,
    compatibility: Float[Tensor, "k k"] | None,
    is_wanted: bool,
) -> tuple[Float64[Tensor, ""], Float[Tensor, "b k *s"] | None]:
    """Ψ, and its gradient by the logits, if wanted."""
    if window.has_kernels:
        from selflabel.affinity import streamed_gpu

        if streamed_gpu.supports(window, logits.shape[1]):
            return _energy_by_kernels(logits, window, compatibility, is_wanted)
    if compatibility is None:
        compatibility = 1 - torch.eye(logits.shape[1], dtype=window.features.dtype, device=logits.device)
    value = torch.zeros((), dtype=torch.float64, device=logits.device)
    gradient: Tensor | None = None
    for images, part in window.parts():
        energy, own = _energy_of_part(logits[images], part, compatibility)
        value += energy
        if is_wanted:
            gradient = torch.empty_like(logits) if gradient is None else gradient
            gradient[images] = own
        del own  # freed before the next part is computed
    return value, gradient


def _energy_by_kernels(
    logits: Float[Tensor, "b k *s"],
    window: StreamedWindow,
    compatibility: Float[Tensor, "k k"] | None,
    is_wanted: bool,
) -> tuple[Float64[Tensor, ""], Float[Tensor, "b k *s"] | None]:
    """The same on a GPU: for the Potts model in one launch."""
    from selflabel.affinity import streamed_gpu

    probs = logits.softmax(1, dtype=window.features.dtype)
    if compatibility is None:
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device) if is_wanted else None
        return streamed_gpu.potts_energy(window, probs, gradient), gradient
    filtered = streamed_gpu.apply(window, probs).flatten(2)
    is_skew = window.is_gated and bool((compatibility != compatibility.mT).any())
    skewed = streamed_gpu.apply(window, probs, skew=True).flatten(2) if is_skew else None
    value, own = _finished(probs.flatten(2), filtered, skewed, compatibility)
    return value, own.view(logits.shape).to(logits.dtype)


def _energy_of_part(
    logits: Float[Tensor, "b k *s"], part: WindowPart, compatibility: Float[Tensor, "k k"]
) -> tuple[Float64[Tensor, ""], Float[Tensor, "b k *s"]]:
    """Ψ of some images, and its gradient by the logits."""
    probs = part.layout.flat(logits.softmax(1, dtype=compatibility.dtype))
    filtered = part.apply(probs)
    is_skew = part.gates is not None and bool((compatibility != compatibility.mT).any())
    skewed = part.apply(probs, skew=True) if is_skew else None
    value = torch.zeros((), dtype=torch.float64, device=logits.device)
    for block in part.blocks():
        of_block = (probs[..., block], filtered[..., block], None if skewed is None else skewed[..., block])
        energy, filtered[..., block] = _finished(*of_block, compatibility)
        value += energy
    return value, part.layout.image(filtered)


def _finished(
    probs: Float[Tensor, "b k n"],
    filtered: Float[Tensor, "b k n"],
    skewed: Float[Tensor, "b k n"] | None,
    compatibility: Float[Tensor, "k k"],
) -> tuple[Float64[Tensor, ""], Float[Tensor, "b k n"]]:
    """Ψ and its gradient by the logits, from ``W σ`` and ``A σ`` of some pixels."""
    bracket = ((compatibility + compatibility.mT) / 2) @ filtered
    if skewed is not None:
        bracket += ((compatibility - compatibility.mT) / 2) @ skewed
    bracket *= probs
    energy = bracket.sum(1, keepdim=True)
    # the derivative of the softmax: σ_k (g_k - Σ_l σ_l g_l), g twice the bracket
    return energy.sum(dtype=torch.float64), bracket.addcmul_(probs, energy, value=-1).mul_(2)
