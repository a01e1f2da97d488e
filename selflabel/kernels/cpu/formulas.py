"""Formulas of `selflabel.terms`, compiled: written there for tensors, taken here for the numbers in a loop."""

import inspect
import math
import zlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from selflabel import terms
from selflabel.kernels.cpu.compile import kernel
from selflabel.kernels.cpu.elementary import log_of


@kernel
def _rsqrt(x):
    return np.float32(1) / np.float32(math.sqrt(x))


@kernel
def _at_least(x, floor):
    return x if x > floor else floor


@kernel
def _constant(value, like):
    return value


ELEMENTARY = {terms.log: log_of, terms.rsqrt: _rsqrt, terms.at_least: _at_least, terms.constant: _constant}
"""What the formulas call, and what is called in a loop."""


def of_numbers(formula: Callable[..., Any]) -> Any:
    """The same formula for numbers in float32, with all that it calls."""
    function = inspect.unwrap(formula)
    code, names = function.__code__, function.__globals__
    own = {name: _of_numbers(names[name]) for name in code.co_names if name in names}
    return kernel(_made(code.replace(co_consts=tuple(map(_in_single, code.co_consts))), own, function))


def specialized(template: Callable[..., Any], **formulas: Callable[..., Any]) -> Any:
    """A kernel that calls these formulas where the template has functions of these names.

    Numba finds machine code on disk by the name of the function, which is another one for other formulas.
    """
    function = inspect.unwrap(template)
    names = {name: of_numbers(formula) for name, formula in formulas.items()}
    mark = zlib.crc32(repr([_written(formula) for formula in formulas.values()]).encode())
    return kernel(_made(function.__code__, {**function.__globals__, **names}, function, f"_{mark:08x}"))


def _written(used: Any) -> Any:
    """All that a formula says, with what it calls."""
    if not callable(used) or used in ELEMENTARY:
        return repr(used) if not callable(used) else used.__name__
    code, names = inspect.unwrap(used).__code__, inspect.unwrap(used).__globals__
    called = [_written(names[name]) for name in code.co_names if name in names]
    return code.co_code, code.co_consts, code.co_names, called


def _made(code: Any, names: dict[str, Any], like: Any, name: str = "") -> FunctionType:
    made = FunctionType(code, names, f"{like.__name__}{name}")
    made.__module__, made.__qualname__ = like.__module__, f"{like.__qualname__}{name}"
    return made


def _of_numbers(used: Any) -> Any:
    if callable(used):
        return ELEMENTARY[used] if used in ELEMENTARY else of_numbers(used)
    return _in_single(used)


def _in_single(value: Any) -> Any:
    """A constant in double precision would make all of the loop so."""
    return np.float32(value) if isinstance(value, float | int) and not isinstance(value, bool) else value
