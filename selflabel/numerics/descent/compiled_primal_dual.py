"""Primal-dual steps for total variation on grids and windows, compiled: two passes over the pixels a step."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch

from selflabel.affinity.stencil import Stencil
from selflabel.kernels.cpu import primal_dual
from selflabel.kernels.cpu.layout import empty_channels_last, rows
from selflabel.kernels.threads import num_threads, run_parallel, split_for_sums, split_range
from selflabel.numerics.descent.line_search import PerImage
from selflabel.numerics.descent.primal_dual import RELAXATION, SaddlePoint
from selflabel.problem import Problem
from selflabel.terms import Labels


class CompiledPrimalDual:
    """Of `PrimalDual`, on a `Stencil`. Memory: five, and two a pair, times the labels."""

    def __init__(self, problem: Problem, labels: Labels) -> None:
        assert isinstance(problem.affinity, Stencil), "checked by the solver"
        saddle, size = SaddlePoint.of(problem, labels), tuple(labels.shape[2:])
        batch, classes, pixels = len(labels), labels.shape[1], prod(size)
        self._current = _by_pixel(labels)
        self._labels, self._point, self._ahead, self._unaries = (
            rows(x) for x in (self._current, _by_pixel(labels), _by_pixel(labels), _by_pixel(saddle.unaries))
        )
        weights, offsets = problem.affinity.flat
        self._weights = weights.to(labels.dtype).contiguous().numpy()
        strides = [prod((*([1] * (3 - len(size))), *size)[axis + 1 :]) for axis in range(3)]
        self._offsets = (offsets.long() @ torch.tensor(strides)).numpy()
        number = self._labels.dtype.type
        self._dual_rate, self._limit = number(saddle.dual_rate), number(saddle.limit)
        self._relaxation, self._is_isotropic = number(RELAXATION), saddle.is_isotropic
        self._rate = saddle.rate.flatten(1).contiguous().numpy()
        self._free = problem.free.flatten(1).contiguous().numpy()
        self._forbidden = np.empty((batch, 0), np.bool_)
        if problem.classes is not None:
            self._forbidden = (~problem.classes).contiguous().numpy()
        self._duals = np.zeros((batch, len(self._offsets), pixels, classes), self._labels.dtype)

    @property
    def labels(self) -> Labels:
        """A copy, as the next step overwrites them."""
        return self._current.clone()

    def step(self) -> None:
        """As `PrimalDual.step`."""
        parts = split_range(self._labels.shape[1], num_threads())
        self._run(
            lambda i, *part: primal_dual.lower(
                *(self._unaries[i], self._duals[i], self._weights[i], self._offsets, self._rate[i]),
                *(self._free[i], self._forbidden[i], self._relaxation),
                *(self._point[i], self._labels[i], self._ahead[i], *part),
            ),
            parts,
        )
        self._run(
            lambda i, *part: primal_dual.lift(
                *(self._ahead[i], self._weights[i], self._offsets, self._dual_rate, self._limit),
                *(self._is_isotropic, self._relaxation, self._duals[i], *part),
            ),
            parts,
        )

    def bound(self) -> PerImage:
        """As `PrimalDual.bound`."""
        duals = np.empty_like(self._duals)
        parts = split_for_sums(self._labels.shape[1])
        self._run(
            lambda i, *part: primal_dual.limit_duals(
                self._duals[i], self._weights[i], self._limit, self._is_isotropic, duals[i], *part
            ),
            parts,
        )
        sums = self._run(
            lambda i, *part: primal_dual.least_costs(
                *(self._unaries[i], duals[i], self._weights[i], self._offsets, self._labels[i]),
                *(self._free[i], self._forbidden[i], *part),
            ),
            parts,
        )
        return torch.from_numpy(np.array(sums).reshape(len(self._labels), len(parts)).sum(1))

    def _run(self, kernel: Callable[..., Any], parts: Sequence[tuple[int, int]]) -> list[Any]:
        """``kernel(image, first, last)`` for all images and parts of their pixels, in this order."""
        tasks = [partial(kernel, i, *part) for i in range(len(self._labels)) for part in parts]
        return run_parallel(tasks, num_threads())


def _by_pixel(labels: Labels) -> Labels:
    """A copy that lies pixel by pixel in memory."""
    return empty_channels_last(labels).copy_(labels)
