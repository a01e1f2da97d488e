"""One script with pydensecrf2 and with `selflabel.compat.pydensecrf`: seconds, and the distance from explicit kernels.

    SELFLABEL_DATA=… python tests/benchmarks/drop_in.py --images 10

The two usual kernels (3 pixels, weight 3; 80 pixels and 13 levels, weight 10), ten steps, 21 classes whose predictions
are smooth noise. Errors: the share of pixels of 64-pixel crops with another label than by explicit matrices, median and
worst.
"""

import argparse
from types import ModuleType

import numpy as np
import pydensecrf.densecrf
import pydensecrf.utils
import torch
from pictures import Picture, spaced
from timing import Duel, Row, spread

import selflabel.compat.pydensecrf.densecrf
import selflabel.compat.pydensecrf.utils

CLASSES = 21
SIDE = 64
STEPS = 10
OURS = selflabel.compat.pydensecrf.densecrf, selflabel.compat.pydensecrf.utils
THEIRS = pydensecrf.densecrf, pydensecrf.utils


def script(modules: tuple[ModuleType, ModuleType], image: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """What people write: probabilities and an image in, probabilities out."""
    dcrf, utils = modules
    height, width = image.shape[:2]
    crf = dcrf.DenseCRF2D(width, height, len(probs))
    crf.setUnaryEnergy(utils.unary_from_softmax(probs))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    return np.array(crf.inference(STEPS))


def by_matrices(image: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The same with explicit kernels, in double precision."""
    height, width = image.shape[:2]
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    places = places.reshape(-1, 2).double()
    colors = torch.from_numpy(image).reshape(-1, 3).double()
    unary = -torch.from_numpy(probs).double().clamp(1e-5, 1).log().flatten(1)
    kernels = []
    for weight, features in ((3, places / 3), (10, torch.cat([places / 80, colors / 13], 1))):
        kernel = (-0.5 * torch.cdist(features, features) ** 2).exp()
        scale = kernel.sum(1).rsqrt()
        kernels.append(weight * scale[:, None] * kernel * scale)
    total = sum(kernels)
    labels = (-unary).softmax(0)
    for _ in range(STEPS):
        labels = (labels @ total - unary).softmax(0)
    return labels.numpy()


def predictions(picture: Picture) -> np.ndarray:
    """Smooth noise, of the size of the picture."""
    generator = torch.Generator().manual_seed(sum(map(ord, picture.name)))
    size = picture.image.shape[2:]
    coarse = torch.randn(1, CLASSES, *(n // 16 + 2 for n in size), generator=generator)
    smooth = torch.nn.functional.interpolate(3 * coarse, size, mode="bilinear")
    return (smooth + 0.5 * torch.randn(smooth.shape, generator=generator)).softmax(1)[0].numpy()


def crop(array: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """The middle."""
    for axis in axes:
        start = (array.shape[axis] - SIDE) // 2
        array = array.take(range(start, start + SIDE), axis)
    return np.ascontiguousarray(array)


def main() -> None:
    """Print a row of the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    duel, wrong = Duel(options.repeats), ([], [])
    for picture in spaced("bsds", options.images):
        image, probs = picture.pixels(), predictions(picture)
        duel.run(lambda: script(OURS, image, probs), lambda: script(THEIRS, image, probs))  # noqa: B023
        image, probs = crop(image, (0, 1)), crop(probs, (1, 2))
        expected = by_matrices(image, probs).argmax(0)
        for errors, modules in zip(wrong, (OURS, THEIRS), strict=True):
            errors.append(float((script(modules, image, probs).argmax(0) != expected).mean()))
    check = f"other labels than explicit kernels {spread(wrong[0], '.2%')}, {spread(wrong[1], '.2%')}"
    print(Row.head())
    print(duel.row("the same script, K = 21", "pydensecrf2", 1.0, check, max(wrong[0]) <= max(wrong[1])))


if __name__ == "__main__":
    main()
