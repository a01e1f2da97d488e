"""The sweeps of mean field in torch against the compiled ones."""

from dataclasses import replace

import pytest
import torch

from selflabel import DenseAffinity, GaussianKernel, Problem, solve
from selflabel.driver import Result
from selflabel.labels import UNLABELED
from selflabel.numerics.descent.mean_field_torch import TorchMeanField, is_swept
from selflabel.solvers import MeanField


def case(generator: torch.Generator, classes: int) -> Problem:
    """Two images, some seeds, two kernels; the prediction of the second is sure."""
    image = torch.rand(2, 3, 4, 5, generator=generator)
    image = torch.nn.functional.interpolate(image, (24, 31), mode="bilinear").clamp(0, 1)
    logits = torch.randn(2, classes, 24, 31, generator=generator) * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1)
    seeds = torch.full((2, 24, 31), UNLABELED)
    seeds[:, 3, 4:9], seeds[:, 20, 4:19] = 1, 0
    kernels = (GaussianKernel(3.0, 10.0, 20.0), GaussianKernel(1.5, 2.0))
    affinity = DenseAffinity.from_image(image, kernels, symmetric=True)
    energy = replace(MeanField.default_energy, pairwise_weight=0.4)
    return Problem(energy, logits.softmax(1), seeds, affinity)


@pytest.mark.needs_numba
@pytest.mark.parametrize("rtol", [0.0, 1e-4])
@pytest.mark.parametrize("classes", [2, 21])
def test_the_same_with_numba_and_without(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, classes: int, rtol: float
) -> None:
    problem = case(generator, classes)
    found = solve(problem, MeanField(rtol=rtol), max_steps=14)
    with monkeypatch.context() as patch:
        patch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
        plain = solve(problem, MeanField(rtol=rtol), max_steps=14)
    if rtol > 0:
        assert torch.equal(found.steps, plain.steps)
    torch.testing.assert_close(found.start_energy, plain.start_energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.energy, plain.energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.labels, plain.labels, rtol=0, atol=2e-4)
    assert torch.equal(found.labels.argmax(1), plain.labels.argmax(1))


@pytest.mark.usefixtures("either_path")
def test_pixels_that_still_move_are_visited_and_now_and_then_all(generator: torch.Generator) -> None:
    problem = case(generator, 21)
    field, still = TorchMeanField(problem, problem.feasible(problem.probs), 0.0), []
    for _ in range(5):
        before = field.labels()
        field.sweep()
        still.append(float((field.labels() == before).all(1)[problem.free[:, 0]].float().mean()))
        torch.testing.assert_close(field.energies, problem.value(field.labels()), rtol=1e-6, atol=0)
    assert still[2] > still[1] + 0.05
    assert still[4] < still[3]


@pytest.mark.usefixtures("either_path")
def test_an_image_whose_energy_would_rise_keeps_its_labels(generator: torch.Generator) -> None:
    problem = case(generator, 5)
    field = TorchMeanField(problem, problem.feasible(problem.probs), 0.0)
    field.energies = field.energies - torch.tensor([0.0, 1e9])
    before = field.labels()
    assert field.sweep().tolist() == [False, True]
    assert field.swept.tolist() == [True, False]
    assert torch.equal(field.labels()[1], before[1])
    assert not torch.equal(field.labels()[0], before[0])


def test_double_precision_and_exact_filters_are_not_swept(generator: torch.Generator) -> None:
    problem = case(generator, 2)
    assert is_swept(problem)
    image = torch.rand(2, 3, 24, 31, generator=generator)
    narrow = DenseAffinity.from_image(image, (GaussianKernel(1.0, 0.6),))
    assert not is_swept(replace(problem, affinity=narrow))
    double = DenseAffinity.from_image(image.double())
    assert not is_swept(replace(problem, affinity=double))
    sure = replace(problem.energy, coupling_weight=1e28, entropy_weight=1e-3)
    assert not is_swept(replace(problem, energy=sure))
    assert solve(problem, MeanField()).results == (Result.CONVERGED,) * 2
