"""The permutohedral lattice of `selflabel.affinity.lattice`, compiled: the same vertices, weights and sums.

Differences are of arrangement alone: every image has a table of its own, the vertices of pixels are found by hashing,
those of the blur by merging sorted keys, and pixels are splatted one after the other, into one table a thread.
"""

import math
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.autograd import check_values
from selflabel.affinity.lattice import diagonal, gain, numbering, taps
from selflabel.kernels.compile import Array, in_parallel, kernel, num_threads, over, parts, scratch, shares
from selflabel.kernels.hashing import numbered
from selflabel.kernels.layout import by_pixel, rows, summed
from selflabel.kernels.rows import add_row, counted, padded, sum_rows, sum_taps


@kernel
def _ends(features):
    """The least and the largest of each feature."""
    low, high = features[0].copy(), features[0].copy()
    for p in range(len(features)):
        for j in range(low.size):
            low[j] = min(low[j], features[p, j])
            high[j] = max(high[j], features[p, j])
    return low, high


@kernel
def _positions(features, middle, scale, shear, t, low, high, first, last):
    """``t = A f``, and the range of its floors."""
    d = features.shape[1]
    for p in range(first, last):
        total = features.dtype.type(0)
        for j in range(d):
            total += features[p, j] - middle[j]
        for j in range(d):
            t[p, j] = scale * ((features[p, j] - middle[j]) + shear * total) + features.dtype.type(
                (j + 0.5) / d
            )
            cell = np.floor(t[p, j])
            low[j] = min(low[j], cell)
            high[j] = max(high[j], cell)


@kernel
def _corners(t, low, strides, own, gain, keys, weights, first, last):
    """Keys and weights of the vertices around each pixel: Kuhn's simplex, barycentric weights times evenness."""
    d = t.shape[1]
    part, step = np.empty(d, t.dtype), np.empty(d, np.int64)
    place = np.empty(d + 1, t.dtype)
    for p in range(first, last):
        key = np.int64(0)
        for j in range(d):
            cell = np.floor(t[p, j])
            key += (np.int64(cell) - low[j]) * strides[j]
            fraction = t[p, j] - cell
            at = j
            while at > 0 and part[at - 1] < fraction:
                part[at], step[at] = part[at - 1], step[at - 1]
                at -= 1
            part[at], step[at] = fraction, strides[j]
        place[0] = 1 - part[0]
        for j in range(d):
            place[j + 1] = part[j] - (part[j + 1] if j + 1 < d else t.dtype.type(0))
        diagonal = t.dtype.type(0)
        for apart in range(d + 1):
            product = t.dtype.type(0)
            for j in range(d + 1 - apart):
                product += place[j] * place[j + apart]
            diagonal += own[apart] * product
        even = gain / math.sqrt(math.sqrt(diagonal))
        for j in range(d + 1):
            weights[p, j] = place[j] * even
            keys[p, j] = key
            key += step[j] if j < d else 0


@kernel
def _spread(table, step, radius):
    """The vertices up to `radius` steps from those of the table; both are sorted. A merge of shifted copies."""
    heads = np.zeros(2 * radius + 1, np.int64)
    merged = np.empty((2 * radius + 1) * table.size, np.int64)
    count = 0
    while True:
        least = np.int64(2**63 - 1)
        for q in range(heads.size):
            if heads[q] < table.size:
                least = min(least, table[heads[q]] + (q - radius) * step)
        if least == np.int64(2**63 - 1):
            break
        merged[count] = least
        count += 1
        for q in range(heads.size):
            if heads[q] < table.size and table[heads[q]] + (q - radius) * step == least:
                heads[q] += 1
    return merged[:count].copy()


@kernel
def _neighbors(source, target, step, radius):
    """For each of `target` the numbers of those of `source` up to `radius` steps before and after it.

    Both are sorted, so that the neighbors at each number of steps lie behind those of the one before. Without vertices
    that nothing reaches or that reach nothing: also says which ones of both are left. A neighbor that is not there
    gets the number after the last.
    """
    heads = np.zeros(2 * radius + 1, np.int64)
    index = np.empty((target.size, heads.size), np.int32)
    used, reached = np.zeros(source.size, np.bool_), np.zeros(target.size, np.bool_)
    rows = 0
    for v in range(target.size):
        for q in range(heads.size):
            key = target[v] + (q - radius) * step
            head = heads[q]
            while head < source.size and source[head] < key:
                head += 1
            heads[q] = head
            index[rows, q] = -1
            if head < source.size and source[head] == key:
                index[rows, q] = head
                used[head] = reached[v] = True
        rows += reached[v]
    kept = np.empty(source.size + 1, np.int32)
    count = 0
    for v in range(source.size):
        kept[v] = count
        count += used[v]
    kept[source.size] = count
    for row in range(rows):
        for q in range(heads.size):
            index[row, q] = kept[index[row, q]]  # the last one, if it is -1
    return index[:rows].copy(), used, reached


@kernel
def _renumber(vertex, numbers, first, last):
    for p in range(first, last):
        for c in range(vertex.shape[1]):
            vertex[p, c] = numbers[vertex[p, c]]


@kernel
def _splat(x, scale, vertex, weight, corners, table, first, last):
    table[:] = 0
    width = table.shape[1]
    row = np.zeros(width, table.dtype)
    for p in range(first, last):
        own = scale[p % scale.size]
        for j in range(x.shape[1]):
            row[j] = own * x[p, j]
        add_row(row, 0, width, width, vertex, weight, p * len(corners), corners, table, 0)


@kernel
def _gather(x, index, taps, to, first, last):
    width = to.shape[1]
    for row in range(first, last):
        sum_taps(x, index, row * index.shape[1], taps, to, row * width, width)


@kernel
def _slice(table, vertex, weight, corners, scale, to, first, last):
    width = table.shape[1]
    row = np.zeros(width, table.dtype)
    for p in range(first, last):
        row[:] = 0
        own = scale[p % scale.size]
        sum_rows(table, 0, width, vertex, weight, p * len(corners), corners, own, row, 0, width)
        for j in range(to.shape[1]):
            to[p, j] += row[j]


@dataclass(frozen=True, eq=False)
class ImageLattice:
    """The lattice of one image.

    Tables have a row for every vertex, and one of zeros after these: the blurs' `neighbors` (by row, one a tap) have
    that number where there is none.
    """

    vertex: Array  # [n corners]
    weight: Array  # [n corners]
    vertices: int
    neighbors: tuple[Array, ...]
    taps: tuple[float, ...]

    @classmethod
    def build(cls, features: Array, variance: float, radius: int, threads: int) -> "ImageLattice":
        """Raises `ValueError` where keys would overflow."""
        (n, d), dtype = features.shape, features.dtype.type
        weights = taps(variance, radius)
        own = np.array(diagonal(weights, d), dtype)
        middle = sum(_ends(features)) / 2
        t = np.empty_like(features)
        low, high = np.full((threads, d), np.inf), np.full((threads, d), -np.inf)
        scale, shear = dtype(math.sqrt(variance)), dtype((math.sqrt(1 + d) - 1) / d)
        tasks = [
            partial(_positions, features, middle, scale, shear, t, *ends, *part)
            for *ends, part in zip(low, high, parts(n, threads), strict=True)
        ]
        in_parallel(tasks, threads)
        strides, least, _ = numbering([int(x) for x in low.min(0)], [int(x) for x in high.max(0)], radius, 1)
        vertex, weight = np.empty((n, d + 1), np.int32), np.empty((n, d + 1), dtype)
        with scratch((n, d + 1), np.int64) as keys:
            root = dtype(math.sqrt(gain(variance, d, weights)))
            over(
                n, threads, partial(_corners, t, np.array(least), np.array(strides), own, root, keys, weight)
            )
            table = _numbered(keys, vertex, threads)
        neighbors = _blurs(table, [*strides, -sum(strides)], radius, threads)
        return cls(vertex, weight, len(table), neighbors, tuple(weights[:0:-1] + weights))

    def add(self, x: Array, scale: Array, factor: float, to: Array, splats: int, threads: int) -> None:
        """``to += factor · diag(scale) K diag(scale) x``, pixels by rows; `splats`: tables to splat into."""
        shape = self.rows, padded(x.shape[1])
        given = self.vertex, self.weight, counted(self.vertex)
        with scratch((splats, *shape), x.dtype) as tables, scratch(shape, x.dtype) as blurred:
            pieces = zip(tables, parts(len(x), splats), strict=True)
            in_parallel([partial(_splat, x, scale, *given, own, *part) for own, part in pieces], threads)
            self.blur(_joined(tables), factor, blurred, threads)
            over(len(x), threads, partial(_slice, blurred, *given, scale, to))

    @property
    def rows(self) -> int:
        """Of a table."""
        return self.vertices + 1

    def blur(self, table: Array, factor: float, to: Array, threads: int) -> None:
        """Along all lattice vectors, and times the factor; the last row becomes zero again."""
        most, dtype = max(map(len, self.neighbors)) + 1, table.dtype.type
        shape = (most, table.shape[1])
        with scratch(shape, table.dtype) as one, scratch(shape, table.dtype) as other:
            for number, index in enumerate(self.neighbors):
                final = number == len(self.neighbors) - 1
                following = to if final else (one, other)[number % 2]
                taps = tuple(dtype(factor * tap if final else tap) for tap in self.taps)
                over(len(index), threads, partial(_gather, table, index, taps, following))
                following[len(index)] = 0
                table = following


def _joined(tables: Array) -> Array:
    """Their sum, in the first of them."""
    for other in tables[1:]:
        tables[0] += other
    first: Array = tables[0]
    return first


def _numbered(keys: Array, vertex: Array, threads: int) -> Array:
    """The distinct keys, sorted; writes the place of each key among them."""
    ranges = parts(len(keys), threads)
    found = in_parallel([partial(numbered, keys, vertex, *part) for part in ranges], threads)
    table = np.unique(np.concatenate(found))
    places = [np.searchsorted(table, own).astype(np.int32) for own in found]
    in_parallel(
        [partial(_renumber, vertex, own, *part) for own, part in zip(places, ranges, strict=True)], threads
    )
    return table


def _blurs(table: Array, steps: list[int], radius: int, threads: int) -> tuple[Array, ...]:
    """As `selflabel.affinity.lattice.blurs`: half-way from each end, join, and drop what did not meet."""
    last = len(steps)
    half = last // 2
    vertices = {0: table, last: table}

    def forth() -> None:
        for step in range(half):
            vertices[step + 1] = _spread(vertices[step], steps[step], radius)

    def back() -> None:
        for step in range(last - 1, half, -1):
            vertices[step] = _spread(vertices[step + 1], steps[step], radius)

    result: dict[int, Array] = {}

    def join(step: int) -> None:
        given = vertices[step], vertices[step + 1], steps[step], radius
        result[step], used, reached = _neighbors(*given)
        if step > 0:
            vertices[step] = vertices[step][used]
        vertices[step + 1] = vertices[step + 1][reached]

    def down() -> None:
        for step in range(half - 1, -1, -1):
            join(step)

    def up() -> None:
        for step in range(half + 1, last):
            join(step)

    in_parallel([forth, back], threads)
    join(half)
    in_parallel([down, up], threads)
    return tuple(result[step] for step in range(last))


@dataclass(frozen=True, eq=False)
class CompiledLattice:
    """`selflabel.affinity.lattice.Lattice` on the CPU: the same filter, to rounding.

    Images of a batch are filtered side by side, and give the same answer as alone with as many threads.
    """

    images: tuple[ImageLattice, ...]
    batch: int | None
    """Images that are filtered at a time; None: any number, all with the first lattice."""
    pixels: int
    dtype: torch.dtype

    @classmethod
    def build(cls, features: Float[Tensor, "b n d"], *, variance: float, radius: int) -> "CompiledLattice":
        """Of checked features; raises `ValueError` if a vertex has no 64-bit key."""
        threads, across = shares(len(features))
        arrays = features.contiguous().numpy()
        tasks = [partial(ImageLattice.build, image, variance, radius, threads) for image in arrays]
        batch, pixels, _ = features.shape
        return cls(tuple(in_parallel(tasks, across)), batch, pixels, features.dtype)

    @property
    def vertices(self) -> int:
        """How many there are next to pixels, of all images."""
        return sum(image.vertices for image in self.images)

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """K values, class by class; in memory pixel by pixel if the values are."""
        return summed(values, [lambda source, to: self.add(source, None, 1.0, to)])

    @torch.no_grad()
    def add(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``; `to` lies pixel by pixel in memory."""
        check_values(values, self.batch, self.pixels, self.dtype)
        threads, across = shares(len(values))
        x, out = rows(by_pixel(values)), rows(to)
        scales = torch.ones(1, 1, 1, dtype=self.dtype) if scale is None else scale
        tasks = [
            partial(
                self.of(i).add,
                x[i],
                scales[i % len(scales), 0].numpy(),
                factor,
                out[i],
                num_threads(),
                threads,
            )
            for i in range(len(x))
        ]
        in_parallel(tasks, across)

    def of(self, number: int) -> "ImageLattice":
        """The lattice of an image."""
        return self.images[number % len(self.images)]

    def degree(self) -> Float[Tensor, "b n"]:
        """K 1, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        return self.apply(torch.ones(len(self.images), 1, self.pixels, dtype=self.dtype))[:, 0]
