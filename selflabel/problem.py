"""The problem that an energy poses on a batch of images: every solver minimizes it, every report quotes its value."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, Num
from torch import Tensor

from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.affinity.weights import are_weights, blocks, check_weights
from selflabel.energy import Energy
from selflabel.inputs import (
    as_tensor,
    check_tensor,
    extent,
    size_remedy,
    widened,
    widened_distributions,
)
from selflabel.kinds import check_kind, checked
from selflabel.labels import (
    PROBABILITIES_AS_LOGITS,
    UNLABELED,
    are_distributions,
    are_logits,
    are_seeds,
    check_distributions,
    check_index_type,
    check_seeds,
    is_on_cpu,
    one_hot,
    refuse_probabilities,
    restrict_classes,
    unlabeled,
)
from selflabel.terms import (
    STANDARD,
    Gradient,
    Regularizer,
    entropy,
    entropy_gradient,
    potts,
    potts_and_grad,
    total,
)

LARGEST_COST = 1e30
"""The largest cost of a class in a pixel: differences and sums of some are finite in float32."""


FROM_LOGITS = "pass network outputs by `Problem.from_logits`"
MOST_CLASSES = 255

DOUBTFUL = 100.0
"""Weight of the pairs, in units of the energy, from which on rounding in float32 may be some millionths of it."""


def _check_energy(energy: Energy) -> None:
    check_kind(energy, Energy, "an Energy", "build it, as in Energy(), or take a solver's default_energy")


def _check_probs_type(probs: Tensor) -> None:
    check_tensor(probs, "probs")
    if not probs.is_floating_point():
        raise ValueError(
            f"expected probabilities in floating point, got {probs.dtype}: one-hot labels as .float()"
        )
    if probs.numel() == 0:
        raise ValueError(f"expected at least one image, class and pixel, got {tuple(probs.shape)}")
    if probs.shape[1] > MOST_CLASSES:
        raise ValueError(
            f"expected at most {MOST_CLASSES} classes, got {probs.shape[1]}: 255 means unlabeled"
        )


def _check_affinity(affinity: Affinity, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless it is an affinity over the pixels of predictions of this shape."""
    check_kind(affinity, Affinity, "an affinity", "build it, as in GridAffinity.from_image(image)")
    batch = (shape[0], *shape[2:])
    if affinity.shape != batch:
        raise ValueError(
            f"expected an affinity over {batch} as the predictions', got {affinity.shape}: "
            f"{size_remedy(shape, tuple(affinity.shape))}"
        )


def _check_costs(costs: Tensor, probs: Tensor, energy: Energy) -> None:
    """Raise `ValueError` unless costs fit the prediction, are finite, and the coupling is linear in the labels."""
    check_tensor(costs, "costs")
    if costs.shape != probs.shape:
        raise ValueError(f"expected costs of shape {tuple(probs.shape)}, got {tuple(costs.shape)}")
    if energy.coupling != STANDARD:
        raise ValueError(
            f"expected the coupling 'standard' with costs, as it is linear in the labels, got {energy.coupling.name!r}"
        )
    largest = float(costs.abs().amax())
    if not largest <= LARGEST_COST:
        raise ValueError(
            f"expected costs of {LARGEST_COST:g} at most, got {largest:g}: for a class that a pixel must not have, use "
            f"a cost above the sum of all others, or `classes` where the whole image must not"
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """An `Energy` bound to a batch: prediction σ ``[b k *s]``, seeds ``[b *s]`` (255 = unlabeled), affinity.

    `classes` ``[b k]`` says which classes an image may have (default: all); the others get probability zero in
    the prediction and in every solution. `costs` ``[b k *s]`` are what each class costs in a pixel, of any size
    (`from_costs`): then ``H(y_i) = Σ_k y_i^k c_i^k``. Of a prediction alone, no class costs more than 30: logarithms of
    probabilities below 1e-13 are cut (`labels.LOG_FLOOR`). `affinities` are those of the energy's further terms
    (`Energy.regularizers`), one each; without any, all are on `affinity`. Raises `ValueError` when shapes disagree;
    values are checked by `check`, which `solve` calls.
    """

    energy: Energy
    probs: Float[Tensor, "b k *s"]
    seeds: Integer[Tensor, "b *s"]
    affinity: Affinity
    classes: Bool[Tensor, "b k"] | None = None
    costs: Float[Tensor, "b k *s"] | None = None
    affinities: tuple[Affinity, ...] = ()

    _are_logits: Bool[Tensor, ""] | None = None
    """On a device: was `from_logits` given logits, no probabilities? Read by `check`; None where that is known."""

    def __post_init__(self) -> None:
        _check_energy(self.energy)
        check_index_type(self.seeds)
        _check_probs_type(self.probs)
        object.__setattr__(self, "probs", widened_distributions(self.probs))
        batch = (self.probs.shape[0], *self.probs.shape[2:])
        if tuple(self.seeds.shape) != batch:
            raise ValueError(
                f"expected seeds of shape {batch} for predictions {tuple(self.probs.shape)} (images, classes, "
                f"axes), got {tuple(self.seeds.shape)}: "
                f"{size_remedy(tuple(self.probs.shape), tuple(self.seeds.shape))}"
            )
        if self.seeds.device != self.probs.device:
            raise ValueError(
                f"expected seeds on the device of the predictions, {self.probs.device}, got {self.seeds.device}: move "
                f"them by .to()"
            )
        check_kind(self.affinities, tuple, "a tuple of affinities", "of one term, (affinity,)")
        for affinity in (self.affinity, *self.affinities):
            _check_affinity(affinity, tuple(self.probs.shape))
        self.energy.check_affinities(len(self.affinities))
        for regularizer, affinity in self.regularizers:
            regularizer.check(affinity)
        object.__setattr__(self, "seeds", self.seeds.long())
        if self.costs is not None:
            _check_costs(self.costs, self.probs, self.energy)
        if self.classes is not None:
            check_tensor(self.classes, "classes")
            if self.classes.shape != self.probs.shape[:2] or self.classes.dtype != torch.bool:
                raise ValueError(
                    f"expected `classes` as booleans of shape {tuple(self.probs.shape[:2])}, got "
                    f"{self.classes.dtype} {tuple(self.classes.shape)}"
                )
            check_distributions(self.probs, "probabilities", FROM_LOGITS)
            object.__setattr__(self, "probs", restrict_classes(self.probs, self.classes))

    @classmethod
    def from_logits(
        cls,
        energy: Energy,
        logits: Float[Tensor, "b k *s"] | Float[np.ndarray, "b k *s"],
        seeds: Integer[Tensor, "b *s"] | Integer[np.ndarray, "b *s"],
        affinity: Affinity,
        classes: Bool[Tensor, "b k"] | None = None,
        affinities: tuple[Affinity, ...] = (),
    ) -> "Problem":
        """The problem for ``σ = softmax(logits)``; nothing is differentiated through it.

        Tensors or NumPy arrays; half precision (mixed-precision training) becomes float32. Raises `ValueError` for
        what a network returned around its logits: pass the logits; and for probabilities, on a device when they are
        solved (`check`).
        """
        values = as_tensor(logits, "logits").detach()
        is_doubtful = values.ndim > 1 and values.shape[1] > 1 and values.numel() > 0
        if is_doubtful and is_on_cpu(values):
            refuse_probabilities(values)
        given = (
            energy,
            widened(values).softmax(1),
            as_tensor(seeds, "seeds"),
            affinity,
            classes,
            None,
            affinities,
        )
        return cls(*given, _are_logits=are_logits(values) if is_doubtful and not is_on_cpu(values) else None)

    @classmethod
    def from_costs(
        cls,
        energy: Energy,
        costs: Num[Tensor, "b k *s"] | Num[np.ndarray, "b k *s"],
        seeds: Integer[Tensor, "b *s"] | Integer[np.ndarray, "b *s"],
        affinity: Affinity,
        classes: Bool[Tensor, "b k"] | None = None,
        affinities: tuple[Affinity, ...] = (),
    ) -> "Problem":
        """The problem with ``H(y_i) = Σ_k y_i^k c_i^k``: each class costs c in a pixel, any finite number.

        For unaries that are no probabilities, or too large for them: `Problem(probs)` cuts costs at 30, this does not.
        Graph cut minimizes exactly these costs, in float64; mean field and gradient descent take them in the type
        of the costs. Solvers start from ``softmax(-η c)``. For a class that a pixel must not have, a cost above the sum
        of all others.

        Raises `ValueError` for costs that are nan, infinite, or beyond ±1e30, and unless the coupling is the standard
        one, which is linear in the labels.
        """
        _check_energy(energy)
        costs = as_tensor(costs, "costs").detach()
        costs = widened(costs) if costs.is_floating_point() else costs.double()
        least = costs.amin(1, keepdim=True) if costs.numel() else costs
        probs = ((least - costs).double() * energy.coupling_weight).softmax(1).to(costs.dtype)
        return cls(energy, probs, as_tensor(seeds, "seeds"), affinity, classes, costs, affinities)

    @classmethod
    def from_seeds(
        cls,
        energy: Energy,
        seeds: Integer[Tensor, "b *s"] | Integer[np.ndarray, "b *s"],
        num_classes: int,
        affinity: Affinity,
    ) -> "Problem":
        """The problem with a uniform prediction: the seeds decide alone."""
        seeds = as_tensor(seeds, "seeds")
        checked(num_classes, int, "num_classes")
        if num_classes < 1:
            raise ValueError(f"expected at least one class, got num_classes = {num_classes}")
        shape = (seeds.shape[0], num_classes, *seeds.shape[1:])
        return cls(energy, torch.full(shape, 1 / num_classes, device=seeds.device), seeds, affinity)

    def __repr__(self) -> str:
        batch, classes, *size = self.probs.shape
        return (
            f"Problem(images: {batch} of {extent(tuple(size))}, classes: {classes}, "
            f"seeds: {100 * float((self.seeds != UNLABELED).float().mean()):.3g} %, {self.affinity})"
        )

    def check(self, start: Float[Tensor, "b k *s"] | None = None) -> None:
        """Raise `ValueError` for values that do not fit, also those of labels to start from.

        These are predictions that are no distributions, seeds out of range, images without an allowed class, and bad
        weights of sparse affinities. Cost: one pass over labels and pairs, and the host waits once for the device.
        """
        fits = [are_seeds(self.seeds, self.probs.shape[1], self.classes), are_distributions(self.probs)]
        if self.classes is not None:
            fits.append(self.classes.any(1).all())
        fits.extend(are_weights(affinity).to(self.probs.device) for affinity in self._sparse_affinities())
        if start is not None:
            fits.append(are_distributions(start))
        if self._are_logits is not None:
            fits.append(self._are_logits)
        if not bool(torch.stack(fits).all()):
            self._refuse(start)

    def _refuse(self, start: Float[Tensor, "b k *s"] | None) -> None:
        """Raise the `ValueError` of the first value that does not fit."""
        if self.classes is not None and not self.classes.any(1).all():
            raise ValueError("expected at least one allowed class in each image, got an image with none")
        if self._are_logits is not None and not bool(self._are_logits):
            raise ValueError(PROBABILITIES_AS_LOGITS)
        check_seeds(self.seeds, self.probs.shape[1], self.classes)
        check_distributions(self.probs, "probabilities", FROM_LOGITS)
        for affinity in self._sparse_affinities():
            check_weights(affinity)
        if start is not None:
            check_distributions(start, "labels to start from", "pass labels, not logits")

    def _sparse_affinities(self) -> list[SparseAffinity]:
        """Those that count for something and list their pairs, whose weights can be checked."""
        used = [self.affinity] if self.energy.pairwise_weight else []
        used += [affinity for regularizer, affinity in self.regularizers if regularizer.weight]
        return [affinity for affinity in used if isinstance(affinity, SparseAffinity)]

    @property
    def regularizers(self) -> list[tuple[Regularizer, Affinity]]:
        """The further terms of the energy, each with its affinity."""
        terms = self.energy.regularizers
        return list(zip(terms, self.affinities or (self.affinity,) * len(terms), strict=True))

    @property
    def vertex_costs(self) -> Float[Tensor, "b k *s"] | None:
        """What H is of each hard label; None where that is infinite."""
        if self.costs is not None:
            return self.costs
        at_vertices = self.energy.coupling.at_vertices
        return None if at_vertices is None else at_vertices(self.probs)

    @cached_property
    def free(self) -> Bool[Tensor, "b 1 *s"]:
        """The pixels that are not seeds."""
        return unlabeled(self.seeds)

    @cached_property
    def _has_seeds(self) -> bool:
        """Computed once: on a GPU the host waits for the answer."""
        return not bool(self.free.all())

    @cached_property
    def seed_labels(self) -> Float[Tensor, "b k *s"]:
        """One-hot at the seeds, zero elsewhere."""
        return one_hot(self.seeds, self.probs.shape[1], self.probs.dtype)

    def feasible(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """The labels with seeds put back and no mass on excluded classes."""
        labels = labels if self.classes is None else restrict_classes(labels, self.classes)
        if not self._has_seeds:
            return labels
        return torch.where(self.free, labels, self.seed_labels)

    def value(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, " b"]:
        """The energy of each image, in float64. Cost: one pass over pixels and pairs, or one filtering.

        `certain`, at three times the cost where single precision is in doubt.
        """
        return self.certain(self._value(labels), labels)

    def certain(self, value: Float[Tensor, " b"], labels: Float[Tensor, "b k *s"]) -> Float[Tensor, " b"]:
        """These values of labels, from double precision where single precision is in doubt.

        That is where pairs of a sparse affinity weigh `DOUBTFUL` times the value: a small difference of large numbers.
        """
        if labels.dtype == torch.float64 or not isinstance(self.affinity, SparseAffinity):
            return value
        doubtful = self._weight_of_pairs > DOUBTFUL * value.abs()
        return torch.where(doubtful, self._value(labels.double()), value) if bool(doubtful.any()) else value

    @cached_property
    def _weight_of_pairs(self) -> Float[Tensor, " b"]:
        """``λ Σ w_ij`` of each image."""
        assert isinstance(self.affinity, SparseAffinity), "asked for by `certain` alone"
        sums = torch.zeros(len(self.probs), dtype=torch.float64, device=self.probs.device)
        for block in blocks(self.affinity):
            sums += total(block)
        return self.energy.pairwise_weight * sums

    def _value(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, " b"]:
        energy = self.energy
        value = labels.new_zeros(labels.shape[0], dtype=torch.float64)
        if energy.pairwise_weight:
            value += energy.pairwise_weight * potts(labels, self.affinity, energy.relaxation)
        for regularizer, affinity in self.regularizers:
            value += regularizer.weight * regularizer.value(labels, affinity)
        return value + self._unary_value(labels)

    def value_and_grad(self, labels: Float[Tensor, "b k *s"]) -> tuple[Float[Tensor, " b"], Gradient]:
        """The energy, and its gradient by the labels, zero at the seeds, with its curvature.

        Cost: about twice that of `value`; the filtering of a dense affinity is done once.
        """
        energy = self.energy
        if energy.pairwise_weight:
            value, grad = potts_and_grad(labels, self.affinity, energy.relaxation)
            value *= energy.pairwise_weight
            grad.value.mul_(energy.pairwise_weight)
            grad.curvature.mul_(energy.pairwise_weight)
        else:
            value = labels.new_zeros(labels.shape[0], dtype=torch.float64)
            grad = Gradient(torch.zeros_like(labels), torch.zeros_like(labels[:, :1]))
        for regularizer, affinity in self.regularizers:
            further, slope = regularizer.value_and_grad(labels, affinity)
            value += regularizer.weight * further
            grad.value.add_(slope.value, alpha=regularizer.weight)
            grad.curvature.add_(slope.curvature, alpha=regularizer.weight)
        if energy.coupling_weight:
            coupling, weight = energy.coupling, energy.coupling_weight
            if self.costs is None:
                grad.value.add_(coupling.gradient(labels, self.probs), alpha=weight)
                grad.curvature.add_(coupling.curvature(labels, self.probs), alpha=weight)
            else:  # linear: no curvature
                grad.value.add_(self.costs, alpha=weight)
        if energy.entropy_weight:
            grad.value.sub_(entropy_gradient(labels), alpha=energy.entropy_weight)
            grad.curvature.add_(energy.entropy_weight)
        grad.value.mul_(self.free)
        return value + self._unary_value(labels), grad

    def _unary_value(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, " b"]:
        energy = self.energy
        value = labels.new_zeros(labels.shape[0], dtype=torch.float64)
        if energy.coupling_weight:
            costs = self.costs
            each = (
                energy.coupling.value(labels, self.probs) if costs is None else (labels * costs).sum(1, True)
            )
            value += energy.coupling_weight * total(each * self.free)
        if energy.entropy_weight:
            value -= energy.entropy_weight * total(entropy(labels) * self.free)
        return value
