"""Every loss as a function of logits and a case, beside its formula, written out with the full matrix W."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from selflabel.labels import UNLABELED, one_hot
from selflabel.losses import (
    dense_crf_loss,
    entropy_loss,
    kernel_cut_loss,
    kmeans_loss,
    non_exist_loss,
    normalized_cut_loss,
    partial_cross_entropy,
    potts_loss,
    self_labeling_loss,
)
from selflabel.terms import COUPLINGS, Coupling
from support.problems import Case, explicit_coupling, explicit_potts, random_labels

Formula = Callable[[Tensor, Case], Tensor]

WEIGHTS = torch.tensor([0.4, 2.0, 1.1])
PRESENT = torch.tensor([[True, False, True], [False, True, False]])
GAMMA = 0.37


@dataclass(frozen=True)
class Pair:
    """A loss, and its formula in float64, differentiated by autograd."""

    loss: Formula
    formula: Formula


def draw_logits(case: Case, drawn: int = 77_621) -> Tensor:
    generator = torch.Generator().manual_seed(drawn)
    return 2 * torch.randn(case.probs.shape, generator=generator, dtype=torch.float64)


def pixels(logits: Tensor) -> int:
    return len(logits) * prod(logits.shape[2:])


def free_of(case: Case) -> Tensor:
    return case.seeds == UNLABELED


def _partial_cross_entropy(logits: Tensor, case: Case) -> Tensor:
    top, bottom = logits.new_zeros(()), 0.0
    for place in (~free_of(case)).nonzero().tolist():
        image, where = place[0], tuple(place[1:])
        k = int(case.seeds[(image, *where)])
        scores = logits[(image, slice(None), *where)]
        top = top + WEIGHTS[k] * ((scores - scores[k]).exp().sum()).log()
        bottom += float(WEIGHTS[k])
    return top / bottom


def _entropy(logits: Tensor, case: Case) -> Tensor:
    probs = logits.softmax(1)
    return (-(probs * probs.log()).sum(1) * free_of(case)).sum() / pixels(logits)


def cut(matrix: Tensor, labels: Tensor) -> Tensor:
    """``S_k' W (1 - S_k)`` for every image and class."""
    return torch.einsum("bki,bij,bkj->bk", labels, matrix, 1 - labels)


def _dense_crf(logits: Tensor, case: Case) -> Tensor:
    matrix = case.affinity.as_matrix().to(logits.dtype)
    return cut(matrix, logits.softmax(1).flatten(2)).sum() / pixels(logits)


def _normalized_cut(logits: Tensor, case: Case) -> Tensor:
    matrix = case.affinity.as_matrix().to(logits.dtype)
    hard = one_hot(case.seeds, logits.shape[1], logits.dtype)
    labels = torch.where(free_of(case)[:, None], logits.softmax(1), hard).flatten(2)
    volume = torch.einsum("bi,bki->bk", matrix.sum(2), labels)
    return (cut(matrix, labels) / volume).sum() / len(logits)


def _non_exist(logits: Tensor, case: Case) -> Tensor:
    probs, total = logits.softmax(1), logits.new_zeros(())
    for b, k in (~PRESENT).nonzero().tolist():
        total = total + probs[b, k].sum()
    return total / pixels(logits)


def _kmeans(logits: Tensor, case: Case) -> Tensor:
    labels, colors = logits.softmax(1).flatten(2), 255 * case.image.to(logits.dtype).flatten(2)
    means = torch.einsum("bkn,bcn->bkc", labels, colors) / labels.sum(2, keepdim=True)
    distances = (colors[:, None] - means[..., None]).square().sum(2)
    return (labels * distances).sum() / pixels(logits)


def pseudo_labels(case: Case) -> Tensor:
    return random_labels(case.probs.double(), 2_947)


def _self_labeling(coupling: Coupling) -> Pair:
    def loss(logits: Tensor, case: Case) -> Tensor:
        labels = pseudo_labels(case).to(logits.device, case.image.dtype)
        return self_labeling_loss(logits, labels, case.seeds, coupling)

    def formula(logits: Tensor, case: Case) -> Tensor:
        values = explicit_coupling(coupling.name, pseudo_labels(case), logits.softmax(1))
        return (values * free_of(case)).sum() / pixels(logits)

    return Pair(loss, formula)


PIXELWISE: dict[str, Pair] = {
    "partial-cross-entropy": Pair(
        lambda logits, case: partial_cross_entropy(logits, case.seeds, WEIGHTS.to(logits.device)),
        _partial_cross_entropy,
    ),
    "entropy": Pair(lambda logits, case: entropy_loss(logits, case.seeds), _entropy),
    "non-exist": Pair(
        lambda logits, case: non_exist_loss(logits, PRESENT[: len(logits)].to(logits.device)), _non_exist
    ),
    "k-means": Pair(lambda logits, case: kmeans_loss(logits, 255 * case.image), _kmeans),
    **{f"self-labeling-{coupling.name}": _self_labeling(coupling) for coupling in COUPLINGS},
}
PAIRWISE: dict[str, Pair] = {
    "potts": Pair(
        lambda logits, case: potts_loss(logits, case.affinity, case.energy.relaxation),
        lambda logits, case: (
            explicit_potts(logits.softmax(1), case.affinity, case.energy.relaxation.name).sum()
            / pixels(logits)
        ),
    ),
    "dense-crf": Pair(lambda logits, case: dense_crf_loss(logits, case.affinity), _dense_crf),
    "normalized-cut": Pair(
        lambda logits, case: normalized_cut_loss(logits, case.affinity, case.seeds), _normalized_cut
    ),
    "kernel-cut": Pair(
        lambda logits, case: kernel_cut_loss(logits, case.affinity, case.seeds, GAMMA),
        lambda logits, case: _dense_crf(logits, case) + GAMMA * _normalized_cut(logits, case),
    ),
}
LOSSES = PIXELWISE | PAIRWISE


def value_and_gradient(loss: Formula, logits: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """The loss and its gradient, at a copy of the logits."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, case)
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.dtype == logits.dtype
    return value.detach(), gradient
