"""Steps of Frank-Wolfe with Euclidean smoothing, compiled: a pass over the pixels on each side of the filtering."""

from functools import partial

import numpy as np
import torch

from selflabel.kernels.cpu import frank_wolfe
from selflabel.kernels.cpu.layout import empty_channels_last, rows
from selflabel.kernels.threads import num_threads, run_parallel, split_for_sums
from selflabel.numerics.descent.line_search import PerImage
from selflabel.numerics.descent.quadratic import LEAST_WEIGHT, Field, LabelPoint


class CompiledAim:
    """The `Aim` of `Euclidean` from a point whose labels lie pixel by pixel in memory."""

    def __init__(self, point: LabelPoint, rho: PerImage) -> None:
        energy, labels = point.energy, point.labels
        self.point, self.end = point, empty_channels_last(labels)
        unary, filtered, own, end = (rows(x) for x in (energy.unary, point.filtered, labels, self.end))
        number, images = own.dtype.type, len(own)
        free = energy.free.flatten(1).numpy()
        square = np.empty((images, 0), own.dtype)
        if energy.square is not None:
            square = energy.square.to(labels.dtype).flatten(1).contiguous().numpy()
        forbidden = np.empty((images, 0), np.bool_)
        if energy.forbidden is not None:
            forbidden = energy.forbidden.flatten(1).contiguous().numpy()
        parts = split_for_sums(free.shape[1])
        tasks = [
            partial(
                frank_wolfe.aim,
                *(unary[i], filtered[i], own[i], square[i], free[i], forbidden[i]),
                *(number(energy.pull), number(weight), number(LEAST_WEIGHT)),
                *(end[i], *part),
            )
            for i, weight in enumerate(rho.tolist())
            for part in parts
        ]
        found = np.array(run_parallel(tasks, num_threads())).reshape(images, len(parts), -1).sum(1)
        sums = torch.from_numpy(found).unbind(1)
        self.gap, self.slope, self.square, self.overlap, self.length = sums

    def bend(self, filtered: Field) -> PerImage:
        """As `Aim.bend`."""
        arrays = [rows(x) for x in (self.point.labels, self.end, self.point.filtered, filtered)]
        parts = split_for_sums(arrays[0].shape[1])
        tasks = [
            partial(frank_wolfe.bend, *(x[i] for x in arrays), *part)
            for i in range(len(arrays[0]))
            for part in parts
        ]
        found = np.array(run_parallel(tasks, num_threads())).reshape(len(arrays[0]), len(parts)).sum(1)
        return torch.from_numpy(found)
