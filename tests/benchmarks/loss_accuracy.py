"""How near the dense CRF's Potts sum and its gradient on the default lattice are to the exact ones: mean and worst.

    python tests/benchmarks/loss_accuracy.py --data DATA

DATA holds packs with a folder of images each. Every image is shrunk to `--side` pixels a side at most, for the exact
filter. Predictions: softmax of smooth noise (an eighth of the resolution), and of noise in each pixel.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selflabel.affinity import DenseAffinity, Exact
from selflabel.terms import BILINEAR, potts_and_grad

CLASSES = 5


def read(file: Path, side: int) -> Tensor:
    """``[1 3 h w]`` in [0, 1]."""
    with Image.open(file) as image:
        small = image.convert("RGB")
        small.thumbnail((side, side))
        return torch.from_numpy(np.array(small)).movedim(-1, 0)[None].float() / 255


def predictions(size: torch.Size, draw: torch.Generator) -> dict[str, Tensor]:
    """Smooth and noisy labels ``[1 k h w]``."""
    noise = torch.randn(1, CLASSES, *size, generator=draw)
    coarse = torch.randn(1, CLASSES, -(-size[0] // 8), -(-size[1] // 8), generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=tuple(size), mode="bilinear")
    return {"smooth": (2 * smooth).softmax(1), "noisy": (2 * noise).softmax(1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("SELFLABEL_DATA"))
    parser.add_argument("--side", type=int, default=64, help="pixels")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, or set SELFLABEL_DATA")
    draw = torch.Generator().manual_seed(52_817)
    print("| pack | images | predictions | loss: mean, worst | gradient: mean, worst |")
    print("| --- | --- | --- | --- | --- |")
    for pack in sorted(folder.parent for folder in arguments.data.glob("*/images")):
        errors: dict[str, list[tuple[float, float]]] = {}
        files = sorted(pack.joinpath("images").iterdir())
        for file in files:
            image = read(file, arguments.side)
            lattice = DenseAffinity.from_image(image)
            exact = DenseAffinity.from_image(image, filtering=Exact())
            for name, labels in predictions(image.shape[2:], draw).items():
                (found, slope), (wanted, true) = (
                    potts_and_grad(labels, w, BILINEAR) for w in (lattice, exact)
                )
                # what a logit feels: the part along the simplex
                along, true_along = (g.value - g.value.mean(1, keepdim=True) for g in (slope, true))
                apart = float((along - true_along).norm() / true_along.norm())
                errors.setdefault(name, []).append((abs(float(found / wanted) - 1), apart))
        for name, pairs in errors.items():
            loss, gradient = (np.array(column) for column in zip(*pairs, strict=True))
            print(
                f"| {pack.name} | {len(files)} | {name} | {loss.mean():.1%}, {loss.max():.1%} "
                f"| {gradient.mean():.1%}, {gradient.max():.1%} |"
            )


if __name__ == "__main__":
    main()
