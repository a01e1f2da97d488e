"""A dense CRF as the last layer of a network, trained with it: mean field unrolled."""

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from selflabel.affinity import DenseAffinity, GaussianKernel
from selflabel.affinity.filters.lattice import FINE
from selflabel.affinity.filters.protocol import FilterBuilder
from selflabel.inputs import check_tensor, logits_of, widened
from selflabel.kinds import check_arguments, check_count, check_kind

KERNELS = (GaussianKernel(1.0, 40.0, 10.0), GaussianKernel(1.0, 3.0))
"""Appearance and smoothness, of weight one each: what the layer starts from."""


class MeanFieldLayer(nn.Module):
    """Refined logits by a few parallel updates of mean field (CRF as RNN: Zheng et al., ICCV 2015, Algorithm 1).

        Q = softmax(l),    then `iterations` times    l' = l - Σ_l μ_kl Σ_m w_m^l [K_m Q^l],    Q = softmax(l')

    K are Gaussian kernels of place and color on the images, normalized to ``D^-½ K D^-½`` (the published layer divides
    by D alone), the pixel itself included. The output is the last ``l'``, so that losses of logits take it as it is.

    Trained are the weights ``w [m k]``, which start from the kernels' own, and the compatibilities ``μ [k k]``, the
    cost of class k beside class l, which start from the Potts model, 1 for any other class. Bandwidths are not.
    Gradients to logits, w and μ go through all iterations; none to the images. With ``torch.no_grad()`` it is the
    post-processing of a network's predictions.

    - `filtering`: a `Lattice`, or `Exact()` (`DenseAffinity.from_image`).

    Raises `ValueError` for arguments and shapes that do not fit. Cost: a filtering of all classes for each kernel and
    iteration, one more backward, and the lattices of the images; memory: two tensors of labels for each of these.
    """

    def __init__(
        self,
        classes: int,
        kernels: tuple[GaussianKernel, ...] = KERNELS,
        iterations: int = 5,
        *,
        filtering: FilterBuilder = FINE,
    ) -> None:
        super().__init__()
        check_count(classes, "classes")
        check_count(iterations, "iterations")
        check_kind(filtering, FilterBuilder, "a filtering such as FINE", "COARSE, FINE or Exact()")
        check_kind(kernels, tuple, "a tuple of kernels", "of one kernel, (GaussianKernel(1, 40, 10),)")
        if not kernels:
            raise ValueError("expected at least one kernel, got none")
        for kernel in kernels:
            check_kind(kernel, GaussianKernel, "a GaussianKernel", "as GaussianKernel(1, 40, 10)")
        self.classes, self.iterations, self.filtering = classes, iterations, filtering
        self.kernels = tuple(GaussianKernel(1.0, kernel.sigma_xy, kernel.sigma_rgb) for kernel in kernels)
        weights = torch.tensor([[float(kernel.weight)] * classes for kernel in kernels])
        self.weights = nn.Parameter(weights)
        self.compatibility = nn.Parameter(1 - torch.eye(classes))

    def forward(
        self, logits: Float[Tensor, "b k *s"], images: Num[Tensor, "b c *s"]
    ) -> Float[Tensor, "b k *s"]:
        """Images as floats in [0, 1], or uint8."""
        check_tensor(logits, "logits")
        check_tensor(images, "images")
        if images.ndim not in (4, 5):
            raise ValueError(
                f"expected images [b c h w] or [b c d h w], got {tuple(images.shape)}: a single one needs a batch "
                f"axis, images[None]"
            )
        expected = (images.shape[0], self.classes, *images.shape[2:])
        if tuple(logits.shape) != expected:
            raise ValueError(
                f"expected logits of shape {expected}, of {self.classes} classes at the size of the images, got "
                f"{tuple(logits.shape)}: resize them, or make the layer for as many classes"
            )
        with torch.autocast(logits.device.type, enabled=False):
            wide = widened(logits)
            affinities = self._affinities(images)
            refined = wide
            for _ in range(self.iterations):
                refined = wide - self._costs(refined.softmax(1), affinities)
            return refined

    def _affinities(self, images: Tensor) -> list[DenseAffinity]:
        """One a kernel, as each has weights of its own."""
        pixels = widened(images.detach()) if images.is_floating_point() else images
        with torch.no_grad():
            return [
                DenseAffinity.from_image(pixels, (kernel,), filtering=self.filtering, symmetric=True)
                for kernel in self.kernels
            ]

    def _costs(self, labels: Tensor, affinities: list[DenseAffinity]) -> Tensor:
        ones = [1] * (labels.ndim - 2)
        weights = self.weights.to(labels.dtype).view(len(affinities), self.classes, *ones)
        messages = torch.zeros_like(labels)
        for weight, affinity in zip(weights, affinities, strict=True):
            messages = messages + weight * affinity.apply(labels)
        return torch.einsum("kl,bl...->bk...", self.compatibility.to(labels.dtype), messages)


class WithMeanField(nn.Module):
    """A network with a `MeanFieldLayer` behind it: images in [0, 1] to refined logits."""

    def __init__(self, network: nn.Module, layer: MeanFieldLayer) -> None:
        super().__init__()
        check_arguments(WithMeanField.__init__, {"network": network, "layer": layer})
        self.network, self.layer = network, layer

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """The logits of the layer."""
        refined: Tensor = self.layer(logits_of(self.network(images)), images)
        return refined
