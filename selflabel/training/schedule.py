"""Learning rate and warm-up as pure functions of the step, and settings of optimizers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from selflabel.kinds import check_fields, check_least


def polynomial(step: int, steps: int, power: float) -> float:
    """``(1 - step/steps)^power``, the factor on the learning rate in step 0 .. steps-1; power 0.9 in the papers."""
    return float((1 - step / steps) ** power)


def ramp(step: int, start: int, length: int) -> float:
    """The warm-up's factor: 0 before the step `start`, then rising to 1 in `length` equal steps."""
    if step < start:
        return 0.0
    return 1.0 if length == 0 else min(1.0, (step - start + 1) / length)


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

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self.weight_decay, "weight_decay")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas in [0, 1), got {self.betas}")

    def __call__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer of the parameters."""
        return torch.optim.AdamW(parameters, learning_rate, self.betas, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SGD:
    """`torch.optim.SGD` (7e-4 with momentum 0.9 and weight decay 5e-4 is usual with pre-trained networks)."""

    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self.momentum, "momentum")
        check_least(self.weight_decay, "weight_decay")

    def __call__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer of the parameters."""
        return torch.optim.SGD(parameters, learning_rate, self.momentum, weight_decay=self.weight_decay)


FACTOR = "rate_factor"
"""The entry of a group of parameters for the factor on its learning rate; 1 where it is missing."""


@runtime_checkable
class PartlyPretrained(Protocol):
    """A module that says which of its parameters have been trained before; the others are new."""

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters."""


def make_optimizer(
    network: nn.Module, factory: OptimizerFactory, learning_rate: float, new_layers_rate: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters that are trained.

    new_layers_rate: a factor on the learning rate of those that are not pretrained (DeepLab, and the papers that follow
    its protocol: 10). Raises `ValueError` for a factor other than 1 if no part of the network says which those are.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if new_layers_rate == 1:
        return factory(trained, learning_rate)
    before = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, PartlyPretrained)
        for parameter in module.pretrained_parameters()
    }
    old = [parameter for parameter in trained if id(parameter) in before]
    new = [parameter for parameter in trained if id(parameter) not in before]
    if not old or not new:
        raise ValueError(
            f"expected pretrained and new layers in the network, for the factor {new_layers_rate:g} on the learning "
            f"rate of new ones, got no {'new' if old else 'pretrained'} ones: leave the factor out (a network of your "
            f"own says which they are by a method `pretrained_parameters`)"
        )
    optimizer = factory(old, learning_rate)
    optimizer.add_param_group({"params": new, "lr": learning_rate * new_layers_rate, FACTOR: new_layers_rate})
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups of parameters, each with its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(FACTOR, 1.0)
