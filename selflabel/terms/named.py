"""Constants with names: copied, pickled and shown by them."""

import copyreg
import sys
from typing import Any


def by_name(record: Any) -> str | tuple[Any, ...]:
    """`__reduce__` of couplings and relaxations: constants of their class's module are copied and pickled by name.

    So a copy is the constant itself, as with members of an enumeration. Others are pickled by their fields, which then
    must be functions of a module.
    """
    names = (name for name, value in vars(sys.modules[type(record).__module__]).items() if value is record)
    return next(names, None) or (copyreg.__newobj__, (type(record),), vars(record))  # type: ignore[attr-defined]


def shown(record: Any) -> str:
    """`__repr__` of couplings and relaxations: their names, not the addresses of their functions."""
    return f"{type(record).__name__}({record.name!r})"
