"""Scores of a network's most probable classes against full masks, at the resolution of the batches."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from selflabel.datasets.samples import Batch
from selflabel.labels import to_index
from selflabel.metrics.confusion import LEVELS, dice, iou, mean_of_defined
from selflabel.metrics.folders import Rules, score_image
from selflabel.training.distributed import ALONE, Process, add_up


@dataclass(frozen=True)
class Scores:
    """One number per class, nan for a class that no map has; means over the classes from `first` on.

    dice, iou: of the pixel counts of all images together. hd95: in pixels, the mean over the images in which both
    maps have the class; None without `distances`.
    """

    dice: tuple[float, ...]
    iou: tuple[float, ...]
    hd95: tuple[float, ...] | None
    first: int

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the defined classes from `first` on."""
        return mean_of_defined(np.array(self.dice[self.first :]))

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the defined classes from `first` on."""
        return mean_of_defined(np.array(self.iou[self.first :]))

    @property
    def mean_hd95(self) -> float | None:
        """Mean HD95 of the defined classes from `first` on."""
        return None if self.hd95 is None else mean_of_defined(np.array(self.hd95[self.first :]))


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    classes: int,
    *,
    first: int = 0,
    distances: bool = False,
    device: torch.device | str = "cpu",
    process: Process = ALONE,
) -> Scores | None:
    """Score a network, in evaluation mode; None if there are no batches.

    first: means start at this class (1 leaves the background out). distances: also HD95, for two-dimensional images
    only. process: each of several has batches of its own and gets the scores of all. Raises `ValueError` for a batch
    without masks, and for masks with other classes.
    """
    rules = Rules(classes, first, distances)
    counts = np.zeros((LEVELS, LEVELS), np.int64)
    apart, images = np.zeros((2, classes)), 0
    with evaluating(network), torch.no_grad():
        for batch in batches:
            if batch.masks is None:
                raise ValueError(
                    f"expected full masks to score against, got none for {', '.join(batch.stems[:4])}: give "
                    f"the validation set its folder of masks"
                )
            index = to_index(network(batch.images.to(device))).to(torch.uint8).cpu().numpy()
            masks = batch.masks.to(torch.uint8).cpu().numpy()
            for stem, true, found in zip(batch.stems, masks, index, strict=True):
                score, count = score_image(stem, found, true, rules)
                counts += count
                images += 1
                if score.hd95 is not None:
                    values = score.hd95[:classes]
                    apart += np.stack([np.nan_to_num(values), ~np.isnan(values)])
    summed = add_up(torch.from_numpy(counts[:classes, :]).to(device), process)
    apart = add_up(torch.from_numpy(apart).to(device), process).cpu().numpy()
    images = int(add_up(torch.tensor(images, device=device), process))
    if images == 0:
        return None
    counts[:classes, :] = summed.cpu().numpy()
    return Scores(
        tuple(dice(counts)[:classes].tolist()),
        tuple(iou(counts)[:classes].tolist()),
        tuple(_means(apart).tolist()) if distances else None,
        first,
    )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A context in evaluation mode; each module, frozen or not, gets its own mode back after it."""
    before = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _means(apart: Float64[np.ndarray, "2 k"]) -> Float64[np.ndarray, " k"]:
    means = np.full(apart.shape[1], np.nan)
    np.divide(apart[0], apart[1], out=means, where=apart[1] > 0)
    return means
