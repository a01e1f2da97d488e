"""What the entries of the library take: one rule for types, and remedies for what is refused.

- NumPy arrays become tensors where nothing is differentiated: images, logits and seeds of a problem.
- Half precision (float16, bfloat16) becomes float32: sums over an image need its digits. float64 stays.
- Outputs of networks that wrap their logits are unwrapped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

WRAPPED = ("logits", "out")
"""Where networks put their logits: transformers under `logits`, torchvision under `out`."""

NUMBERS = "biuf"
"""Kinds of NumPy's types that become tensors: bool, whole numbers with and without sign, floating point."""

HALF_SUMS = 0.02
"""How far sums of 255 probabilities in bfloat16 may be from one."""


def as_tensor(values: Any, name: str) -> Shaped[Tensor, "..."]:
    """The tensor itself, or a NumPy array as one. Raises `ValueError` for anything else."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in NUMBERS:
        return torch.from_numpy(
            np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="), copy=False)
        )
    raise _no_tensor(values, name, "a torch tensor or a NumPy array of numbers")


def as_index(values: Any, name: str) -> Shaped[Tensor, "..."]:
    """Whole numbers as a tensor in int64, or an array of them; whole numbers in floating point count as what they are.

    Raises `ValueError` for fractions, nan and booleans: they are no classes.
    """
    tensor = as_tensor(values, name)
    whole = tensor.long()
    if tensor.dtype == torch.bool or not (tensor is whole or torch.equal(whole.to(tensor.dtype), tensor)):
        found = "booleans" if tensor.dtype == torch.bool else f"fractions or nan in {tensor.dtype}"
        raise ValueError(f"expected {name} as whole numbers, the classes, got {found}")
    return whole


def widened(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Floats in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def widened_distributions(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """Distributions in float32 at least; those in half precision sum to one again.

    What is no distribution stays none: sums off by more than half precision explains are not touched.
    """
    if labels.dtype not in (torch.float16, torch.bfloat16):
        return labels
    labels = labels.float()
    sums = labels.sum(1, keepdim=True)
    return torch.where((sums - 1).abs().amax() < HALF_SUMS, labels / sums, labels)


def logits_of(output: object) -> object:
    """The logits in what a network returned: what is under `logits` or `out`, else the output itself."""
    for name in WRAPPED:
        if isinstance(output, Mapping) and name in output:
            return output[name]
        if not isinstance(output, Tensor) and hasattr(output, name):
            return getattr(output, name)
    return output


def check_tensor(values: Any, name: str) -> None:
    """Raise `ValueError` for anything but a tensor, with the way to one."""
    if not isinstance(values, Tensor):
        raise _no_tensor(values, name, "a torch tensor")


def _no_tensor(values: Any, name: str, expected: str) -> ValueError:
    """The refusal of anything but a tensor, with the way to one."""
    got = type(values).__name__
    if isinstance(values, np.ndarray) and values.dtype.kind in NUMBERS:
        remedy = f"torch.from_numpy({name})"
    elif isinstance(values, np.ndarray):
        got, remedy = f"{got} of {values.dtype}", "convert it to numbers"
    elif isinstance(values, Mapping):
        remedy = f"pick one of its tensors {sorted(map(str, values))}, as in output['out']"
    elif isinstance(getattr(values, "logits", None), Tensor):
        remedy = "pass its `.logits`"
    elif isinstance(values, list | tuple):
        remedy = "pass one of its tensors"
    else:
        remedy = "convert it"
    return ValueError(f"expected {name} as {expected}, got {got}: {remedy}")


def check_untransformed(values: Tensor) -> None:
    """Raise `RuntimeError` for a tensor inside of `torch.func.grad`, `vmap` and the like."""
    if torch._C._functorch.is_functorch_wrapped_tensor(values):
        raise RuntimeError(
            "expected a tensor outside of torch.func: filters and solvers compute their gradients themselves, once. "
            "Use torch.autograd.grad(loss, logits) instead of torch.func.grad, and the batch axis instead of vmap"
        )


def extent(size: tuple[int, ...]) -> str:
    """A size in words: ``481 x 321``."""
    return " x ".join(map(str, size))


def size_remedy(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """The likely remedy for predictions ``[b k *s]`` over other pixels than ``(b, *s)``."""
    if len(given) == len(wanted) and wanted[1] == 1:
        return "they have no axis of channels, `[:, 0]`"
    if len(given) == len(wanted):
        return "a single image needs a batch axis, `[None]`"
    if given[2:] == wanted:
        return "a single image needs a batch axis, `seeds[None]`"
    if given[1:] == wanted:
        return "a single image needs a batch axis, `[None]` for both predictions and seeds"
    if given[0] != wanted[0]:
        return "expected as many predictions as images"
    if len(given) - 1 != len(wanted):
        return "expected [b k h w] with [b h w], or [b k d h w] with [b d h w]"
    if given[1] in wanted[1:] and given[-1] not in wanted[-1:]:
        return "classes come second: `movedim(-1, 1)`"
    mode = "bilinear" if len(wanted) == 3 else "trilinear"
    return (
        f"networks predict at a stride: resize the logits first, torch.nn.functional.interpolate(logits, "
        f"size={wanted[1:]}, mode={mode!r})"
    )
