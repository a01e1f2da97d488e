"""Checkpoints: complete files of tensors and plain values, checked by their digest, loaded without running any code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selflabel.kinds import checked
from selflabel.training.sealed import load_sealed, save_sealed

LAST = "last.pt"
BEST = "best.pt"
FORMAT = 2


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run, to go on from as if it had not stopped; random numbers and data follow from the step.

    settings, about: as text and as JSON values, to be compared and to rebuild the network. average: the moving
    average of the weights. labels: the state of the label store. rows: of the history, a checksum of each. columns:
    of the history. best: the best validation score so far.
    """

    step: int
    seconds: float
    settings: Mapping[str, str]
    about: Mapping[str, Any]
    network: Mapping[str, Any]
    average: Mapping[str, Any] | None
    optimizer: Mapping[str, Any]
    labels: Mapping[str, Any] | None
    rows: tuple[int, ...]
    best: float | None
    columns: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the file, complete or not at all."""
        content = {"format": FORMAT, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
        save_sealed(path, content)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint (`last.pt` or `best.pt`).

    Raises `ValueError` if it is damaged (a byte that changed anywhere is found), or something else.
    """
    path = checked(path, Path, "path")
    content = load_sealed(path, device)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(
            f"{path} is no checkpoint of selflabel (format {FORMAT}): pass its last.pt or best.pt"
        )
    named = {entry.name for entry in fields(Checkpoint)}
    wrong = sorted(map(str, named ^ content.keys())) or _of_other_types(content)
    if wrong:
        raise ValueError(
            f"{path} is no checkpoint of this version of selflabel ({', '.join(wrong)}): start the run anew"
        )
    return Checkpoint(**content)


def _of_other_types(content: Mapping[str, Any]) -> list[str]:
    """The fields whose values are not of the type that they have in a checkpoint."""

    def number(value: object) -> bool:
        return isinstance(value, int | float) and isfinite(value)

    def mapping(value: object) -> bool:
        return isinstance(value, Mapping)

    right: dict[str, Callable[[Any], bool]] = {
        "step": lambda value: isinstance(value, int) and value >= 0,
        "seconds": number,
        "best": lambda value: value is None or number(value),
        **dict.fromkeys(("settings", "about", "network", "optimizer"), mapping),
        **dict.fromkeys(("average", "labels"), lambda value: value is None or mapping(value)),
        "rows": lambda value: isinstance(value, tuple) and all(isinstance(one, int) for one in value),
        "columns": lambda value: isinstance(value, tuple) and all(isinstance(one, str) for one in value),
    }
    return [name for name, check in right.items() if not check(content[name])]


def load_weights(path: Path, network: nn.Module, device: torch.device | str = "cpu") -> Checkpoint:
    """Load the weights to predict with (the average, if there is one) into a network; returns the checkpoint.

    Raises `ValueError` if they do not fit the network.
    """
    checkpoint = load_checkpoint(path, device)
    weights = checkpoint.network if checkpoint.average is None else checkpoint.average
    load_state(network, weights, path)
    return checkpoint


def load_state(network: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Load weights into a network. Raises `ValueError` if they do not fit."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit the network: {error}") from error
