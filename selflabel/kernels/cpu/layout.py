"""Labels in memory class by class, as torch has them, or pixel by pixel, as the kernels want them."""

from collections.abc import Callable, Iterable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from selflabel.kernels.cpu.compile import Array, kernel
from selflabel.kernels.memory import empty
from selflabel.kernels.threads import num_threads, run_parallel, split_range

TILE = 64


@kernel
def _transpose(x, to, first, last):
    """``to[pixel, class] = x[class, pixel]`` of a range of pixels, a tile at a time. On views, also back."""
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for k in range(len(x)):
            for p in range(start, stop):
                to[p, k] = x[k, p]


def empty_channels_last(like: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """Labels of this shape and type."""
    return empty(tuple(like.movedim(1, -1).shape), like.dtype).movedim(-1, 1)


def rows(labels: Float[Tensor, "b k *s"]) -> Array:
    """A view ``[b n k]`` of labels that lie pixel by pixel."""
    return labels.movedim(1, -1).flatten(1, -2).numpy()


def channels_last(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The same labels, in memory pixel by pixel (`torch.channels_last`)."""
    if labels.movedim(1, -1).is_contiguous():
        return labels
    if not labels.is_contiguous():
        return labels.movedim(1, -1).contiguous().movedim(-1, 1)
    result = empty_channels_last(labels)
    _copy(labels.flatten(2).numpy(), rows(result))
    return result


def channels_first(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The same labels, in memory class by class."""
    if labels.is_contiguous() or not labels.movedim(1, -1).is_contiguous():
        return labels.contiguous()
    result = empty(tuple(labels.shape), labels.dtype)
    _copy(rows(labels).swapaxes(1, 2), result.flatten(2).numpy().swapaxes(1, 2))
    return result


def summed(
    values: Float[Tensor, "b k n"], terms: Iterable[Callable[[Tensor, Tensor], None]]
) -> Float[Tensor, "b k n"]:
    """What the terms, given the values and where to, add there, both by pixel; in memory as the values are."""
    source, result = channels_last(values), empty_channels_last(values).zero_()
    for term in terms:
        term(source, result)
    return channels_first(result) if values.is_contiguous() else result


def _copy(x: Array, to: Array) -> None:
    """From ``[b k n]`` to ``[b n k]``."""
    threads = num_threads()
    ranges = split_range(x.shape[2], threads)
    run_parallel(
        [partial(_transpose, a, b, *part) for a, b in zip(x, to, strict=True) for part in ranges], threads
    )
