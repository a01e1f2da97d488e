"""Losses inside of torch.compile and torch.func."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selflabel.affinity.builders import Dense, Grid
from selflabel.driver import solve
from selflabel.labels import UNLABELED
from selflabel.losses import DenseCRFLoss, GatedCRFLoss, PottsLoss
from selflabel.problem import Problem
from selflabel.solvers import MeanField

LOSSES: dict[str, nn.Module] = {
    "dense": DenseCRFLoss(Dense(sigma_xy=5.0)),
    "potts": PottsLoss(),
    "gated": GatedCRFLoss(radius=2),
}


def scene(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.randn(1, 3, 9, 10, generator=generator, requires_grad=True)
    seeds = torch.full((1, 9, 10), UNLABELED)
    seeds[0, 2, 3], seeds[0, 5, 5] = 1, 0
    return logits, torch.rand(1, 3, 9, 10, generator=generator), seeds


@pytest.mark.slow
def test_compiled_functions_give_the_same() -> None:
    """In a process of its own: the checks of types of this one are not for the compiler."""
    script = Path(__file__).resolve().parents[1] / "support" / "compiled_losses.py"
    subprocess.run([sys.executable, "-W", "ignore", script], check=True)


@pytest.mark.parametrize("name", LOSSES)
def test_transforms_say_what_they_need(name: str, generator: torch.Generator) -> None:
    logits, image, seeds = scene(generator)
    loss = LOSSES[name]
    with pytest.raises(RuntimeError, match=r"Use torch\.autograd\.grad"):
        torch.func.grad(lambda x: loss(x, image, seeds))(logits.detach())
    with pytest.raises(RuntimeError, match="the batch axis instead of vmap"):
        torch.func.vmap(lambda x: loss(x[None], image, seeds))(logits.detach())


def test_a_filter_inside_of_a_transform_is_refused(generator: torch.Generator) -> None:
    affinity = Dense(sigma_xy=5.0)(torch.rand(1, 3, 9, 10, generator=generator))
    with pytest.raises(RuntimeError, match=r"outside of torch\.func"):
        torch.func.grad(lambda x: affinity.apply(x).sum())(torch.rand(1, 2, 9, 10, generator=generator))


def test_a_solve_inside_of_a_transform_is_refused(generator: torch.Generator) -> None:
    logits, image, seeds = scene(generator)
    solver = MeanField()

    def energy(logits: Tensor) -> Tensor:
        problem = Problem.from_logits(solver.default_energy, logits, seeds, Grid()(image))
        return solve(problem, solver).energy.sum()

    with pytest.raises(RuntimeError, match=r"outside of torch\.func"):
        torch.func.grad(energy)(logits.detach())


def test_the_library_does_not_import_the_compiler() -> None:
    script = (
        "import sys; from selflabel.losses import DenseCRFLoss; import torch\n"
        "DenseCRFLoss()(torch.rand(1, 2, 6, 6), torch.rand(1, 3, 6, 6))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
