"""Labels in memory class by class, as torch has them, or pixel by pixel, as the kernels want them."""

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.kernels.compile import Array, in_parallel, kernel, num_threads, parts

TILE = 64


@kernel
def _transpose(x, to, first, last):
    """``to[j, i] = x[i, j]`` for the columns j of a range, a tile at a time."""
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for i in range(len(x)):
            for j in range(start, stop):
                to[j, i] = x[i, j]


@kernel
def _transpose_back(x, to, first, last):
    """``to[j, i] = x[i, j]`` for the rows i of a range, a tile at a time."""
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for j in range(len(to)):
            for i in range(start, stop):
                to[j, i] = x[i, j]


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Of any content. Numpy asks the system for large pages, with far fewer faults when they are first touched."""
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def empty_by_pixel(like: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """Labels of this shape and type."""
    return empty(tuple(like.movedim(1, -1).shape), like.dtype).movedim(-1, 1)


def rows(labels: Float[Tensor, "b k *s"]) -> Array:
    """A view ``[b n k]`` of labels that lie pixel by pixel."""
    return labels.movedim(1, -1).flatten(1, -2).numpy()


def by_pixel(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The same labels, in memory pixel by pixel (`torch.channels_last`)."""
    if labels.movedim(1, -1).is_contiguous():
        return labels
    if not labels.is_contiguous():
        return labels.movedim(1, -1).contiguous().movedim(-1, 1)
    result = empty_by_pixel(labels)
    _run(_transpose, labels.flatten(2).numpy(), rows(result), result[0, 0].numel())
    return result


def by_class(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The same labels, in memory class by class."""
    if labels.is_contiguous() or not labels.movedim(1, -1).is_contiguous():
        return labels.contiguous()
    result = empty(tuple(labels.shape), labels.dtype)
    _run(_transpose_back, rows(labels), result.flatten(2).numpy(), labels[0, 0].numel())
    return result


def _run(transpose: Any, x: Array, to: Array, pixels: int) -> None:
    threads = num_threads()
    tasks = [
        partial(transpose, a, b, *part) for a, b in zip(x, to, strict=True) for part in parts(pixels, threads)
    ]
    in_parallel(tasks, threads)
