"""Losses and a solve inside of torch.compile, against the same without it. Run as a script."""

import torch
from torch import Tensor

from selflabel.affinity.builders import Contrast, Dense
from selflabel.driver import solve
from selflabel.labels import UNLABELED
from selflabel.losses import DenseCRFLoss, GatedCRFLoss, PottsLoss
from selflabel.problem import Problem
from selflabel.solvers import MeanField

DENSE = Dense(sigma_xy=5.0)
LOSSES = (DenseCRFLoss(DENSE), PottsLoss(Contrast()), GatedCRFLoss(radius=2))


def main() -> None:
    """Exit with an error where they differ."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 3, 9, 10, generator=draw, requires_grad=True)
    image = torch.rand(1, 3, 9, 10, generator=draw)
    seeds = torch.full((1, 9, 10), UNLABELED)
    seeds[0, 2, 3], seeds[0, 5, 5] = 1, 0
    for loss in LOSSES:
        expected = loss(logits, image, seeds)
        found = torch.compile(loss, backend="aot_eager")(logits, image, seeds)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
        torch.testing.assert_close(gradients[0], gradients[1])

    solver = MeanField()

    def labels(logits: Tensor) -> Tensor:
        problem = Problem.from_logits(solver.default_energy, 2 * logits, seeds, DENSE(image))
        return solve(problem, solver).labels

    compiled = torch.compile(labels, backend="aot_eager")
    torch.testing.assert_close(compiled(logits.detach()), labels(logits.detach()))


if __name__ == "__main__":
    main()
