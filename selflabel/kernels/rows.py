"""Weighted sums of rows, in vectors: what splatting, blurring and slicing a lattice are made of.

LLVM vectorizes long loops, but not those as short as a row of classes, where the checks before the loop cost more
than the loop. So these two are written in its own language: sixteen numbers at a time, then eight. Rows of more
than one number are padded to a multiple of eight. Arrays are contiguous, and places in them count numbers, not rows.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from selflabel.kernels.compile import emits

VECTORS = (16, 8, 1)
INT = ir.IntType(64)
FAST = ("reassoc", "contract", "nsz", "arcp")


def padded(width: int) -> int:
    """The width of rows that hold so many numbers."""
    return 1 if width == 1 else -(-width // 8) * 8


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


@emits
def add_row(typing, x, start, width, stride, index, weight, first, last, to, column):
    """``to[stride index[e] + column + j] += weight[e] x[start + j]`` for ``first <= e < last``, ``0 <= j < width``."""

    def generate(context, builder, signature, args):
        x_data, index_data, weight_data, to_data = (
            data_of(context, builder, signature.args[i], args[i]) for i in (0, 4, 5, 8)
        )
        align = context.get_abi_sizeof(to_data.type.pointee)

        def body(at, lanes):
            there = builder.load(vector_at(builder, x_data, builder.add(args[1], at), lanes), align=align)
            shift = builder.add(args[9], at)
            with cgutils.for_range_slice(builder, args[6], args[7], ir.Constant(INT, 1), INT) as (e, _):
                row = builder.sext(builder.load(builder.gep(index_data, [e])), INT)
                here = vector_at(builder, to_data, builder.add(builder.mul(row, args[3]), shift), lanes)
                factor = everywhere(builder, builder.load(builder.gep(weight_data, [e])), lanes)
                product = builder.fmul(factor, there, flags=FAST)
                builder.store(
                    builder.fadd(builder.load(here, align=align), product, flags=FAST), here, align=align
                )

        along_row(builder, args[2], body)
        return context.get_dummy_value()

    numbers = types.int64, types.int64, types.int64
    return types.void(x, *numbers, index, weight, *numbers[:2], to, types.int64), generate


@emits
def sum_rows(typing, x, column, stride, index, weight, first, last, scale, to, start, width):
    """``to[start + j] += scale Σ_e weight[e] x[stride index[e] + column + j]`` over ``first <= e < last``.

    For ``0 <= j < width``; the sums are kept in registers.
    """

    def generate(context, builder, signature, args):
        x_data, index_data, weight_data, to_data = (
            data_of(context, builder, signature.args[i], args[i]) for i in (0, 3, 4, 8)
        )

        def body(at, lanes):
            align = context.get_abi_sizeof(to_data.type.pointee)
            vector = ir.VectorType(to_data.type.pointee, lanes)
            total = cgutils.alloca_once(builder, vector)
            builder.store(ir.Constant(vector, [0.0] * lanes), total)
            shift = builder.add(args[1], at)
            with cgutils.for_range_slice(builder, args[5], args[6], ir.Constant(INT, 1), INT) as (e, _):
                row = builder.sext(builder.load(builder.gep(index_data, [e])), INT)
                there = vector_at(builder, x_data, builder.add(builder.mul(row, args[2]), shift), lanes)
                factor = everywhere(builder, builder.load(builder.gep(weight_data, [e])), lanes)
                product = builder.fmul(factor, builder.load(there, align=align), flags=FAST)
                builder.store(builder.fadd(builder.load(total), product, flags=FAST), total)
            here = vector_at(builder, to_data, builder.add(args[9], at), lanes)
            product = builder.fmul(everywhere(builder, args[7], lanes), builder.load(total), flags=FAST)
            builder.store(
                builder.fadd(builder.load(here, align=align), product, flags=FAST), here, align=align
            )

        along_row(builder, args[10], body)
        return context.get_dummy_value()

    where = types.int64, types.int64
    return types.void(x, *where, index, weight, *where, scale, to, *where), generate
