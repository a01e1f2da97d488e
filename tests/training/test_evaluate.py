"""Scores are counted over all images, the network in evaluation mode."""

import numpy as np
import pytest
import torch
from support.cases import CLASSES, batch, network, sample, samples
from torch import Tensor, nn

from selflabel.datasets.samples import collate
from selflabel.training import (
    evaluate,
)
from selflabel.training.evaluate import evaluating


class Threshold(nn.Module):
    """Predicts class 1 above 0.4, else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        """Must be in evaluation mode."""
        assert not self.training
        return torch.cat([0.4 - images, images - 0.4, images - 2], 1)


def test_scores_are_counted_over_all_images() -> None:
    net = Threshold().train()
    found = evaluate(net, iter([batch(2), batch(1)]), CLASSES, first=1, distances=True)
    assert net.training
    assert found is not None
    both, true, labeled = np.zeros(3), np.zeros(3), np.zeros(3)
    for one in [sample(0), sample(1), sample(0)]:
        assert one.mask is not None
        index = (one.image[0] > 0.4).long()
        for k in range(3):
            both[k] += float(((one.mask == k) & (index == k)).sum())
            true[k] += float((one.mask == k).sum())
            labeled[k] += float((index == k).sum())
    assert found.dice == pytest.approx(2 * both / (true + labeled))
    assert found.iou == pytest.approx(both / (true + labeled - both))
    assert found.mean_dice == pytest.approx(np.mean(found.dice[1:]))
    assert found.mean_iou == pytest.approx(np.mean(found.iou[1:]))
    assert found.hd95 is not None
    assert found.hd95[1] > 0
    assert np.isnan(found.hd95[2])
    assert found.mean_hd95 == pytest.approx(found.hd95[1])
    plain = evaluate(net, [batch(1)], CLASSES)
    assert plain is not None
    assert plain.mean_hd95 is None
    assert evaluate(net, [], CLASSES) is None
    with pytest.raises(ValueError, match="full masks to score against, got none for im0"):
        evaluate(net, [collate(samples(1, mask=False))], CLASSES)


def test_evaluation_mode_leaves_frozen_layers_frozen() -> None:
    net = network(norm=True)
    net[1].eval()
    modes = [module.training for module in net.modules()]
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == modes
