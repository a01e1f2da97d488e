"""`pydensecrf.densecrf` on our filters: dense CRFs whose mean field is run step by step.

Names, order of arguments, defaults and formulas are pydensecrf's, so that a script runs after one change:

    import selflabel.compat.pydensecrf.densecrf as dcrf
    from selflabel.compat.pydensecrf.utils import unary_from_softmax

What differs:

* Results are NumPy arrays, where pydensecrf's must be turned into such.
* Unaries and features may have any type of floating point and any layout in memory.
* Kernels are nearer to ``exp(-½ ‖f_i - f_j‖²)``: exact up to `EXACT_POINTS` points, else within 4 % on average
  (`selflabel.affinity.FINE`). pydensecrf loses a fifth of a kernel without normalization.
* What is not finite, or of the wrong size, is refused.
* Parameters of kernels are not learned: the three kinds of kernels are the same, as they are there before learning.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from enum import IntEnum
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from selflabel.affinity.filters.exact import Exact
from selflabel.affinity.filters.lattice import FINE
from selflabel.affinity.filters.protocol import Filter, FilterBuilder
from selflabel.affinity.filters.weighted import ScaledFilter
from selflabel.kinds import checked
from selflabel.numerics.descent.messages import Messages, Pairwise, free_energy, updated

EXACT_POINTS = 1024
"""Up to so many points the exact filter takes no longer than a lattice."""

LEAST_NORM = 1e-20
"""Added to sums of kernels before they divide."""

Labels = Float32[np.ndarray, "nlabels nvar"]
Scratch = Float32[np.ndarray, "0 0"]


class KernelType(IntEnum):
    """Which parameters of a kernel pydensecrf could learn; they are not learned here, and change nothing."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """By what a kernel K with the row sums d is replaced."""

    NO_NORMALIZATION = 0
    """K"""
    NORMALIZE_BEFORE = 1
    """K diag(1/d)"""
    NORMALIZE_AFTER = 2
    """diag(1/d) K"""
    NORMALIZE_SYMMETRIC = 3
    """diag(d)^-½ K diag(d)^-½"""


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType


class Unary:
    """Costs of all classes at all points."""

    costs: Shaped[np.ndarray, "nlabels nvar"]


class ConstUnary(Unary):
    """Given costs, negative logarithms of probabilities."""

    def __init__(self, u: Shaped[np.ndarray, "nlabels nvar"]) -> None:
        self.costs = u


class LogisticUnary(Unary):
    """Costs that are linear in features: ``L f``."""

    def __init__(self, L: Shaped[np.ndarray, "nlabels d"], f: Shaped[np.ndarray, "d nvar"]) -> None:
        weights, features = (np.asarray(x, dtype=np.float32) for x in (L, f))
        if weights.ndim != 2 or features.ndim != 2 or weights.shape[1] != features.shape[0]:
            raise ValueError(
                f"expected weights (nlabels, d) and features (d, nvar), got {weights.shape} and {features.shape}"
            )
        self.costs = weights @ features


class DenseCRF:
    """A dense CRF on `nvar` points with `nlabels` classes.

    device: where it is computed, "cuda" for a GPU; pydensecrf has no such argument.
    """

    def __init__(self, nvar: int, nlabels: int, *, device: torch.device | str = "cpu") -> None:
        for name, value in (("nvar", nvar), ("nlabels", nlabels)):
            checked(value, int, name)
        if nvar < 1 or nlabels < 1:
            raise ValueError(f"expected at least one point and one class, got {nvar} and {nlabels}")
        self._nvar, self._nlabels, self._device = nvar, nlabels, _checked_device(device)
        self._unary = torch.zeros(1, nvar, nlabels, device=self._device)
        self._pairwise = Pairwise()

    def __repr__(self) -> str:
        kernels = len(self._pairwise.potts) + len(self._pairwise.others)
        return f"{type(self).__name__}({self._extent()}, classes: {self._nlabels}, kernels: {kernels})"

    def _extent(self) -> str:
        return f"points: {self._nvar}"

    def setUnary(self, u: Unary) -> None:
        """Set the costs of classes. Raises `ValueError` for another shape than (nlabels, nvar), and for nan and inf."""
        _check_unary(u)
        costs = np.asarray(u.costs, dtype=np.float32)
        wanted = (self._nlabels, self._nvar)
        if costs.shape != wanted:
            raise ValueError(f"Bad shape for unary energy (Need {wanted}, got {costs.shape})")
        if not np.isfinite(costs).all():
            raise ValueError(
                "expected finite unary energies, got nan or inf: clip probabilities before their logarithm, as "
                "unary_from_softmax does by its `clip`"
            )
        self._unary = torch.from_numpy(np.ascontiguousarray(costs.T))[None].to(self._device)

    def setUnaryEnergy(
        self, u: Shaped[np.ndarray, "nlabels _"], f: Shaped[np.ndarray, "d nvar"] | None = None
    ) -> None:
        """`setUnary` of the costs u, (nlabels, nvar), or of ``u f`` for features f. Raises as it does."""
        self.setUnary(ConstUnary(u) if f is None else LogisticUnary(u, f))

    def addPairwiseEnergy(
        self,
        features: Shaped[np.ndarray, "d nvar"],
        compat: Any,
        kernel: KernelType = DIAG_KERNEL,
        normalization: NormalizationType = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the kernel ``exp(-½ ‖f_i - f_j‖²)`` of features that are divided by their bandwidths already.

        compat: a number w, for -w where classes are equal (the Potts model); a float32 array of nlabels costs of equal
        classes; or a float32 matrix of costs of all pairs, of which the symmetric part counts. Raises `ValueError` for
        other shapes and types, and for what is not finite.
        """
        del kernel
        wanted = np.asarray(features, dtype=np.float32)
        if wanted.ndim != 2 or wanted.shape[1] != self._nvar:
            raise ValueError(
                f"Bad shape for pairwise energy (Need (?, {self._nvar}), got {wanted.shape}): the points are the "
                f"second axis"
            )
        points = torch.from_numpy(np.ascontiguousarray(wanted.T))[None].to(self._device)
        self._add(self._filtering().build(points), compat, normalization)

    def inference(self, niter: Any) -> Labels:
        """Probabilities (nlabels, nvar) after so many parallel updates from ``softmax(-U)``."""
        if not isinstance(niter, Integral) or niter < 0:
            raise ValueError(f"expected niter >= 0, a whole number, got {niter!r}")
        labels = self._start()
        for _ in range(niter):
            labels = updated(self._unary, self._pairwise, labels)
        return _to_numpy(labels)

    def startInference(self) -> tuple[Labels, Scratch, Scratch]:
        """``softmax(-U)``, and two arrays that `stepInference` takes for pydensecrf's sake."""
        return _to_numpy(self._start()), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: Labels, tmp1: Scratch, tmp2: Scratch) -> None:
        """One parallel update, written to Q."""
        del tmp1, tmp2
        Q[:] = _to_numpy(updated(self._unary, self._pairwise, self._from_numpy(Q)))

    def klDivergence(self, Q: Labels) -> float:
        """`selflabel.numerics.descent.messages.free_energy` of Q: the KL divergence but for a constant."""
        return float(free_energy(self._unary, self._pairwise, self._from_numpy(Q)))

    def _filtering(self) -> FilterBuilder:
        return Exact() if self._nvar <= EXACT_POINTS else FINE

    def _start(self) -> Tensor:
        return (-self._unary).softmax(2)

    def _from_numpy(self, labels: Labels) -> Tensor:
        given = np.asarray(labels, dtype=np.float32)
        wanted = (self._nlabels, self._nvar)
        if given.shape != wanted:
            raise ValueError(f"expected probabilities of shape {wanted}, got {given.shape}")
        return torch.from_numpy(np.ascontiguousarray(given.T))[None].to(self._device)

    def _add(self, kernel: Filter, compat: Any, normalization: NormalizationType) -> None:
        before, after = _scales(kernel, NormalizationType(normalization))
        given, costs = self._pairwise, _costs(compat, self._nlabels)
        if isinstance(costs, float) and before is after:
            scale = None if after is None else after[None, None]
            self._pairwise = replace(given, potts=(*given.potts, ScaledFilter(kernel, costs, scale)))
            return
        matrix = -costs * torch.eye(self._nlabels) if isinstance(costs, float) else costs
        message = Messages(kernel, matrix.to(self._device), before, after)
        self._pairwise = replace(given, others=(*given.others, message))


class DenseCRF2D(DenseCRF):
    """A dense CRF on the pixels of an image of width w and height h, row by row."""

    def __init__(self, w: int, h: int, nlabels: int, *, device: torch.device | str = "cpu") -> None:
        for name, value in (("w", w), ("h", h)):
            checked(value, int, name)
        super().__init__(w * h, nlabels, device=device)
        self._size = (h, w)

    def _extent(self) -> str:
        return f"pixels: {self._size[0]} x {self._size[1]}"

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: Any,
        kernel: KernelType = DIAG_KERNEL,
        normalization: NormalizationType = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel of place. sxy: its bandwidth in pixels, or those along x and y.

        compat and errors: as for `addPairwiseEnergy`.
        """
        del kernel
        x, y = _bandwidths(sxy, 2, "sxy")
        built = self._filtering().build_grid(self._size, (y, x), torch.float32, self._device)
        self._add(built, compat, normalization)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: Shaped[np.ndarray, "h w 3"],
        compat: Any,
        kernel: KernelType = DIAG_KERNEL,
        normalization: NormalizationType = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel of place and color. rgbim: uint8; srgb: the bandwidth of 0..255, or one a channel.

        Raises `ValueError` as `addPairwiseEnergy` does, and for images of another size or type, or not of three
        channels.
        """
        image = np.asarray(rgbim)
        if image.shape[:2] != self._size:
            raise ValueError(
                f"Bad shape for pairwise bilateral (Need {(*self._size, 3)}, got {image.shape}): DenseCRF2D takes the "
                f"width first"
            )
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"addPairwiseBilateral only works for RGB images of uint8, got {image.dtype} of shape {image.shape}. "
                f"For other types, use `utils.create_pairwise_bilateral` to construct your own pairwise energy and "
                f"add it through `addPairwiseEnergy`."
            )
        bandwidths = np.array([*_bandwidths(sxy, 2, "sxy"), *_bandwidths(srgb, 3, "srgb")], np.float32)
        y, x = np.indices(self._size, dtype=np.float32)
        features = np.stack([x, y, *image.transpose(2, 0, 1)]).reshape(5, -1) / bandwidths[:, None]
        self.addPairwiseEnergy(features, compat, kernel, normalization)


def _check_unary(u: Any) -> None:
    if not isinstance(u, Unary):
        got = type(u).__name__
        raise ValueError(
            f"expected a unary, got {got}: setUnaryEnergy takes arrays, or wrap it, ConstUnary(u)"
        )


def _checked_device(device: torch.device | str) -> torch.device:
    """The device. Raises `ValueError` for a GPU where torch finds none."""
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"expected a device that is there, got {chosen}, and torch finds no GPU: device='cpu'"
        )
    return chosen


def _bandwidths(given: Any, count: int, name: str) -> tuple[float, ...]:
    several = [given] * count if isinstance(given, Real) else given
    values = () if isinstance(several, str) or not isinstance(several, Iterable) else tuple(several)[:count]
    if not all(isinstance(value, Real) for value in values):
        raise ValueError(f"expected {name} as a number, or {count} of them, got {given!r}")
    values = tuple(float(value) for value in values)
    if len(values) < count or not all(value > 0 for value in values):
        raise ValueError(f"expected {name} > 0, or {count} of them, got {given!r}")
    return values


def _costs(compat: Any, classes: int) -> float | Float32[Tensor, "k k"]:
    """The weight of the Potts model, or the symmetric matrix of costs."""
    if isinstance(compat, Real):
        if not math.isfinite(compat):
            raise ValueError(f"expected a finite compat, got {compat}")
        return float(compat)
    costs = np.asarray(compat)
    if costs.dtype != np.float32 or costs.shape not in ((classes,), (classes, classes)):
        raise ValueError(
            f"expected compat as a number, or as a float32 array of {classes} or {classes} x {classes} costs, got "
            f"{costs.dtype} of shape {costs.shape}"
        )
    if not np.isfinite(costs).all():
        raise ValueError(f"expected a finite compat, got nan or inf in {costs.tolist()}")
    given = torch.from_numpy(np.ascontiguousarray(costs))
    return given.diag() if costs.ndim == 1 else (given + given.mT) / 2


def _scales(kernel: Filter, normalization: NormalizationType) -> tuple[Tensor | None, Tensor | None]:
    """Before and after the filter."""
    if normalization is NO_NORMALIZATION:
        return None, None
    norm = 1 / (kernel.degree()[0] + LEAST_NORM)
    if normalization is NORMALIZE_SYMMETRIC:
        root = norm.sqrt()
        return root, root
    return (norm, None) if normalization is NORMALIZE_BEFORE else (None, norm)


def _to_numpy(labels: Float32[Tensor, "1 n k"]) -> Labels:
    array: Labels = labels[0].mT.contiguous().cpu().numpy()
    return array
