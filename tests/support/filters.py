"""Filters of a network whose package of weights need not be installed."""

import pytest
import torch

from selflabel.networks.efficientnet import EfficientNetLite, Variant


def draw_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights, always the same, in place of ImageNet's."""

    def load(network: EfficientNetLite, weights: object) -> None:
        generator = torch.Generator().manual_seed(3_907)
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.3, generator=generator)

    monkeypatch.setattr(Variant, "is_installed", True)
    monkeypatch.setattr(Variant, "weights", lambda _: {})
    monkeypatch.setattr(EfficientNetLite, "load", load)
