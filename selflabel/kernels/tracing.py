"""What torch.compile must not trace: compiled kernels, their memory, and loops that it would unroll for minutes."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def opaque(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """The function, called as it is where torch.compile traces its caller: the graph breaks before and after it.

    As `torch.compiler.disable`, which would import the compiler here, a second, for those who never compile.
    """

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        if torch.compiler.is_compiling():
            untraced: Callable[Arguments, Returned] = _untraced(function)
            return untraced(*args, **kwargs)
        return function(*args, **kwargs)

    return call


@cache
def _untraced(function: Callable[..., Any]) -> Any:
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call]
