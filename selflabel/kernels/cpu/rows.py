"""Weighted sums of rows in vectors, for splatting, blurring and slicing a lattice.

LLVM vectorizes long loops, but not loops as short as a row of classes, where the checks before the loop cost more
than the loop. So these are written in LLVM's own language: sixteen numbers at a time, then eight. Rows of more
than one number are padded to a multiple of eight. Arrays are contiguous, and places in them count numbers, not rows.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils

from selflabel.kernels.cpu.compile import Array, emits

VECTORS = (16, 8, 1)
INT = ir.IntType(64)
FAST = ("reassoc", "contract", "nsz")


class Incidence(NamedTuple):
    """The vertices around each pixel: a sparse matrix with the same number of entries, `corners`, in each row."""

    place: Array
    """``[n corners]``, numbers of vertices or places in a table of them."""
    weight: Array
    """``[n corners]``."""
    corners: tuple[int, ...]
    """Zeros, one an entry of a row: the type of the tuple tells kernels how many there are (`counted`)."""

    @classmethod
    def of(cls, place: Array, weight: Array) -> "Incidence":
        """From places and weights."""
        return cls(place, weight, counted(place))


def padded(width: int) -> int:
    """The width of rows that hold `width` numbers."""
    return 1 if width == 1 else -(-width // 8) * 8


def counted(rows: Array) -> tuple[int, ...]:
    """A tuple of zeros, as long as a row: kernels know its length from its type, and unroll loops over it."""
    return (0,) * int(rows.shape[1])


def data_of(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array).data


def vector_at(builder, data, at, lanes):
    pointer = builder.gep(data, [at])
    return builder.bitcast(pointer, ir.VectorType(data.type.pointee, lanes).as_pointer())


def everywhere(builder, number, lanes):
    """A vector of one number."""
    empty = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, empty, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


def along_row(builder, width, body):
    """Emit ``body(at, lanes)`` for all of ``range(width)``, the longest vectors first."""
    start = ir.Constant(INT, 0)
    for lanes in VECTORS:
        size = ir.Constant(INT, lanes)
        stop = builder.add(start, builder.mul(builder.sdiv(builder.sub(width, start), size), size))
        with cgutils.for_range_slice(builder, start, stop, size, INT) as (at, _):
            body(at, lanes)
        start = stop


# A loop over a few rows costs as much as its body if the compiler does not know how many rows there are. So their
# number is the length of a tuple, whose type it knows.


def _entries(context, builder, incidence, value, first, place):
    """The rows ``place(incidence.place[e])`` from the first on, one a corner, and their weights."""
    arrays = cgutils.unpack_tuple(builder, value)
    index_data, weight_data = (data_of(context, builder, incidence.types[i], arrays[i]) for i in (0, 1))
    rows, factors = [], []
    for corner in range(len(incidence.types[2])):
        at = builder.add(first, ir.Constant(INT, corner))
        rows.append(place(builder.sext(builder.load(builder.gep(index_data, [at])), INT)))
        factors.append(builder.load(builder.gep(weight_data, [at])))
    return rows, factors


def _sum(builder, data, rows, factors, at, lanes, align):
    total = None
    for row, factor in zip(rows, factors, strict=True):
        there = builder.load(vector_at(builder, data, builder.add(row, at), lanes), align=align)
        product = builder.fmul(everywhere(builder, factor, lanes), there, flags=FAST)
        total = product if total is None else builder.fadd(total, product, flags=FAST)
    return total


@emits
def add_row(typing, x, start, width, stride, incidence, first, to, column):
    """``to[stride place[e] + column + j] += weight[e] x[start + j]`` for ``0 <= j < width``.

    For the entries e of `incidence` from the first on, one a corner.
    """

    def generate(context, builder, signature, args):
        x_data, to_data = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 6))
        align = context.get_abi_sizeof(to_data.type.pointee)

        def place(row):
            return builder.add(builder.mul(row, args[3]), args[7])

        rows, factors = _entries(context, builder, incidence, args[4], args[5], place)

        def body(at, lanes):
            there = builder.load(vector_at(builder, x_data, builder.add(args[1], at), lanes), align=align)
            for row, factor in zip(rows, factors, strict=True):
                here = vector_at(builder, to_data, builder.add(row, at), lanes)
                product = builder.fmul(everywhere(builder, factor, lanes), there, flags=FAST)
                builder.store(
                    builder.fadd(builder.load(here, align=align), product, flags=FAST), here, align=align
                )

        along_row(builder, args[2], body)
        return context.get_dummy_value()

    numbers = types.int64, types.int64, types.int64
    return types.void(x, *numbers, incidence, types.int64, to, types.int64), generate


@emits
def sum_rows(typing, x, column, stride, incidence, first, scale, to, start, width):
    """``to[start + j] += scale Σ_e weight[e] x[stride place[e] + column + j]`` for ``0 <= j < width``.

    Over the entries e of `incidence` from the first on, one a corner.
    """

    def generate(context, builder, signature, args):
        x_data, to_data = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 6))
        align = context.get_abi_sizeof(to_data.type.pointee)

        def place(row):
            return builder.add(builder.mul(row, args[2]), args[1])

        rows, factors = _entries(context, builder, incidence, args[3], args[4], place)

        def body(at, lanes):
            total = _sum(builder, x_data, rows, factors, at, lanes, align)
            here = vector_at(builder, to_data, builder.add(args[7], at), lanes)
            product = builder.fmul(everywhere(builder, args[5], lanes), total, flags=FAST)
            builder.store(
                builder.fadd(builder.load(here, align=align), product, flags=FAST), here, align=align
            )

        along_row(builder, args[8], body)
        return context.get_dummy_value()

    where = types.int64, types.int64
    return types.void(x, *where, incidence, types.int64, scale, to, *where), generate


@emits
def sum_taps(typing, x, index, first, taps, to, start, width):
    """``to[start + j] = Σ_t taps[t] x[width index[first + t] + j]`` for ``0 <= j < width``, with a tuple of taps."""

    def generate(context, builder, signature, args):
        x_data, index_data, to_data = (
            data_of(context, builder, signature.args[i], args[i]) for i in (0, 1, 4)
        )
        align = context.get_abi_sizeof(to_data.type.pointee)
        factors, rows = cgutils.unpack_tuple(builder, args[3]), []
        for tap in range(len(taps)):
            at = builder.add(args[2], ir.Constant(INT, tap))
            row = builder.sext(builder.load(builder.gep(index_data, [at])), INT)
            rows.append(builder.mul(row, args[6]))

        def body(at, lanes):
            total = _sum(builder, x_data, rows, factors, at, lanes, align)
            builder.store(total, vector_at(builder, to_data, builder.add(args[5], at), lanes), align=align)

        along_row(builder, args[6], body)
        return context.get_dummy_value()

    return types.void(x, index, types.int64, taps, to, types.int64, types.int64), generate
