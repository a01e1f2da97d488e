"""Objectives: seeds, masks and direct losses are their formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.cases import CLASSES, SOFT, batch, network, samples
from torch import nn

from selflabel.datasets.samples import Batch, collate
from selflabel.losses.gated_crf import GatedCRFLoss
from selflabel.losses.modules import EntropyLoss, NonExistLoss, PottsLoss
from selflabel.training import (
    FullMasks,
    Regularized,
    SeedsOnly,
    WeightedLoss,
)


@pytest.mark.quick
def test_the_objectives_are_their_formulas() -> None:
    data, weights = batch(), (1.0, 3.0, 0.5)
    logits = network()(data.images).detach()
    log_probs = logits.log_softmax(1).double().numpy()
    assert data.masks is not None
    for objective, index, name in (
        (SeedsOnly(), data.seeds, "seeds"),
        (SeedsOnly(weights), data.seeds, "seeds"),
        (FullMasks(weights), data.masks, "masks"),
    ):
        factor = np.array(objective.class_weights or (1.0, 1.0, 1.0))
        known = index.numpy() != 255
        classes = index.numpy()[known]
        picked = np.moveaxis(log_probs, 1, -1)[known][np.arange(len(classes)), classes]
        expected = -(factor[classes] * picked).sum() / factor[classes].sum()
        terms = objective.terms(logits, data, objective.label(logits, data, None), 0.3)
        assert tuple(terms) == objective.names == (name,)
        assert float(terms[name].value) == pytest.approx(expected, rel=1e-5)
        assert float(terms[name].mass) == pytest.approx(factor[classes].sum())


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5)])
@pytest.mark.parametrize("checked", [False, True])
def test_images_count_alike(weights: tuple[float, ...] | None, checked: bool) -> None:
    """However many seeds each has; images without any do not count."""
    data = batch(4)
    seeds = data.seeds.clone()
    seeds[0], seeds[1, :, 3:] = 255, 255
    data = replace(data, seeds=seeds)
    data = data.checked(CLASSES) if checked else data
    logits = network()(data.images).detach()
    one_by_one = [
        SeedsOnly(weights).terms(logits[[n]], collate_one(data, n), None, 1.0)["seeds"].value
        for n in (1, 2, 3)
    ]
    found = SeedsOnly(weights, by_image=True).terms(logits, data, None, 1.0)["seeds"]
    torch.testing.assert_close(found.value, torch.stack(one_by_one).mean())
    assert float(found.mass) == 3
    nothing = replace(data, seeds=torch.full_like(seeds, 255))
    empty = SeedsOnly(weights, by_image=True).terms(logits.requires_grad_(), nothing, None, 1.0)["seeds"]
    assert (float(empty.value.detach()), float(empty.mass)) == (0, 0)
    assert empty.value.requires_grad


def collate_one(data: Batch, number: int) -> Batch:
    return Batch(data.stems[number : number + 1], data.images[[number]], data.seeds[[number]])


def test_direct_losses_have_their_weights_and_the_warm_up() -> None:
    data = batch()
    logits = network()(data.images).detach()
    losses: dict[str, tuple[float, nn.Module]] = {
        "potts": (0.5, PottsLoss()),
        "sure": (2.0, EntropyLoss()),
        "gated": (0.1, GatedCRFLoss(2, unlabeled_only=True)),
    }
    objective = Regularized(
        tuple(WeightedLoss(name, weight, loss) for name, (weight, loss) in losses.items())
    )
    assert objective.label(logits, data, None) is None
    terms = objective.terms(logits, data, None, 0.25)
    assert tuple(terms) == objective.names == ("seeds", "potts", "sure", "gated")
    for name, (weight, loss) in losses.items():
        expected = 0.25 * weight * float(loss(logits, data.images, data.seeds))
        assert float(terms[name].value) == pytest.approx(expected, rel=1e-6)
        pixels = (data.seeds == 255).sum() if name == "gated" else data.seeds.numel()
        assert float(terms[name].mass) == float(pixels)
    assert float(terms["seeds"].value) == float(SeedsOnly().terms(logits, data, None, 1.0)["seeds"].value)


def test_objectives_that_cannot_be() -> None:
    data = collate(samples(2, mask=False))
    logits = torch.zeros(2, CLASSES, 16, 16)
    with pytest.raises(ValueError, match="full masks to train with, got none for im0, im1"):
        FullMasks().terms(logits, data, None, 1.0)
    with pytest.raises(ValueError, match="pseudo-labels to fit, got none"):
        SOFT.terms(logits, data, None, 1.0)
    with pytest.raises(ValueError, match="weight >= 0 of 'potts', got -1"):
        WeightedLoss("potts", -1.0, PottsLoss())
    for name in ("potts", "seeds"):
        with pytest.raises(ValueError, match="a name of its own"):
            Regularized((WeightedLoss("potts", 1.0, PottsLoss()), WeightedLoss(name, 1.0, NonExistLoss())))
