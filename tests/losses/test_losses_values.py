"""Loss modules are values: a copy, a pickle or a saved file of each gives the same loss and the same gradient."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.copies import COPIES
from support.loss_formulas import draw_logits, pseudo_labels
from support.problems import make_case
from torch import Tensor, nn

from selflabel import losses
from selflabel.energy import Energy
from selflabel.losses import GatedCRFLoss, PartialCrossEntropy, SelfLabelingLoss
from selflabel.terms import COUPLINGS, RELAXATIONS

VARIANTS: dict[str, tuple[Any, ...]] = {"relaxation": RELAXATIONS, "coupling": COUPLINGS}


def modules() -> Iterator[tuple[str, nn.Module]]:
    """Every module of `selflabel.losses`, with each relaxation or coupling that it takes."""
    for name in losses.__all__:
        kind = getattr(losses, name)
        if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
            continue
        varied = [field for field in VARIANTS if field in inspect.signature(kind).parameters]
        if not varied:
            yield name, kind()
        for field in varied:
            yield from ((f"{name}-{value.name}", kind(**{field: value})) for value in VARIANTS[field])
    yield "PartialCrossEntropy-weights", PartialCrossEntropy(torch.tensor([0.3, 1.7, 0.9]))
    yield "PartialCrossEntropy-by-frequency", PartialCrossEntropy(by_frequency=True)
    yield "GatedCRFLoss-unlabeled-only", GatedCRFLoss(2, unlabeled_only=True)


MODULES = dict(modules())


def loss_and_gradient(module: nn.Module) -> tuple[Tensor, Tensor]:
    case = make_case(Energy(), "grid4", seeded=0.3)
    logits = draw_logits(case).float().requires_grad_()
    images = pseudo_labels(case).float() if isinstance(module, SelfLabelingLoss) else case.image
    loss = module(logits, images, case.seeds)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def test_every_module_is_there() -> None:
    kinds = {type(module).__name__ for module in MODULES.values()}
    assert kinds == {name for name in losses.__all__ if name[0].isupper()} - {"Loss"}
    assert len(MODULES) == 23


@COPIES
@pytest.mark.parametrize("name", MODULES)
def test_copies_have_the_same_loss(name: str, copied: Callable[[Any], Any]) -> None:
    module = MODULES[name]
    found = copied(module)
    assert type(found) is type(module)
    assert found is not module
    for actual, expected in zip(loss_and_gradient(found), loss_and_gradient(module), strict=True):
        assert torch.equal(actual, expected)
