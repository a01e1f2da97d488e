"""Vectors of eight numbers as values of kernels: ``load(x, at)``, ``+ - *``, ``store(x, at, value)``.

LLVM vectorizes long loops by itself, but not loops as short as a row of classes. Vectors have the type of the array
that they were loaded from, float32 or float64; arrays are contiguous, and places in them count numbers.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import signature as signature_of
from numba.extending import models, overload, register_model

from selflabel.kernels.cpu.compile import emits
from selflabel.kernels.cpu.rows import FAST, data_of, everywhere, vector_at

LANES = 8
"""Numbers of a vector."""
INT32 = ir.IntType(32)


class Vector(types.Type):
    """`LANES` numbers of a type."""

    def __init__(self, dtype):
        super().__init__(name=f"Vector({dtype})")
        self.dtype = dtype


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, vector):
        number = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(number, LANES))


def _pointer(context, builder, array_type, array, at):
    return vector_at(builder, data_of(context, builder, array_type, array), at, LANES)


@emits
def load(typing, x, at):
    """``x[at : at + LANES]`` of the flattened array."""

    def generate(context, builder, signature, args):
        align = context.get_abi_sizeof(context.get_value_type(x.dtype))
        return builder.load(_pointer(context, builder, x, args[0], args[1]), align=align)

    return signature_of(Vector(x.dtype), x, types.int64), generate


@emits
def store(typing, x, at, value):
    """``x[at : at + LANES] = value``."""

    def generate(context, builder, signature, args):
        align = context.get_abi_sizeof(context.get_value_type(x.dtype))
        builder.store(args[2], _pointer(context, builder, x, args[0], args[1]), align=align)
        return context.get_dummy_value()

    return types.void(x, types.int64, value), generate


@emits
def number(typing, x, at):
    """``x[at]`` of the flattened array, for ``at >= 0``: saves the test for negative numbers."""

    def generate(context, builder, signature, args):
        return builder.load(builder.gep(data_of(context, builder, x, args[0]), [args[1]]))

    return signature_of(x.dtype, x, types.int64), generate


@emits
def full(typing, x):
    """The same number in all lanes."""

    def generate(context, builder, signature, args):
        return everywhere(builder, args[0], LANES)

    return signature_of(Vector(x), x), generate


def _elementwise(name):
    @emits
    def function(typing, a, b):
        def generate(context, builder, signature, args):
            return getattr(builder, name)(*args, flags=FAST)

        return signature_of(a, a, b), generate

    return function


_add, _subtract, _multiply = (_elementwise(name) for name in ("fadd", "fsub", "fmul"))


def _operates(symbol, function):
    @overload(symbol)
    def overloaded(a, b):
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: function(a, b)
        return None


_operates(operator.add, _add)
_operates(operator.sub, _subtract)
_operates(operator.mul, _multiply)


@emits
def greater(typing, a, b):
    """The larger of each two numbers."""

    def generate(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return signature_of(a, a, b), generate


@emits
def total(typing, a):
    """The sum of the numbers."""

    def generate(context, builder, signature, args):
        return _folded(builder, args[0], lambda x, y: builder.fadd(x, y, flags=FAST))

    return signature_of(a.dtype, a), generate


@emits
def largest(typing, a):
    """The largest number."""

    def generate(context, builder, signature, args):
        return _folded(builder, args[0], lambda x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y))

    return signature_of(a.dtype, a), generate


def _folded(builder, vector, join):
    half = LANES // 2
    while half:
        low, high = (
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(INT32, half), [first + i for i in range(half)])
            )
            for first in (0, half)
        )
        vector, half = join(low, high), half // 2
    return builder.extract_element(vector, ir.Constant(INT32, 0))


@emits
def exp2(typing, a):
    """``2^a`` of float32 for ``-126 <= a <= 126``, to 1e-6: ``2^i 2^r``, ``|r| <= ½``, a polynomial in r."""

    def generate(context, builder, signature, args):
        kind = args[0].type

        def const(value):
            return ir.Constant(kind, [value] * LANES)

        round_ = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.rint.v{LANES}f32"
        )
        whole = builder.call(round_, args)
        r = builder.fsub(args[0], whole, flags=FAST)
        p = const(COEFFICIENTS[0])
        for coefficient in COEFFICIENTS[1:]:
            p = builder.fadd(builder.fmul(p, r, flags=FAST), const(coefficient), flags=FAST)
        integers = ir.VectorType(INT32, LANES)
        exponent = builder.shl(
            builder.add(builder.fptosi(whole, integers), ir.Constant(integers, [127] * LANES)),
            ir.Constant(integers, [23] * LANES),
        )
        return builder.fmul(p, builder.bitcast(exponent, kind), flags=FAST)

    return signature_of(a, a), generate


COEFFICIENTS = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)
