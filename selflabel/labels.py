"""Labels and seeds. The shape letters that all signatures use are explained here.

=======  ==============================================================================
letter   meaning
=======  ==============================================================================
``b``    images of a batch
``k``    classes
``*s``   two or three spatial axes, ``(h, w)`` or ``(d, h, w)``
``c``    channels of an image, or of a feature map
``n``    pixels of one image, flattened: the product of ``*s``
``e``    edges (unordered pairs of pixels) of one image
``m``    neighbor offsets of a stencil
=======  ==============================================================================

*Labels* are soft: distributions over the classes, ``[b k *s]``. An *index* is hard: ``[b *s]``. *Seeds* are an
index with `UNLABELED` where nothing was drawn.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from selflabel import files
from selflabel.inputs import check_tensor
from selflabel.kernels.backend import Backend, Routine, backend

UNLABELED: Final = files.UNLABELED
"""The value of a pixel without a label, in every index and every file: 255."""

LOG_FLOOR = -30.0
"""Natural logarithm: the least probability of a label or prediction, 1e-13.

Logarithms of probabilities, and of products of two of them, then stay finite in float32.
"""

MOST_OFF = 1e-3
"""How far sums of predictions over the classes may be from one."""

Index = Integer[Tensor, "b *s"]


def one_hot(index: Index, num_classes: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b k *s"]:
    """Distributions with all mass on the given class; all zero where the index is `UNLABELED`."""
    classes = torch.arange(num_classes, device=index.device).view(1, -1, *[1] * (index.ndim - 1))
    return (index[:, None] == classes).to(dtype)


def unlabeled(seeds: Index) -> Bool[Tensor, "b 1 *s"]:
    """True at the pixels without a seed."""
    return (seeds == UNLABELED)[:, None]


def with_seeds(labels: Float[Tensor, "b k *s"], seeds: Index) -> Float[Tensor, "b k *s"]:
    """The labels, one-hot at the seeds."""
    return torch.where(unlabeled(seeds), labels, one_hot(seeds, labels.shape[1], labels.dtype))


def restrict_classes(
    labels: Float[Tensor, "b k *s"], classes: Bool[Tensor, "b k"]
) -> Float[Tensor, "b k *s"]:
    """The labels without mass on the classes that are not allowed, normalized again.

    A pixel that had mass on these alone becomes uniform over the allowed classes.
    """
    allowed = classes.view(*classes.shape, *[1] * (labels.ndim - 2)).to(labels.dtype)
    kept = labels * allowed
    mass = kept.sum(1, keepdim=True)
    uniform = allowed / allowed.sum(1, keepdim=True)
    return torch.where(mass == 0, uniform, kept / mass.clamp_min(torch.finfo(labels.dtype).tiny))


def floored(logits: Float[Tensor, "b k *s"], floor: float) -> Float[Tensor, "b k *s"]:
    """The logits minus their maximum over the classes, at least `floor`: no class gets lost, no number is denormal."""
    return (logits - logits.amax(1, keepdim=True)).clamp_min_(floor)


def floored_logits(labels: Float[Tensor, "b k *s"], floor: float) -> Float[Tensor, "b k *s"]:
    """``ln y``, `floored`."""
    return floored(labels.clamp_min(torch.finfo(labels.dtype).tiny).log(), floor)


def channels_first(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The same labels, contiguous in memory: solvers may return them channels-last."""
    if backend(Routine.LAYOUT, labels.device, labels.dtype) is Backend.CPU:
        from selflabel.kernels.cpu.layout import channels_first

        return channels_first(labels)
    return labels.contiguous()


def per_image(scalars: Float[Tensor, " b"], like: Float[Tensor, "b k *s"]) -> Float[Tensor, "b *ones"]:
    """One number an image, shaped and typed to be multiplied with labels."""
    return scalars.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def to_index(labels: Float[Tensor, "b k *s"]) -> Index:
    """The most probable class; ties go to the first."""
    return labels.argmax(1)


def classes_present(seeds: Index, num_classes: int) -> Bool[Tensor, "b k"]:
    """True for the classes that an image has seeds of."""
    return one_hot(seeds, num_classes).flatten(2).any(2)


def check_index_type(seeds: Tensor) -> None:
    """Raise `ValueError` for anything but whole numbers that can hold `UNLABELED`.

    In int8 it would wrap around to -1, and a mask of bool or float is no index.
    """
    check_tensor(seeds, "seeds")
    if seeds.is_floating_point() or seeds.dtype in (torch.bool, torch.int8):
        raise ValueError(
            f"expected seeds as whole numbers that can hold {UNLABELED} (uint8, int64), got {seeds.dtype}"
        )


def are_distributions(labels: Float[Tensor, "b k *s"]) -> Bool[Tensor, ""]:
    """Are the labels finite and not negative, and sum to one over the classes? On their device, without a wait."""
    off = (labels.sum(1) - 1).abs().amax()  # nan or inf if any of the labels is
    return (off <= MOST_OFF) & (labels.amin() >= 0)


def check_distributions(labels: Float[Tensor, "b k *s"], what: str, advice: str) -> None:
    """Raise `ValueError` unless labels are finite, not negative, and sum to one over the classes."""
    off = float((labels.sum(1) - 1).abs().max())  # nan or inf if any of the labels is
    if not off < inf:
        raise ValueError(f"expected finite {what}, got nan or inf: check the network's output")
    if off > MOST_OFF or bool(labels.amin() < 0):
        raise ValueError(
            f"expected {what} >= 0 that sum to one over the classes, got sums off by up to {off:g}: {advice}"
        )


PROBABILITIES_AS_LOGITS = (
    "expected logits, got probabilities: they are >= 0 and sum to one at every pixel. Give them as they are, "
    "Problem(energy, probs, seeds, affinity)"
)


def are_logits(logits: Tensor) -> Bool[Tensor, ""]:
    """Are these no probabilities already? On their device, without a wait."""
    return ~(((logits.sum(1) - 1).abs() < MOST_OFF).all() & (logits >= 0).all())


def is_on_cpu(values: Tensor) -> bool:
    """Are these values on the CPU, where to read a number is not to wait for a device?"""
    return values.device.type == "cpu"


def refuse_probabilities(logits: Tensor) -> None:
    """Raise `ValueError` for logits that are probabilities. One pixel is looked at, all only if it is one."""
    first = logits[(slice(1), slice(None), *[slice(1)] * (logits.ndim - 2))]
    if not bool(are_logits(first)) and not bool(are_logits(logits)):
        raise ValueError(PROBABILITIES_AS_LOGITS)


def are_seeds(seeds: Index, num_classes: int, classes: Bool[Tensor, "b k"] | None = None) -> Bool[Tensor, ""]:
    """Is every seed `UNLABELED` or one of the classes that its image allows? On their device, without a wait."""
    fits = ((seeds == UNLABELED) | ((seeds >= 0) & (seeds < num_classes))).all()
    if classes is None:
        return fits
    return fits & ~(classes_present(seeds, num_classes) & ~classes).any()


def check_seeds(seeds: Index, num_classes: int, classes: Bool[Tensor, "b k"] | None = None) -> None:
    """Raise `ValueError` for a seed that is neither one of the classes nor `UNLABELED`.

    With `classes`, a seed of a class that its image excludes is an error too.
    """
    wrong = (seeds != UNLABELED) & ((seeds < 0) | (seeds >= num_classes))
    if wrong.any():
        found = _some(seeds[wrong])
        ignored = f"torch's ignore_index becomes {UNLABELED}, seeds[seeds == -100] = {UNLABELED}"
        remedy = "raise the number of classes, or map the values of your files"
        raise ValueError(
            f"expected seeds in 0..{num_classes - 1} or {UNLABELED} (unlabeled), got {found}: "
            f"{ignored if found == [-100] else remedy}"
        )
    if classes is not None and (classes_present(seeds, num_classes) & ~classes).any():
        raise ValueError(
            "expected every class that has seeds to be allowed by `classes`, got one that is not"
        )


def _some(values: Tensor) -> Sequence[int]:
    return values.unique()[:8].tolist()  # type: ignore[no-any-return, no-untyped-call]
