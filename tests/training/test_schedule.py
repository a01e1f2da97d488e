"""Optimizers of networks with pretrained and new layers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cases import batches
from torch import Tensor, nn

from selflabel.training import (
    SGD,
    AdamW,
    OptimizerFactory,
    SeedsOnly,
    TrainingSettings,
    load_checkpoint,
    train,
)
from selflabel.training.schedule import make_optimizer, set_learning_rate


class HalfTrained(nn.Module):
    """One layer that was trained before, and one that was not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8_017)
        self.old, self.new = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.new(self.old(images).relu())
        return found

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        return self.old.parameters()


@pytest.mark.parametrize("factory", [SGD(), AdamW()])
def test_new_layers_have_a_rate_of_their_own(factory: OptimizerFactory) -> None:
    """Also within another module; everything else is the optimizer's."""
    network = nn.Sequential(HalfTrained())
    optimizer = make_optimizer(network, factory, 0.02, 10.0)
    old, new = optimizer.param_groups
    assert [parameter.shape for parameter in old["params"]] == [(4, 1, 3, 3), (4,)]
    assert [parameter.shape for parameter in new["params"]] == [(3, 4, 1, 1), (3,)]
    assert (old["lr"], new["lr"]) == (0.02, 0.2)
    set_learning_rate(optimizer, 0.003)
    assert (old["lr"], new["lr"]) == (0.003, 0.03)
    assert old["weight_decay"] == new["weight_decay"] == factory.weight_decay  # type: ignore[attr-defined]


def test_frozen_parameters_are_left_out() -> None:
    network = HalfTrained()
    network.new.bias.requires_grad_(False)  # type: ignore[union-attr]
    optimizer = make_optimizer(network, SGD(), 0.1, 10.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]
    (alone,) = make_optimizer(network, SGD(), 0.1).param_groups
    assert len(alone["params"]) == 3


@pytest.mark.parametrize(("wanted", "frozen"), [("pretrained", None), ("new", "new")])
def test_a_factor_without_effect(wanted: str, frozen: str | None) -> None:
    network: nn.Module = nn.Conv2d(1, 2, 1) if frozen is None else HalfTrained()
    if frozen is not None:
        network.get_submodule(frozen).requires_grad_(False)
    with pytest.raises(ValueError, match=f"factor 10 on the learning rate of new ones, got no {wanted} ones"):
        make_optimizer(network, SGD(), 0.1, 10.0)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_factors_that_are_none(factor: float) -> None:
    with pytest.raises(ValueError, match="factor > 0 on the learning rate of new layers"):
        TrainingSettings(new_layers_rate=factor)


def test_a_run_goes_on_with_both_rates(tmp_path: Path) -> None:
    """Stopped and resumed, it has the weights of one that was not; the factor changes them."""
    settings = TrainingSettings(
        steps=4,
        learning_rate=0.05,
        optimizer=SGD(),
        new_layers_rate=10.0,
        checkpoint_every=2,
        validate_every=0,
    )

    def weights(out: str, settings: TrainingSettings, stop: int | None = None) -> list[Tensor]:
        def callback(row: object) -> None:
            if isinstance(row, dict) and row["step"] == stop:
                raise KeyboardInterrupt

        train(
            HalfTrained(), SeedsOnly(), batches(), settings, tmp_path / out, callbacks=[callback], resume=True
        )
        return list(load_checkpoint(tmp_path / out / "last.pt").network.values())

    whole = weights("whole", settings)
    with pytest.raises(KeyboardInterrupt):
        weights("parts", settings, stop=3)
    assert all(torch.equal(a, b) for a, b in zip(weights("parts", settings), whole, strict=True))
    plain = weights("plain", replace(settings, new_layers_rate=1.0))
    assert not any(torch.equal(a, b) for a, b in zip(plain, whole, strict=True))
