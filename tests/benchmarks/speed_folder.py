"""A folder of photographs, files in to files out: `selflabel label` against a pool of pydensecrf2 scripts."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import peer_folder
from coarse_accuracy import CLASSES, pixels_of
from pictures import Picture, color_mixture
from PIL import Image
from timing import Duel, Row

IMAGES = 100
OPTIONS = (
    f"--solver mean-field --num-classes {CLASSES} --all-classes --max-steps 10 --set rtol=0 --pairwise-weight 5 "
    "--affinity dense --sigma 13 --sigma-xy 80 --set affinity.symmetric=true --set affinity.coarse=true "
    "--set affinity.smoothness=0.3 --set affinity.smoothness_xy=3"
)
"""Kernels of weight 1 and 0.3, and the tangent of 5 times their sum: 10 and 3 in the exponent, as the peer's."""


def photographs(pictures: list[Picture]) -> list[np.ndarray]:
    """The first `IMAGES`, uint8; where there are fewer, mirrored ones follow."""
    images = [pixels_of(picture) for picture in pictures]
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    return (images + mirrored)[:IMAGES]


def folder(pictures: list[Picture], repeats: int) -> list[Row]:
    rng = np.random.default_rng(20_306)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for part in ("images", "probs", "seeds"):
            (root / part).mkdir()
        images = photographs(pictures)
        for number, image in enumerate(images):
            probs = color_mixture(image, CLASSES, rng).astype(np.float32)
            Image.fromarray(image).save(root / "images" / f"{number}.png")
            np.save(root / "probs" / f"{number}.npy", probs)
            Image.fromarray(np.full(image.shape[:2], 255, np.uint8)).save(root / "seeds" / f"{number}.png")
        stems = [str(number) for number in range(len(images))]

        def ours() -> Path:
            out = root / "ours"
            shutil.rmtree(out, ignore_errors=True)
            command = (
                f"-m selflabel label {root}/images --seeds {root}/seeds --probs {root}/probs --out {out}"
            )
            command += f" {OPTIONS}"
            subprocess.run([sys.executable, *command.split()], check=True, stdout=subprocess.DEVNULL)
            return out / "labels"

        def pool() -> Path:
            out = root / "theirs"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            script = [sys.executable, peer_folder.__file__]
            subprocess.run([*script, root / "images", root / "probs", out], check=True)
            return out

        duel = Duel(repeats)
        labels = [
            [np.array(Image.open(path / f"{stem}.png")) for stem in stems] for path in duel.run(ours, pool)
        ]
        same = np.mean([np.mean(a == b) for a, b in zip(*labels, strict=True)])
        check = f"{same:.1%} of the pixels have the same label"
        return [
            duel.row(f"{len(stems)} photographs, files to files", "pool of scripts", 0.5, check, same > 0.9)
        ]
