"""What users of pydensecrf2 write: a pool of processes that label a folder.

    python tests/benchmarks/peer_folder.py IMAGES PROBS OUT

Photographs as PNG, probabilities [k h w] as npy, labels as PNG. Imports nothing else, as such scripts do.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pydensecrf.densecrf as peer
from PIL import Image
from pydensecrf.utils import unary_from_softmax

STEPS = 10


def mean_field(image: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Soft labels from an image, uint8 ``[h w 3]``, and probabilities ``[k h w]``."""
    crf = peer.DenseCRF2D(image.shape[1], image.shape[0], len(probs))
    crf.setUnaryEnergy(unary_from_softmax(probs))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    return np.array(crf.inference(STEPS)).reshape(probs.shape)


def label(images: Path, probs: Path, out: Path, stem: str) -> None:
    """Read an image and its probabilities, write its labels."""
    image = np.array(Image.open(images / f"{stem}.png"))
    given = np.load(probs / f"{stem}.npy").astype(np.float32)
    Image.fromarray(mean_field(image, given).argmax(0).astype(np.uint8)).save(out / f"{stem}.png")


def main() -> None:
    images, probs, out = map(Path, sys.argv[1:])
    stems = sorted(path.stem for path in images.iterdir())
    with ProcessPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(partial(label, images, probs, out), stems))


if __name__ == "__main__":
    main()
