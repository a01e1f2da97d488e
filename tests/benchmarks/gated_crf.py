"""The gated CRF loss, forward and backward, against its published tensor form (unfolded windows and autograd).

    python tests/benchmarks/gated_crf.py --threads 2

Prints for 4 images of 21 classes and 128 x 128 pixels seconds (the best of some runs), the peak of memory in
multiples of that of the inputs (inputs included), and how far values and gradients are from each other.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent))

from support.memory import peak_bytes

from selflabel import GaussianKernel
from selflabel.losses import gated_crf_loss

KERNEL = GaussianKernel(1.0, 6.0, 15.0)


def unfolded(values: Tensor, radius: int) -> Tensor:
    """``[b c m h w]``: the window around every pixel."""
    side = 2 * radius + 1
    windows = F.unfold(values, side, padding=radius)
    return windows.view(*values.shape[:2], side * side, *values.shape[2:])


def published(logits: Tensor, images: Tensor, radius: int) -> Tensor:
    """Obukhov et al. 2019, supplement, eq. 6 to 10, for one kernel of place and color."""
    axes = (torch.arange(n, dtype=images.dtype, device=images.device) for n in images.shape[2:])
    y, x = torch.meshgrid(*axes, indexing="ij")
    place = torch.stack([y, x]).expand(len(images), 2, *y.shape) / KERNEL.sigma_xy
    features = torch.cat([place, images * 255 / KERNEL.sigma_rgb], 1)
    kernel = (-0.5 * (unfolded(features, radius) - features[:, :, None]).square().sum(1)).exp()
    inside = unfolded(torch.ones_like(images[:, :1]), radius)[:, 0].clone()
    inside[:, inside.shape[1] // 2] = 0
    kernel = (kernel * inside)[:, None]
    probs = logits.softmax(1)
    gathered = (kernel * unfolded(probs, radius)).sum(2)
    return (kernel.sum() - (probs * gathered).sum()) / images[:, 0].numel()


def run(loss: Callable[[Tensor, Tensor, int], Tensor], logits: Tensor, images: Tensor, radius: int) -> Tensor:
    logits.grad = None
    value = loss(logits, images, radius)
    value.backward()
    return value.detach()


def ours(logits: Tensor, images: Tensor, radius: int) -> Tensor:
    return gated_crf_loss(logits, images, radius=radius, kernels=(KERNEL,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(5_351)
    logits = torch.randn(4, 21, 128, 128, generator=generator, requires_grad=True)
    images = F.avg_pool2d(torch.rand(4, 3, 128, 128, generator=generator), 9, 1, 4)
    inputs = sum(t.numel() * t.element_size() for t in (logits, images))
    print(
        "| radius | seconds | published | ratio | memory | published | value, relative | gradient, relative |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for radius in (1, 3, 5):
        seconds, memory, values, slopes = [], [], [], []
        for loss in (ours, published):
            values.append(run(loss, logits, images, radius))
            slopes.append(logits.grad.clone())
            times = []
            for _ in range(options.runs):
                start = time.perf_counter()
                run(loss, logits, images, radius)
                times.append(time.perf_counter() - start)
            seconds.append(min(times))
            memory.append(peak_bytes(partial(run, loss, logits, images, radius)) / inputs + 1)
        value = float((values[0] - values[1]).abs() / values[1])
        slope = float((slopes[0] - slopes[1]).norm() / slopes[1].norm())
        print(
            f"| {radius} | {seconds[0]:.3f} | {seconds[1]:.3f} | {seconds[1] / seconds[0]:.1f} | "
            f"{memory[0]:.2f} | {memory[1]:.1f} | {value:.1e} | {slope:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
