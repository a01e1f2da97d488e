"""Learning rate and warm-up as pure functions of the step, and settings of optimizers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn


def polynomial(step: int, steps: int, power: float) -> float:
    """``(1 - step/steps)^power``, the factor on the learning rate in step 0 .. steps-1; power 0.9 in the papers."""
    return float((1 - step / steps) ** power)


def ramp(step: int, start: int, length: int) -> float:
    """The warm-up's factor: 0 before the step `start`, then rising to 1 in `length` equal steps."""
    if step < start:
        return 0.0
    return 1.0 if length == 0 else min(1.0, (step - start + 1) / length)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@runtime_checkable
class OptimizerFactory(Protocol):
    """Settings of an optimizer; called with parameters, they make it."""

    def __call__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer of the parameters."""


@dataclass(frozen=True)
class AdamW:
    """`torch.optim.AdamW`."""

    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)

    def __call__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer of the parameters."""
        return torch.optim.AdamW(parameters, learning_rate, self.betas, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SGD:
    """`torch.optim.SGD` (7e-4 with momentum 0.9 and weight decay 5e-4 is usual with pre-trained networks)."""

    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __call__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer of the parameters."""
        return torch.optim.SGD(parameters, learning_rate, self.momentum, weight_decay=self.weight_decay)
