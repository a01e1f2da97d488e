"""The memory layout of labels: channels first, as in torch, or channels last (pixel by pixel), as kernels take them."""

from collections.abc import Callable, Iterable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from selflabel.kernels.cpu.compile import Array, kernel
from selflabel.kernels.memory import empty
from selflabel.kernels.threads import num_threads, run_parallel, split_range

TILE = 64
"""Pixels that are copied at a time: they stay in the cache."""


@kernel
def _transpose(x, to, first, last):
    """``to[pixel, class] = x[class, pixel]`` for a range of pixels, a tile at a time; or back, on transposed views."""
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for k in range(len(x)):
            for p in range(start, stop):
                to[p, k] = x[k, p]


def empty_channels_last(like: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """Channels-last labels of this shape and dtype, of any content."""
    return empty(tuple(like.movedim(1, -1).shape), like.dtype).movedim(-1, 1)


def rows(labels: Float[Tensor, "b k *s"]) -> Array:
    """A view ``[b n k]`` of channels-last labels."""
    return labels.movedim(1, -1).flatten(1, -2).numpy()


def channels_last(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The same labels, channels last (`torch.channels_last`)."""
    if labels.movedim(1, -1).is_contiguous():
        return labels
    if not labels.is_contiguous():
        return labels.movedim(1, -1).contiguous().movedim(-1, 1)
    result = empty_channels_last(labels)
    _copy(labels.flatten(2).numpy(), rows(result))
    return result


def channels_first(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The same labels, channels first."""
    if labels.is_contiguous() or not labels.movedim(1, -1).is_contiguous():
        return labels.contiguous()
    result = empty(tuple(labels.shape), labels.dtype)
    _copy(rows(labels).swapaxes(1, 2), result.flatten(2).numpy().swapaxes(1, 2))
    return result


def summed(
    values: Float[Tensor, "b k n"], terms: Iterable[Callable[[Tensor, Tensor], None]]
) -> Float[Tensor, "b k n"]:
    """Sum of the terms: each is called as ``term(values, out)``, both channels last, and adds to `out`.

    The result has the values' memory layout.
    """
    source, result = channels_last(values), empty_channels_last(values).zero_()
    for term in terms:
        term(source, result)
    return channels_first(result) if values.is_contiguous() else result


def _copy(x: Array, to: Array) -> None:
    """Copy ``[b k n]`` to ``[b n k]``."""
    threads = num_threads()
    ranges = split_range(x.shape[2], threads)
    run_parallel(
        [partial(_transpose, a, b, *part) for a, b in zip(x, to, strict=True) for part in ranges], threads
    )
