"""Counts how often the host would wait for a GPU, on the CPU."""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
"""Operators whose result the host must know: `item` and `bool`, and selections of as many as there are."""
COPIES = {"aten::lift_fresh"}
"""`torch.tensor`: on a GPU a copy from memory that is not pinned."""


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The files of this library, as ``training/step.py``, that read a number or copied one, in order.

    with Waits() as waits:
        ...
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __enter__(self) -> "Waits":
        self._patches = [patch.object(Tensor, name, self._noted(name)) for name in ("tolist", "numpy")]
        for each in self._patches:
            each.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for each in self._patches:
            each.stop()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.name().split(".")[0]
        if name in READS | COPIES or (name == "aten::index" and _selects(args[1])):
            self.found.append(_caller())
        return func(*args, **(kwargs or {}))

    def _noted(self, name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def noted(tensor: Tensor, *args: Any) -> Any:
            self.found.append(_caller())
            return original(tensor, *args)

        return noted

    def within(self, room: str) -> list[str]:
        """Those of one room."""
        return [file for file in self.found if file.startswith(room)]


def _selects(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _caller() -> str:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        before, found, after = frame.f_code.co_filename.rpartition("/selflabel/")
        if found and not before.endswith("/tests"):
            return after
        frame = frame.f_back
    return "elsewhere"
