"""How near the permutohedral lattice is to the exact Gaussian filter on photographs, and what it costs.

    python tests/benchmarks/lattice_accuracy.py --data DATA --images 20

DATA holds bsds/images, bsds/masks and bsds/train.txt. The reference is the exact filter at `--rows` pixels
of each image (a random choice; every pixel takes part in their sums). Errors are ``‖W x - K x‖ / ‖K x‖``
over these pixels, gains are ``Σ W x / Σ K x``; nothing is rescaled. Values: all ones, the masks of the
largest regions, and soft labels (softmax of noise around the masks).
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selflabel.affinity import Lattice
from selflabel.affinity.filters.protocol import Filter

BANDWIDTHS = ((13.0, 80.0), (15.0, 100.0))
CHANNELS = 4


def read(folder: Path, stem: str) -> tuple[Tensor, Tensor]:
    """Image [h w 3] in 0..255, masks [h w]."""
    with Image.open(folder / "images" / f"{stem}.jpg") as file:
        image = torch.from_numpy(np.asarray(file.convert("RGB"), dtype=np.float32))
    with Image.open(folder / "masks" / f"{stem}.png") as file:
        return image, torch.from_numpy(np.asarray(file).astype(np.int64))


def features_of(image: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    h, w, _ = image.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.cat([torch.stack([x, y], -1) / sigma_xy, image / sigma_rgb], -1).reshape(1, h * w, 5)


def values_of(mask: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    flat = mask.flatten()
    largest = flat.bincount().argsort(descending=True)[:CHANNELS]
    masks = (flat == largest[:, None]).float()[None]
    noise = torch.randn(masks.shape, generator=draw)
    return {"ones": torch.ones_like(masks[:, :1]), "masks": masks, "soft": (2 * masks + 2 * noise).softmax(1)}


def exact_rows(features: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """K x at some pixels [k rows], in double precision but for the exponential's argument."""
    result = []
    for part in torch.split(rows, 256):
        apart = torch.cdist(features[0, part], features[0], compute_mode="donot_use_mm_for_euclid_dist")
        result.append(torch.exp(-0.5 * apart.square()) @ values[0].t())
    return torch.cat(result).t().double()


def seconds(lattice: Filter, values: Tensor) -> float:
    lattice.apply(values)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        lattice.apply(values)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("SELFLABEL_DATA"), help="default $SELFLABEL_DATA"
    )
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument(
        "--rows", type=int, default=2000, help="pixels at which the exact filter is evaluated"
    )
    parser.add_argument(
        "--variance", type=float, default=None, help="of the lattice; default: that of Lattice"
    )
    parser.add_argument("--radius", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, or set SELFLABEL_DATA")
    chosen = {k: getattr(arguments, k) for k in ("variance", "radius") if getattr(arguments, k) is not None}
    folder = arguments.data / "bsds"
    stems = (folder / "train.txt").read_text().split()[: arguments.images]

    found: dict[tuple[float, float, str], list[tuple[float, float]]] = {}
    costs: dict[tuple[float, float], list[tuple[float, float, int]]] = {}
    for number, stem in enumerate(stems):
        image, mask = read(folder, stem)
        draw = torch.Generator().manual_seed(7300 + number)
        rows = torch.randperm(mask.numel(), generator=draw)[: arguments.rows]
        values = values_of(mask, draw)
        for bandwidths in BANDWIDTHS:
            features = features_of(image, *bandwidths)
            wanted = exact_rows(features, torch.cat(list(values.values()), 1), rows)
            start = time.perf_counter()
            lattice = Lattice(**chosen).build(features)
            built = time.perf_counter() - start
            spent = seconds(lattice, torch.rand(1, 21, mask.numel(), generator=draw))
            costs.setdefault(bandwidths, []).append((built, spent, lattice.vertices))
            first = 0
            for kind, x in values.items():
                exact = wanted[first : first + x.shape[1]]
                first += x.shape[1]
                got = lattice.apply(x)[0, :, rows].double()
                numbers = (float((got - exact).norm() / exact.norm()), float(got.sum() / exact.sum()))
                found.setdefault((*bandwidths, kind), []).append(numbers)

    print(
        "| sigma_rgb, sigma_xy | values | mean error | largest error | mean gain | smallest, largest gain |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for (rgb, xy, kind), numbers_of in found.items():
        errors, gains = zip(*numbers_of, strict=True)
        print(
            f"| {rgb:g}, {xy:g} | {kind} | {statistics.mean(errors):.2%} | {max(errors):.2%} "
            f"| {statistics.mean(gains):.4f} | {min(gains):.4f}, {max(gains):.4f} |"
        )
    print(f"\n{len(stems)} images, {torch.get_num_threads()} threads; medians; filtering 21 channels\n")
    print("| sigma_rgb, sigma_xy | build, ms | filter, ms | vertices |")
    print("| --- | --- | --- | --- |")
    for (rgb, xy), spent_on in costs.items():
        built, spent, vertices = (statistics.median(column) for column in zip(*spent_on, strict=True))
        print(f"| {rgb:g}, {xy:g} | {1e3 * built:.0f} | {1e3 * spent:.1f} | {vertices:.0f} |")


if __name__ == "__main__":
    main()
