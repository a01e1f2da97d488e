"""Checkpoints: complete files of tensors and plain values, loaded without running any code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from selflabel.files.atomic import write_atomic

LAST = "last.pt"
BEST = "best.pt"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run, to go on from as if it had not stopped; random numbers and data follow from the step.

    settings, about: as text and as JSON values, to be compared and to rebuild the network. average: the moving
    average of the weights. labels: the state of the label store. rows, columns: of the history. best: the best
    validation score so far.
    """

    step: int
    seconds: float
    settings: Mapping[str, str]
    about: Mapping[str, Any]
    network: Mapping[str, Any]
    average: Mapping[str, Any] | None
    optimizer: Mapping[str, Any]
    labels: Mapping[str, Any] | None
    rows: int
    best: float | None
    columns: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the file, complete or not at all."""
        content = {"format": FORMAT, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
        write_atomic(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint (`last.pt` or `best.pt`). Raises `ValueError` if the file is damaged or something else."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {type(error).__name__} {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(
            f"{path} is no checkpoint of selflabel (format {FORMAT}): pass its last.pt or best.pt"
        )
    try:
        return Checkpoint(**content)
    except TypeError as error:
        raise ValueError(f"{path} is no checkpoint of this version of selflabel: {error}") from error


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
