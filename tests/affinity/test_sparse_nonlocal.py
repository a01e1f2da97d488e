"""Sparse non-local affinities: in expectation the dense one of the same kernel."""

from dataclasses import replace
from math import exp

import pytest
import torch
from support.problems import explicit_potts, random_labels
from torch import Tensor

from selflabel import Energy, Problem, solve
from selflabel.affinity import SparseNonlocal, SparseNonlocalAffinity
from selflabel.driver import Solver
from selflabel.labeling.presets import default_labeler
from selflabel.solvers import GradientDescent, GraphCut, MeanField
from selflabel.terms import BILINEAR, COLLISION, COLLISION_DIVERGENCE, potts

SIZE = (9, 11)


def image() -> Tensor:
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def made(random_state: int = 0, samples: int = 6) -> SparseNonlocalAffinity:
    return SparseNonlocalAffinity.from_image(
        image(), 90.0, 2.5, samples, random_state=random_state, symmetric=False
    )


def dense() -> Tensor:
    """The Gaussian kernel of all pairs within three bandwidths along each axis, pair by pair."""
    pixels = [(y, x) for y in range(SIZE[0]) for x in range(SIZE[1])]
    colors = 255 * image()[0].flatten(1)
    matrix = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    for i, (y, x) in enumerate(pixels):
        for j, (v, u) in enumerate(pixels):
            if i != j and max(abs(y - v), abs(x - u)) <= 8:
                color = float((colors[:, i] - colors[:, j]).square().sum())
                matrix[i, j] = exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * 2.5**2) - color / (2 * 90.0**2))
    return matrix


@pytest.mark.quick
def test_near_weights_are_those_of_the_kernel() -> None:
    matrix, expected = made().as_matrix()[0], dense()
    width = SIZE[1]
    for first, second in ((0, 1), (0, width), (37, 38), (37, 37 + width)):
        assert float(matrix[first, second]) == pytest.approx(float(expected[first, second]))
    assert float(matrix.diagonal().abs().max()) == 0
    assert torch.equal(matrix, matrix.T)


def test_all_pairs_are_there_in_expectation() -> None:
    """The mean over draws has the mass of the dense kernel, and its entries but for the error of as many draws."""
    mean = torch.stack([made(number, samples=12).as_matrix()[0] for number in range(300)]).mean(0)
    expected = dense()
    assert float(mean.sum() / expected.sum()) == pytest.approx(1, rel=0.01)
    mass = 3.14 * 2.5**2  # of half the kernel of place; the sum of its squares is half of that
    error = float((mean - expected).norm() / expected.norm())
    assert error < 1.3 * (2 * mass / (12 * 300)) ** 0.5


@pytest.mark.quick
def test_draws_are_the_states() -> None:
    assert torch.equal(made(1).as_matrix(), made(1).as_matrix())
    assert not torch.equal(made(1).as_matrix(), made(2).as_matrix())
    assert len(set(made(1).offsets)) == len(made(1).offsets) <= 2 + 6


@pytest.mark.quick
def test_the_potts_sum_is_that_of_the_matrix() -> None:
    labels = random_labels(torch.rand(1, 3, *SIZE, dtype=torch.float64))
    torch.testing.assert_close(potts(labels, made(), BILINEAR), explicit_potts(labels, made(), "bilinear"))


@pytest.mark.quick
def test_graph_cut_and_gradient_descent_take_it() -> None:
    """An object of one color whose pixels are apart is labeled by a few seeds: far pairs join them."""
    pixels = torch.full((1, 3, 24, 24), 0.9)
    truth = torch.zeros(1, 24, 24, dtype=torch.int64)
    truth[:, 2::6, 2::6] = truth[:, 3::6, 2::6] = 1
    pixels = torch.where(truth[:, None] == 1, 0.2, pixels)
    seeds = torch.full_like(truth, 255)
    seeds[:, 14:16, 14], seeds[:, 0, :], seeds[:, 11, ::2] = 1, 0, 0
    affinity = SparseNonlocalAffinity.from_image(
        pixels, sigma=15.0, sigma_xy=8.0, samples=40, symmetric=False
    )
    for solver, energy in (
        (GraphCut(), Energy(coupling_weight=0.01, pairwise_weight=1.0)),
        (GradientDescent(), Energy(COLLISION, COLLISION_DIVERGENCE, coupling_weight=0.01)),
    ):
        problem = Problem.from_seeds(energy, seeds, 2, affinity)
        found = solve(problem, solver).labels.argmax(1)
        assert float((found == truth).double().mean()) > 0.98
        assert float((found[truth == 1] == 1).double().mean()) > 0.9


@pytest.mark.quick
def test_symmetric_normalization_is_that_of_the_matrix() -> None:
    plain = made().as_matrix()[0]
    scale = (1 + plain.sum(1)).rsqrt()
    normalized = SparseNonlocal(90.0, 2.5, 6)(image())
    torch.testing.assert_close(normalized.as_matrix()[0], scale[:, None] * plain * scale)
    by_default = SparseNonlocalAffinity.from_image(image(), 90.0, 2.5, 6)
    assert torch.equal(by_default.as_matrix(), normalized.as_matrix())
    assert float(normalized.degree().mean()) < 1 < float(plain.sum(1).mean())


@pytest.mark.quick
@pytest.mark.parametrize("solver", [GraphCut(), GradientDescent(), MeanField()])
def test_presets_label_with_it(solver: Solver) -> None:
    """Its pairs are as strong as those that the weights of the presets are for."""
    truth = torch.zeros(1, 40, 40, dtype=torch.int64)
    truth[:, 8:30, 12:34] = 1
    colors = torch.where(truth[:, None] == 1, 0.4, 0.5) + 0.02 * torch.randn(
        1, 3, 40, 40, generator=torch.Generator().manual_seed(1)
    )
    seeds = torch.full_like(truth, 255)
    seeds[:, 20, 16:24], seeds[:, 3, 4:30] = 1, 0
    labeler = replace(default_labeler(solver), affinity=SparseNonlocal(sigma_xy=10.0))
    found = labeler.label(colors[0], seeds[0], 2).labels.argmax(1)
    assert float((found == truth).double().mean()) > 0.97


@pytest.mark.quick
def test_volumes_and_lines() -> None:
    volume = SparseNonlocal(samples=5, neighbors=8)(torch.full((1, 1, 4, 5, 6), 0.5))
    assert volume.shape == (1, 4, 5, 6)
    line = SparseNonlocal(samples=5)(torch.full((1, 3, 1, 7), 0.5))
    assert float(line.degree().min()) > 0
    pixel = SparseNonlocal(samples=5)(torch.rand(1, 3, 1, 1))
    assert float(pixel.degree().max()) == 0
    assert len(SparseNonlocalAffinity.from_image(torch.rand(1, 3, 6, 6), sigma_xy=0.01).offsets) == 2


@pytest.mark.quick
def test_settings_out_of_range(unchecked: None) -> None:
    for change, message in (
        ({"sigma": 0.0}, "expected a finite sigma > 0"),
        ({"sigma_xy": -1.0}, "expected a finite sigma_xy > 0"),
        ({"samples": 0}, "expected samples as a whole number >= 1"),
        ({"random_state": -1}, "expected random_state as a whole number >= 0"),
        ({"neighbors": 5}, "neighbors"),
    ):
        with pytest.raises(ValueError, match=message):
            SparseNonlocal(**change)
    with pytest.raises(ValueError, match="expected samples as a whole number >= 1"):
        SparseNonlocalAffinity.from_image(image(), samples=0)
    with pytest.raises(ValueError, match="expected symmetric as True or False"):
        SparseNonlocalAffinity.from_image(image(), symmetric=1)  # type: ignore[arg-type]
