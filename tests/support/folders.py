"""A small solver, a small annotator and small folders, for the tests of labeling and of the command line."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selflabel.affinity import Affinity
from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.affinity.image import ImageLike, as_image
from selflabel.driver import Step
from selflabel.energy import Energy
from selflabel.files.label_files import write_index
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.lines import Run
from selflabel.labeling.settings import LabelingSettings, described
from selflabel.problem import Problem
from selflabel.terms import Regularizer


@dataclass(frozen=True)
class Smooth:
    """Averages the labels of neighbors a few times."""

    name: ClassVar[str] = "smooth"
    default_energy: ClassVar[Energy] = Energy(pairwise_weight=2.0)
    default_affinity: ClassVar[AffinityBuilder] = Grid()
    needs_edges: ClassVar[bool] = False
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    rounds: int = 3

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Anything fits."""

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """Yield after each round, with zero as a lower bound."""
        for _ in range(self.rounds):
            mixed = labels + problem.affinity.apply(labels)
            labels = problem.feasible(mixed / mixed.sum(1, keepdim=True))
            yield Step(labels, bound=torch.zeros(len(labels), dtype=torch.float64))


@dataclass(frozen=True)
class MeanColor:
    """Probabilities that fall with the distance to the mean color of each class."""

    name: ClassVar[str] = "mean-color"
    sharpness: float = 4.0

    def check(self) -> None:
        """Needs no package."""

    def predict(self, image: ImageLike, seeds: Tensor, num_classes: int) -> Tensor:
        """The probabilities of one image; zero for classes without seeds."""
        colors = as_image(image).unit[0]
        means = torch.stack([colors[:, seeds[0] == k].mean(1) for k in range(num_classes)])
        distance = (colors[None] - means[:, :, None, None]).square().sum(1)
        return (-self.sharpness * distance.nan_to_num(nan=torch.inf)).softmax(0)[None]


@dataclass(frozen=True)
class KillsItself(MeanColor):
    """Kills its process at images of 9 rows: as a crash in a library does."""

    def predict(self, image: ImageLike, seeds: Tensor, num_classes: int) -> Tensor:
        """Die at images of 9 rows."""
        if image.shape[2] == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(image, seeds, num_classes)


LABELER = Labeler(Smooth(), Smooth.default_energy, Grid(sigma=20.0), MeanColor())
SETTINGS = LabelingSettings(LABELER)


def run_of(settings: LabelingSettings) -> Run:
    """The manifest's line for these settings."""
    return Run("test", described(settings))


def picture(
    seed: int, size: tuple[int, int] = (12, 16), noise: float = 40.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of two halves with noise, its seeds (classes 0 and 2), and the truth."""
    random = np.random.default_rng(seed)
    truth = np.zeros(size, np.uint8)
    truth[:, size[1] // 2 :] = 2
    image = np.where(truth[..., None] == 0, (200, 40, 40), (40, 60, 210)) + random.normal(
        0, noise, (*size, 3)
    )
    seeds = np.full(size, 255, np.uint8)
    seeds[2:6, 2], seeds[3:8, -3] = 0, 2
    return image.clip(0, 255).astype(np.uint8), seeds, truth


def make_folders(root: Path, count: int, seed: int = 6143, noise: float = 40.0) -> tuple[Path, Path, Path]:
    """Folders of images, seeds and truths with stems a0, a1, ..."""
    folders = root / "images", root / "seeds", root / "truth"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, seeds, truth = picture(seed + number, noise=noise)
        Image.fromarray(image).save(folders[0] / f"a{number}.png")
        write_index(folders[1] / f"a{number}.png", seeds)
        write_index(folders[2] / f"a{number}.png", truth)
    return folders


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder, manifests left out."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("manifest"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
