"""One image in arrays: which classes can win, the solve, and the labels in the image's own classes."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from selflabel.driver import Result
from selflabel.files.label_files import UNLABELED
from selflabel.files.probabilities import Probabilities
from selflabel.labeling.classes import candidates, numbered, probabilities_of
from selflabel.labeling.settings import LabelingSettings


@dataclass(frozen=True, eq=False)
class Labeled:
    """The labels of one image, as numpy arrays."""

    index: UInt8[np.ndarray, "h w"]
    """The class of every pixel, 255 where it was left unlabeled."""
    labels: Float32[np.ndarray, "k h w"]
    """Soft labels of the classes that could win: probabilities."""
    classes: UInt8[np.ndarray, " k"]
    """The classes that could win: one a row of `labels`."""
    start_energy: float
    """The energy that the solver started from, a sum over the image."""
    energy: float
    """The energy of the soft labels."""
    bound: float | None
    """A lower bound of the energy, from solvers that have one."""
    steps: int
    """How many steps the solver took."""
    result: Result
    """How it ended."""

    @property
    def confidence(self) -> Float32[np.ndarray, "h w"]:
        """The probability of the most probable class of every pixel."""
        strongest: Float32[np.ndarray, "h w"] = self.labels.max(axis=0)
        return strongest


def label_arrays(
    image: Float32[np.ndarray, "h w c"],
    seeds: UInt8[np.ndarray, "h w"],
    given: Probabilities | None,
    settings: LabelingSettings,
) -> Labeled:
    """Label an image in [0, 1] from its seeds, and from its prediction if one is `given`.

    Raises `ValueError` for input that does not fit, `SolveError` if the solver fails.
    """
    classes = candidates(seeds, given, settings.all_classes)
    probs = None if given is None else probabilities_of(given, classes)
    channels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    numbers = torch.from_numpy(numbered(seeds, classes))
    solution = settings.labeler.label(channels, numbers, len(classes), probs)
    labels = solution.labels[0].numpy().astype(np.float32)
    index = classes[labels.argmax(axis=0)]
    index[labels.max(axis=0) < settings.min_confidence] = UNLABELED
    return Labeled(
        index=np.where(seeds == UNLABELED, index, seeds),
        labels=labels,
        classes=classes,
        start_energy=float(solution.start_energy[0]),
        energy=float(solution.energy[0]),
        bound=None if solution.bound is None else float(solution.bound[0]),
        steps=int(solution.steps[0]),
        result=solution.results[0],
    )
