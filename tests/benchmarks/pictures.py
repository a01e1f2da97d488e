"""Real images for the benchmarks, from the folder that SELFLABEL_DATA names."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.cluster.vq import kmeans2

from selflabel.annotators import Annotator
from selflabel.labels import UNLABELED


@dataclass(frozen=True)
class Picture:
    """One image in [0, 1], its seeds with classes numbered 0, 1, ... as present, and its mask likewise."""

    name: str
    image: torch.Tensor  # [1 c h w]
    seeds: torch.Tensor  # [1 h w]
    mask: torch.Tensor  # [1 h w]
    classes: int

    def pixels(self) -> np.ndarray:
        """uint8 ``[h w c]``."""
        return (self.image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()

    def halved(self) -> "Picture":
        """Every second pixel of the labels, the mean of 2x2 pixels of the image."""
        image = torch.nn.functional.avg_pool2d(self.image, 2)
        h, w = image.shape[2:]
        seeds, mask = (x[:, : 2 * h : 2, : 2 * w : 2] for x in (self.seeds, self.mask))
        present = torch.unique(seeds[seeds != UNLABELED])
        table = torch.full((256,), UNLABELED)
        table[present] = torch.arange(len(present))
        return Picture(self.name, image, table[seeds], table[mask], len(present))

    def predict(self, annotator: Annotator) -> torch.Tensor:
        """The annotator's probabilities."""
        return annotator.predict(self.image, self.seeds, self.classes)


def data_folder() -> Path:
    """The folder of the packs; ends the script with advice where it is not set."""
    folder = os.environ.get("SELFLABEL_DATA")
    if not folder:
        sys.exit("set SELFLABEL_DATA to the folder that holds acdc/, camvid/ and bsds/")
    return Path(folder)


def stems(pack: str) -> list[str]:
    """All stems of a pack, train and val."""
    lists = [data_folder() / pack / name for name in ("train.txt", "val.txt")]
    return [stem for path in lists if path.exists() for stem in path.read_text().split()]


def load(pack: str, stem: str) -> Picture:
    """One image of a pack."""
    folder = data_folder() / pack
    image = np.asarray(Image.open(next((folder / "images").glob(f"{stem}.*"))))
    image = np.atleast_3d(image).transpose(2, 0, 1).astype(np.float32) / 255
    seeds, mask = (
        torch.from_numpy(np.asarray(Image.open(folder / kind / f"{stem}.png")).astype(np.int64))[None]
        for kind in ("scribbles", "masks")
    )
    present = torch.unique(seeds[seeds != UNLABELED])
    table = torch.full((256,), UNLABELED)
    table[present] = torch.arange(len(present))
    return Picture(f"{pack}/{stem}", torch.from_numpy(image)[None], table[seeds], table[mask], len(present))


def spaced(pack: str, count: int) -> Iterator[Picture]:
    """`count` images evenly through a pack."""
    every = stems(pack)
    for number in np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int):
        yield load(pack, every[number])


def color_mixture(image: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Posteriors ``[k h w]`` of a mixture of diagonal Gaussians, fitted by k-means."""
    colors = image.reshape(-1, 3).astype(np.float64)
    sample = colors[rng.choice(len(colors), 5000, replace=False)]
    centers, member = kmeans2(sample, classes, minit="++", rng=rng)
    log = np.empty((classes, len(colors)))
    for k in range(classes):
        own = sample[member == k] if (member == k).sum() > 3 else sample
        variance = own.var(0) + 9.0
        squared = ((colors - centers[k]) ** 2 / variance).sum(1)
        log[k] = np.log(len(own) / len(sample)) - 0.5 * (squared + np.log(variance).sum())
    probs = np.exp(log - log.max(0))
    return (probs / probs.sum(0)).reshape(classes, *image.shape[:2])
