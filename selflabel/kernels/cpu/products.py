"""Products of small matrices in registers, for eliminations.

BLAS is made for large matrices and brings threads of its own; most of these have ten to a hundred rows. As in `rows`,
LLVM does not vectorize such short loops, so they are written in its own language.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from selflabel.kernels.cpu.compile import emits
from selflabel.kernels.cpu.rows import FAST, INT, along_row, data_of, everywhere, vector_at

HEIGHTS = (4, 1)
"""Rows of a tile: four rows of sixteen numbers, the longest vectors of `rows`, fit the registers of any processor."""


@emits
def add_product(typing, to, to_at, to_row, a, a_at, a_row, a_column, b, b_at, b_row, rows, columns, inner):
    """``to[i, j] += Σ_q a[i, q] b[q, j]`` for ``i < rows``, ``j < columns``, ``q < inner``.

    Each is a flat array with the place of its first number and the strides of a row and, for `a`, of a column.
    """

    def generate(context, builder, signature, args):
        (to_at, to_row), (a_at, a_row, a_column), (b_at, b_row) = args[1:3], args[4:7], args[8:10]
        rows, columns, inner = args[10:13]
        to_data, a_data, b_data = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 3, 7))
        align = context.get_abi_sizeof(to_data.type.pointee)

        def tile(i, height, j, lanes):
            """`height` rows by `lanes` columns."""
            vector = ir.VectorType(to_data.type.pointee, lanes)
            starts = [builder.add(i, ir.Constant(INT, r)) for r in range(height)]
            places = [builder.add(to_at, builder.add(builder.mul(row, to_row), j)) for row in starts]
            places = [vector_at(builder, to_data, place, lanes) for place in places]
            factors = [builder.add(a_at, builder.mul(row, a_row)) for row in starts]
            totals = [cgutils.alloca_once(builder, vector) for _ in starts]
            for total, place in zip(totals, places, strict=True):
                builder.store(builder.load(place, align=align), total)
            with cgutils.for_range(builder, inner, intp=INT) as loop:
                q = loop.index
                there = builder.add(b_at, builder.add(builder.mul(q, b_row), j))
                values = builder.load(vector_at(builder, b_data, there, lanes), align=align)
                step = builder.mul(q, a_column)
                for total, factor in zip(totals, factors, strict=True):
                    number = builder.load(builder.gep(a_data, [builder.add(factor, step)]))
                    product = builder.fmul(everywhere(builder, number, lanes), values, flags=FAST)
                    builder.store(builder.fadd(builder.load(total), product, flags=FAST), total)
            for total, place in zip(totals, places, strict=True):
                builder.store(builder.load(total), place, align=align)

        start = ir.Constant(INT, 0)
        for height in HEIGHTS:
            size = ir.Constant(INT, height)
            stop = builder.add(start, builder.mul(builder.sdiv(builder.sub(rows, start), size), size))
            with cgutils.for_range_slice(builder, start, stop, size, INT) as (i, _):
                along_row(builder, columns, lambda j, lanes, i=i, height=height: tile(i, height, j, lanes))
            start = stop
        return context.get_dummy_value()

    whole = types.int64
    return types.void(
        to, whole, whole, a, whole, whole, whole, b, whole, whole, whole, whole, whole
    ), generate
