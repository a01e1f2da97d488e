"""Nested dissection and elimination against exact fractions and dense algebra."""

from fractions import Fraction
from itertools import product
from math import prod

import numpy as np
import pytest

from selflabel.kernels.cpu.compile import Array, kernel
from selflabel.kernels.cpu.dissection import (
    DEPTH,
    END,
    FARTHEST,
    LEAF,
    PARENT,
    RIM,
    START,
    EliminationPlan,
    grid,
    is_cut,
    plan,
)
from selflabel.kernels.cpu.elimination import DEEP, absorb
from selflabel.kernels.cpu.products import add_product

SIZES = [(1, 1), (1, 70), (70, 1), (2, 2), (5, 7), (23, 31), (3, 4, 5), (6, 7, 8)]


@kernel
def multiply(to, to_at, to_row, a, a_at, a_row, a_column, b, b_at, b_row, rows, columns, inner):
    add_product(to, to_at, to_row, a, a_at, a_row, a_column, b, b_at, b_row, rows, columns, inner)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 16, 5), (9, 43, 3), (3, 8, 0), (0, 5, 2), (6, 0, 2)])
def test_products(rng: np.random.Generator, shape: tuple[int, int, int], dtype: type[np.floating]) -> None:
    rows, columns, inner = shape
    to, a, b = (
        rng.normal(size=size).astype(dtype)
        for size in ((rows + 2, columns + 3), (rows + 1, inner + 2), (inner + 1, columns + 4))
    )
    for factor, strides in ((a, (a.shape[1], 1)), (np.ascontiguousarray(a.T), (1, a.shape[0]))):
        found, expected = to.copy(), to.copy()
        expected[1 : 1 + rows, 2 : 2 + columns] += a[:rows, 1 : 1 + inner] @ b[:inner, 3 : 3 + columns]
        places = to.shape[1] + 2, to.shape[1], factor.ravel(), strides[1], *strides
        multiply(found.ravel(), *places, b.ravel(), 3, b.shape[1], *shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def pairs(size: tuple[int, ...], reach: int, *, straight: bool = False) -> tuple[Array, Array]:
    """All pairs at most `reach` apart along each axis; if straight, along one axis only."""
    numbers = np.arange(prod(size)).reshape(size)
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for offset in product(range(-reach, reach + 1), repeat=len(size)):
        if offset <= (0,) * len(size) or (straight and np.count_nonzero(offset) > 1):
            continue
        here = tuple(slice(max(0, -o), max(0, n - max(0, o))) for o, n in zip(offset, size, strict=True))
        there = tuple(slice(max(0, o), max(0, n + min(0, o))) for o, n in zip(offset, size, strict=True))
        first.append(numbers[here].ravel())
        second.append(numbers[there].ravel())
    return np.concatenate(first), np.concatenate(second)


def planned(size: tuple[int, ...], first: Array, second: Array, free: Array, depth: int) -> EliminationPlan:
    pixels = grid(size, first, second)
    assert pixels is not None
    whole = np.array([[0, n] for n in pixels.size]).ravel()
    return plan(whole, np.empty(0, np.int32), free, pixels, depth)  # type: ignore[no-any-return]


@pytest.mark.parametrize("reach", [1, 2, FARTHEST])
@pytest.mark.parametrize("size", SIZES)
def test_plans(rng: np.random.Generator, size: tuple[int, ...], reach: int) -> None:
    """Each free pixel belongs to one box, whose list holds all its neighbors at the time of its elimination."""
    for straight, share in product((True, False), (1.0, 0.8, 0.0)):
        first, second = pairs(size, reach, straight=straight)
        free = rng.random(prod(size)) < share
        tree = planned(size, first, second, free, 0)
        assert sorted(p for b in tree.box for p in tree.pixel[b[START] : b[RIM]]) == list(
            np.flatnonzero(free)
        )
        near = [set[int]() for _ in free]
        for p, q in zip(first, second, strict=True):
            if free[p] and free[q]:
                near[p].add(int(q))
                near[q].add(int(p))
        for bounds in tree.box[::-1]:
            listed = tree.pixel[bounds[START] : bounds[END]].tolist()
            for i, p in enumerate(listed[: bounds[RIM] - bounds[START]]):
                assert near[p] <= set(listed[i + 1 :])
                for q in near[p]:
                    near[q] = (near[q] | near[p]) - {p, q}
            rim = slice(bounds[RIM], bounds[END])
            if bounds[PARENT] >= 0:
                parent = tree.box[bounds[PARENT]]
                above = tree.pixel[parent[START] : parent[END]]
                assert (above[tree.place[rim]] == tree.pixel[rim]).all()
                assert (np.diff(tree.place[rim]) > 0).all()
            else:
                assert bounds[RIM] == bounds[END]


def test_boxes_are_small_and_lists_are_short() -> None:
    """Otherwise the result is the same, but takes forever."""
    size = 64, 96
    tree = planned(size, *pairs(size, 1, straight=True), np.ones(prod(size), bool), 0)
    lengths = tree.box[:, END] - tree.box[:, START]
    own = tree.box[:, RIM] - tree.box[:, START]
    assert own.max() == 64
    assert lengths.max() <= 47 + 64 + 48
    assert (own[tree.box[:, DEPTH] > 8] <= LEAF).all()
    assert own @ lengths < 40 * prod(size)  # half of it without the zeros below the diagonal


def test_plans_are_cut() -> None:
    size = 40, 30
    first, second = pairs(size, 1)
    free = np.ones(prod(size), bool)
    tree = planned(size, first, second, free, 2)
    cut = [bounds for bounds in tree.box if is_cut(bounds, 2)]
    assert len(cut) == 4
    assert len(tree.box) == 7
    assert all(bounds[START] == bounds[RIM] < bounds[END] for bounds in cut)


@pytest.mark.quick
def test_pairs_that_reach_too_far_have_no_plan() -> None:
    for size in ((1, 20), (20, 1), (20, 1, 2)):
        axis = int(np.argmax(size))
        step = prod(size[axis + 1 :])
        far = np.array([0]), np.array([step * FARTHEST])
        assert grid(size, *far) is not None
        assert grid(size, far[0], far[1] + step) is None


def absorbed(
    size: tuple[int, ...],
    first: Array,
    second: Array,
    weight: Array,
    free: Array,
    right: Array,
    threads: int = 1,
) -> Array:
    pixels = grid(size, first, second)
    assert pixels is not None
    to = np.full(right.shape, -1.0)
    absorb(pixels, first, second, weight, free, right, to, threads, large_pixels=1)
    assert (to[~free] == -1).all()
    return to[free]


def dense(first: Array, second: Array, weight: Array, free: Array, right: Array) -> Array:
    matrix = np.zeros((len(free),) * 2)
    np.add.at(matrix, (first, second), weight)
    matrix = (matrix + matrix.T)[np.ix_(free, free)]
    return np.linalg.solve(np.diag(matrix.sum(1) + right[free].sum(1)) - matrix, right[free])


@pytest.mark.parametrize("reach", [1, 2, FARTHEST])
@pytest.mark.parametrize("size", SIZES)
def test_is_the_dense_solution(rng: np.random.Generator, size: tuple[int, ...], reach: int) -> None:
    for straight, share, classes in product((True, False), (1.0, 0.7, 0.1, 0.0), (1, 3, 8, 9)):
        first, second = pairs(size, reach, straight=straight)
        weight = rng.exponential(size=len(first)) * (rng.random(len(first)) < 0.9)
        free = rng.random(prod(size)) < share
        right = rng.exponential(size=(len(free), classes)) * (rng.random((len(free), 1)) < 0.3) + 1e-3
        given = first, second, weight, free, right
        np.testing.assert_allclose(absorbed(size, *given), dense(*given), rtol=1e-10, atol=1e-13)


def test_slabs_of_many_pixels(rng: np.random.Generator) -> None:
    """Boxes of more own pixels than `DEEP`."""
    size = 9, 9, 20
    first, second = pairs(size, 1, straight=True)
    free = np.ones(prod(size), bool)
    tree = planned(size, first, second, free, 0)
    assert any(b[RIM] - b[START] > DEEP and b[END] > b[RIM] for b in tree.box)
    given = first, second, rng.exponential(size=len(first)), free, rng.exponential(size=(prod(size), 2)) / 100
    np.testing.assert_allclose(absorbed(size, *given), dense(*given), rtol=1e-10)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(rng: np.random.Generator, threads: int) -> None:
    for size in ((50, 60), (9, 10, 11), (1, 3), (1, 1)):
        first, second = pairs(size, 1)
        given = first, second, rng.exponential(size=len(first)), rng.random(prod(size)) < 0.9
        right = rng.exponential(size=(prod(size), 5))
        np.testing.assert_array_equal(absorbed(size, *given, right, threads), absorbed(size, *given, right))


def exact(first: Array, second: Array, weight: Array, right: Array) -> Array:
    """The solution in fractions, by Gauss and Jordan; all pixels are free."""
    n = len(right)
    matrix = [[Fraction(0)] * n + [Fraction(float(b)) for b in row] for row in right]
    for p, q, w in zip(first, second, weight, strict=True):
        matrix[p][q] -= Fraction(float(w))
        matrix[q][p] -= Fraction(float(w))
    for p in range(n):
        matrix[p][p] = sum(matrix[p][n:], Fraction(0)) - sum(matrix[p][:n], Fraction(0))
    for p in range(n):
        matrix[p] = [x / matrix[p][p] for x in matrix[p]]
        for q in range(n):
            if q != p and matrix[q][p]:
                factor = matrix[q][p]
                matrix[q] = [x - factor * y for x, y in zip(matrix[q], matrix[p], strict=True)]
    return np.array([[float(x) for x in row[n:]] for row in matrix])


def test_every_digit_is_right_however_much_weights_vary(rng: np.random.Generator) -> None:
    """Methods that subtract would have no right digit here."""
    size = 5, 6
    first, second = pairs(size, 1, straight=True)
    weight = 10.0 ** rng.uniform(-40, 0, len(first))
    right = 10.0 ** rng.uniform(-60, -30, (prod(size), 3)) * (rng.random((prod(size), 1)) < 0.2)
    right[7] = 1e-35, 2e-35, 0
    expected = exact(first, second, weight, right)
    found = absorbed(size, first, second, weight, np.ones(prod(size), bool), right)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)


def test_pixels_without_a_class_in_reach_are_zero() -> None:
    first, second = pairs((1, 30), 1)
    weight = np.ones(29)
    weight[9] = 0
    right = np.zeros((30, 2))
    right[20] = 1, 3
    found = absorbed((1, 30), first, second, weight, np.ones(30, bool), right)
    assert (found[:10] == 0).all()
    np.testing.assert_allclose(found[10:], np.tile([0.25, 0.75], (20, 1)))
