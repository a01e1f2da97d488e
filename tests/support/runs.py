"""Small data folders and a small network, for the tests of the commands that train."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from selflabel.cli import app
from selflabel.files.label_files import write_index
from selflabel.labels import UNLABELED
from selflabel.training import load_checkpoint

NETWORK = "support.runs:tiny"
SMALL = ("--network", NETWORK, "--size", 16, "--batch", 2, "--pretrain-steps", 1, "--warmup-steps", 2)


def tiny(channels: int, classes: int, size: int | None = None) -> nn.Module:
    """Two convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, classes, 1)
    )


def make_data(
    root: Path, train: int = 4, val: int = 2, size: tuple[int, int] = (16, 14), classes: int = 2
) -> Path:
    """Images of a bright disk on dark ground; scribbles on both; stems t0, t1, ..., v0, v1, ..."""
    for folder in ("images", "scribbles", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stems = [f"t{n}" for n in range(train)], [f"v{n}" for n in range(val)]
    random = np.random.default_rng(7_351)
    for stem in (*stems[0], *stems[1]):
        y, x = np.indices(size)
        center = (size[0] / 2 + random.uniform(-2, 2), size[1] / 2 + random.uniform(-2, 2))
        mask = (np.hypot(y - center[0], x - center[1]) < 4.5).astype(np.uint8)
        image = np.where(mask == 1, 190, 70) + random.normal(0, 15, size)
        seeds = np.full(size, UNLABELED, np.uint8)
        seeds[1, 1:-1] = 0
        seeds[int(center[0]), int(center[1]) - 2 : int(center[1]) + 3] = 1
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{stem}.png")
        write_index(root / "scribbles" / f"{stem}.png", seeds)
        write_index(root / "masks" / f"{stem}.png", mask)
    (root / "train.txt").write_text("\n".join(stems[0]) + "\n")
    if val:
        (root / "val.txt").write_text("\n".join(stems[1]) + "\n")
    (root / "classes.txt").write_text("".join(f"class {k}\n" for k in range(classes)))
    return root


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(root: Path, out: Path, *more: object, steps: int = 6) -> Result:
    return call("train", root, "--out", out, *SMALL, "--steps", steps, *more)


def weights(path: Path) -> list[torch.Tensor]:
    return list(load_checkpoint(path).network.values())
