"""Mean field on compiled lattices: one pass over the pixels an update, and only over those that still move."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.compiled import CompiledLattice, ImageLattice, splat
from selflabel.affinity.gaussian import DenseAffinity, ScaledFilter
from selflabel.kernels.compile import (
    Array,
    in_parallel,
    kernel,
    kernel_of_numbers,
    num_threads,
    over,
    parts,
    scratch,
)
from selflabel.kernels.elementary import exp_, log_
from selflabel.kernels.layout import empty_by_pixel, rows
from selflabel.kernels.rows import add_row, padded, sum_rows
from selflabel.labels import LOG_FLOOR
from selflabel.terms import FLOOR

LEAST = np.float32(-1e30)
"""The logits of what pads a row."""

ONE = np.ones(1, np.float32)
"""The scale of pixels that have none."""

SETTLED = np.float32(1e-3)
"""Labels that a sweep has changed by less are left alone by the next."""

REVISIT = 4
"""Every so many sweeps all pixels are visited."""

BLOCK = 32
"""Pixels at a time: their labels stay in the nearest cache from one loop to the next."""


@kernel
def _load(unary, pixels, logits):
    """The unaries, padded so that nothing else gets mass."""
    for i in range(len(logits)):
        own = unary[pixels[i]]
        for j in range(own.size):
            logits[i, j] = own[j]
        for j in range(own.size, logits.shape[1]):
            logits[i, j] = LEAST


@kernel_of_numbers
def _below_largest(logits, exps):
    for i in range(len(logits)):
        own, copy = logits[i], exps[i]
        largest = own[0]
        for j in range(own.size):
            largest = own[j] if own[j] > largest else largest
        for j in range(own.size):
            own[j] -= largest
            copy[j] = own[j]


@kernel
def _exchange(logits, exps, allowed, unary, pixels, labels, before, cost, moved):
    """Puts ``exps`` over their sums in place of the labels; leaves in `exps` by how much these have changed.

    Keeps the labels and costs ``Σ y·ln y - y·unary`` of `before`; returns by how much the costs have changed.
    """
    change = 0.0
    k = unary.shape[1]
    for i in range(len(exps)):
        p = pixels[i]
        own, logit, label, fixed, kept = exps[i], logits[i], labels[p], unary[p], before[i]
        mass, weighted = np.float32(0), np.float32(0)
        for j in range(own.size):
            own[j] *= allowed[j]
            mass += own[j]
            weighted += own[j] * logit[j]
        scale = np.float32(1) / mass
        agreement, distance = np.float32(0), np.float32(0)
        for j in range(k):
            kept[j] = label[j]
            label[j] = own[j] * scale
            agreement += label[j] * fixed[j]
            own[j] = label[j] - kept[j]
            distance += own[j] * own[j]
        kept[k] = cost[p]
        cost[p] = weighted * scale - np.float32(math.log(mass)) - agreement
        change += cost[p] - kept[k]
        moved[i] = distance > SETTLED * SETTLED
    return change


@kernel
def _sweep(
    labels, unary, allowed, vertex, weight, blurred, floor, pixels, before, cost, moved, onto, first, last
):
    """At some pixels: slices `blurred`, puts ``softmax(unary + sliced)`` in place of the labels, splats the change."""
    corners, vertices, weights = vertex.shape[1], vertex.reshape(-1), weight.reshape(-1)
    all_logits = np.empty((BLOCK, allowed.size), np.float32)
    all_exps = np.empty((BLOCK, allowed.size), np.float32)
    change = 0.0
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        here = pixels[start:stop]
        logits, exps = all_logits[: stop - start], all_exps[: stop - start]
        _load(unary, here, logits)
        for i in range(here.size):
            entry = here[i] * corners
            sum_rows(logits, i, np.float32(1), blurred, vertices, weights, entry, entry + corners)
        _below_largest(logits, exps)
        exp_(exps.reshape(-1), floor)
        change += _exchange(
            logits, exps, allowed, unary, here, labels, before[start:stop], cost, moved[start:stop]
        )
        for i in range(here.size):
            entry = here[i] * corners
            for e in range(entry, entry + corners):
                add_row(onto, vertices[e], exps, i, weights[e])
    return change


@kernel
def _restore(labels, cost, pixels, before):
    """Undoes a sweep."""
    k = labels.shape[1]
    for i in range(pixels.size):
        for j in range(k):
            labels[pixels[i], j] = before[i, j]
        cost[pixels[i]] = before[i, k]


@kernel
def _join(vertex, weight, scale, before, to_vertex, to_weight, first, last):
    for p in range(first, last):
        for c in range(vertex.shape[1]):
            to_vertex[p, c] = vertex[p, c] + before
            to_weight[p, c] = weight[p, c] * scale[p % scale.size]


@kernel
def _products(table, blurred, first, last):
    """``Σ_k t_k·b_k``, and ``(Σ_k t_k)·(Σ_k b_k)``, over some rows of both, in double precision."""
    alike, degree = 0.0, 0.0
    for row in range(first, last):
        product, a, b = np.float32(0), np.float32(0), np.float32(0)
        for j in range(table.shape[1]):
            product += table[row, j] * blurred[row, j]
            a += table[row, j]
            b += blurred[row, j]
        alike += product
        degree += a * b
    return alike, degree


@kernel
def _unaries(probs, weight, floor, to, first, last):
    """``weight ln max(probs, floor)`` of a range of pixels."""
    x = to[first:last].reshape(-1)
    x[:] = probs[first:last].reshape(-1)
    log_(x, floor)
    for j in range(x.size):
        x[j] *= weight


@kernel
def _costs(labels, unary, pixels, floor, cost, first, last):
    """``Σ y·ln y - y·unary`` at some pixels; returns its sum."""
    total = 0.0
    all_logs = np.empty((BLOCK, labels.shape[1]), np.float32)
    for start in range(first, last, BLOCK):
        here = pixels[start : min(start + BLOCK, last)]
        logs = all_logs[: here.size]
        for i in range(here.size):
            label, own = labels[here[i]], logs[i]
            for j in range(own.size):
                own[j] = label[j]
        log_(logs.reshape(-1), floor)
        for i in range(here.size):
            label, fixed, own = labels[here[i]], unary[here[i]], logs[i]
            pixel = np.float32(0)
            for j in range(own.size):
                pixel += label[j] * (own[j] - fixed[j])
            cost[here[i]] = pixel
            total += pixel
    return total


@kernel
def _add(x, to, first, last):
    for row in range(first, last):
        for j in range(x.shape[1]):
            to[row, j] += x[row, j]


@dataclass(frozen=True, eq=False)
class _Joint:
    """All lattices of an image side by side: ``W = Σ_m weight_m P_m B_m P_m'`` as one ``P B P'``."""

    lattices: tuple[ImageLattice, ...]
    weights: tuple[float, ...]
    vertex: Array
    weight: Array

    @classmethod
    def of(cls, filters: tuple[ScaledFilter, ...], image: int) -> "_Joint":
        """Scales of the pixels become part of P."""
        lattices = tuple(scaled.filter.of(image) for scaled in filters)  # type: ignore[attr-defined]
        shape = len(lattices[0].vertex), sum(lattice.vertex.shape[1] for lattice in lattices)
        vertex, weight = np.empty(shape, np.int32), np.empty(shape, np.float32)
        column, before = 0, 0
        for scaled, lattice in zip(filters, lattices, strict=True):
            scale = ONE if scaled.scale is None else scaled.scale[image % len(scaled.scale), 0].numpy()
            own = slice(column, column + lattice.vertex.shape[1])
            join = partial(
                _join, lattice.vertex, lattice.weight, scale, before, vertex[:, own], weight[:, own]
            )
            over(len(vertex), num_threads(), join)
            column, before = own.stop, before + lattice.vertices
        return cls(lattices, tuple(scaled.weight for scaled in filters), vertex, weight)

    def shape(self, classes: int) -> tuple[int, int]:
        """Of a table for all vertices."""
        return sum(lattice.vertices for lattice in self.lattices), padded(classes)

    def blur(self, table: Array, factor: float, to: Array, threads: int) -> tuple[float, float]:
        """``factor · B table``; and ``y·W y`` and ``1·W 1`` of the labels in the table."""
        first = 0
        for lattice, weight in zip(self.lattices, self.weights, strict=True):
            own = slice(first, first + lattice.vertices)
            lattice.blur(table[own], factor * weight, to[own], threads)
            first += lattice.vertices
        alike, degree = np.sum(over(len(table), threads, partial(_products, table, to)), axis=0)
        scale = 1 / factor if factor else 0.0
        return float(scale * alike), float(scale * degree)


class Descent:
    """Mean field on one image: sweeps of ``y ← softmax(unary + factor · W y)``, each one lowers

        ``Σ y·ln y - y·unary`` over the free pixels ``+ factor / 2 · Σ_ij W_ij (1 - y_i·y_j)``

    if W is positive semidefinite. A sweep slices, takes the softmax and splats in one pass over the pixels; what is
    kept from one to the next are tables of the vertices, not images. It visits those pixels whose labels the last
    one has changed by more than `SETTLED`, and every `REVISIT` sweeps all that are free: to leave some where they
    are lowers the energy as well (the pairwise term still lies below its tangent).
    """

    def __init__(
        self,
        filters: tuple[ScaledFilter, ...],
        image: int,
        labels: Array,
        unary: Array,
        free: Array,
        allowed: Array,
        factor: float,
    ) -> None:
        """`labels` and `unary` ``[n k]``; the labels are changed in place."""
        self.joint, self.factor = _Joint.of(filters, image), factor
        self.labels, self.unary = labels, unary
        self.allowed = np.zeros(padded(labels.shape[1]), np.float32)
        self.allowed[: len(allowed)] = allowed
        self.free = np.flatnonzero(free).astype(np.int32)
        self.pixels, self.age = self.free, 0
        self.before = np.empty((len(self.free), labels.shape[1] + 1), np.float32)
        self.cost = np.empty(len(labels), np.float32)
        run = partial(_costs, labels, unary, self.free, np.float32(FLOOR), self.cost)
        self.own = float(sum(over(len(self.free), num_threads(), run)))
        shape = self.joint.shape(labels.shape[1])
        tables = np.empty((num_threads(), *shape), np.float32)
        self.table = splat(labels, ONE, self.joint.vertex, self.joint.weight, tables, num_threads())
        self.blurred = np.empty(shape, np.float32)
        self.moved = self.free

    def energy(self) -> float:
        """Of the labels, and the tangent for the next sweep: one blur."""
        alike, degree = self.joint.blur(self.table, self.factor, self.blurred, num_threads())
        return self.own + self.factor / 2 * (degree - alike)

    def sweep(self) -> bool:
        """Moves the labels, and says whether at all free pixels. The energy of these has been asked for."""
        everywhere = self.age % REVISIT == 0
        pixels = self.pixels = self.free if everywhere else self.moved
        self.age += 1
        moved = np.empty(len(pixels), np.bool_)
        weights = self.joint.vertex, self.joint.weight, self.blurred, np.float32(LOG_FLOOR)
        given = self.labels, self.unary, self.allowed, *weights, pixels, self.before, self.cost, moved
        with scratch((num_threads() - 1, *self.table.shape), np.float32) as others:
            others[:] = 0
            tables = [self.table, *others]  # one a thread
            tasks = [
                partial(_sweep, *given, table, *part)
                for table, part in zip(tables, parts(len(pixels), num_threads()), strict=True)
            ]
            self.own += float(sum(in_parallel(tasks, num_threads())))
            for other in others:
                over(len(other), num_threads(), partial(_add, other, self.table))
        self.moved = pixels[moved]
        return everywhere

    def revisit(self) -> None:
        """Let the next sweep visit all pixels."""
        self.age = 0

    def undo(self) -> None:
        """The labels before the last sweep. There can be no other one after it."""
        _restore(self.labels, self.cost, self.pixels, self.before)


def fits(affinity: DenseAffinity, labels: Float[Tensor, "b k *s"]) -> bool:
    """Whether all of the affinity's filters are compiled, and the labels float32 as they are."""
    compiled = all(isinstance(scaled.filter, CompiledLattice) for scaled in affinity.filters)
    return compiled and labels.dtype == affinity.dtype == torch.float32


def unaries(probs: Float[Tensor, "b k *s"], weight: float) -> Float[Tensor, "b k *s"]:
    """``weight ln σ``, with the floor of all logarithms; both by pixel."""
    result = empty_by_pixel(probs)
    ranges = parts(probs[0, 0].numel(), num_threads())
    tasks = [
        partial(_unaries, x, np.float32(weight), np.float32(FLOOR), to, *part)
        for x, to in zip(rows(probs), rows(result), strict=True)
        for part in ranges
    ]
    in_parallel(tasks, num_threads())
    return result
