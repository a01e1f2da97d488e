"""The same answers for any number of threads, with Numba and without."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.problems import make_case

from selflabel.affinity import (
    COARSE,
    FINE,
    Affinity,
    DenseAffinity,
    FilterBuilder,
    GaussianKernel,
    GridAffinity,
)
from selflabel.annotators import MixtureAnnotator
from selflabel.driver import Solution, solve
from selflabel.energy import Energy
from selflabel.files.images import read_image
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import SOLVERS, GradientDescent, MeanField
from selflabel.terms import BILINEAR, COLLISION, COLLISION_DIVERGENCE, LOG_QUADRATIC, Relaxation

SIZE = (110, 150)
NAMES = pytest.mark.parametrize("name", SOLVERS)


def answer(name: str, *, max_steps: int = 20) -> Solution:
    """Of the solver's default energy on its default affinity, two images of five classes."""
    solver = SOLVERS[name]
    case = make_case(solver.default_energy, "grid4", size=SIZE, classes=5, seeded=0.01)
    affinity: Affinity = solver.default_affinity(case.image)
    return solve(Problem(case.energy, case.probs, case.seeds, affinity), solver(), max_steps=max_steps)


@NAMES
@pytest.mark.usefixtures("either_path")
def test_any_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also of images that are summed in several tables."""
    monkeypatch.setattr("selflabel.kernels.threads.TABLE_PIXELS", 4096)
    try:
        found = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(answer(name))
    finally:
        torch.set_num_threads(1)
    first = found[0]
    for other in found[1:]:
        assert torch.equal(other.labels, first.labels)
        assert torch.equal(other.energy, first.energy)
        assert other.results == first.results


@NAMES
@pytest.mark.needs_numba
def test_with_numba_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After few steps."""
    compiled = answer(name, max_steps=5)
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    plain = answer(name, max_steps=5)
    torch.testing.assert_close(plain.energy, compiled.energy, rtol=1e-6, atol=0)
    assert torch.equal(plain.labels.argmax(1), compiled.labels.argmax(1))


@pytest.mark.parametrize("filtering", [FINE, COARSE])
@pytest.mark.needs_numba
def test_kernels_of_place_with_numba_and_without(
    filtering: FilterBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean field with kernels of color and of place."""
    case = make_case(MeanField.default_energy, "grid4", size=SIZE, classes=5, seeded=0.01)
    kernels = (GaussianKernel(5.0, 30.0, 15.0), GaussianKernel(2.0, 3.0))

    def found() -> Solution:
        affinity = DenseAffinity.from_image(case.image, kernels, filtering=filtering, symmetric=True)
        return solve(Problem(case.energy, case.probs, case.seeds, affinity), MeanField())

    compiled = found()
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    plain = found()
    assert torch.equal(plain.labels.argmax(1), compiled.labels.argmax(1))
    torch.testing.assert_close(plain.energy, compiled.energy, rtol=1e-6, atol=0)
    assert torch.equal(plain.steps, compiled.steps)


EXACT = ("gradient-descent", "random-walker")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.needs_numba
def test_at_convergence_with_numba_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = answer(name, max_steps=200)
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    assert_same(answer(name, max_steps=200), compiled)


def assert_same(found: Solution, expected: Solution) -> None:
    assert torch.equal(found.labels.argmax(1), expected.labels.argmax(1))
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-6, atol=0)
    assert found.results == expected.results
    assert torch.equal(found.steps, expected.steps)


@pytest.mark.parametrize("relaxation", [BILINEAR, LOG_QUADRATIC, COLLISION_DIVERGENCE], ids=lambda r: r.name)
@pytest.mark.parametrize("pack", ["acdc", "camvid", "bsds"])
@pytest.mark.needs_numba
def test_descent_on_photographs(
    data: Path, monkeypatch: pytest.MonkeyPatch, pack: str, relaxation: Relaxation
) -> None:
    """At convergence. Bi-linear and log-quadratic have minima close by, in which a step of other rounding ends."""
    stem = (data / pack / "train.txt").read_text().split()[7]
    image = read_image(next((data / pack / "images").glob(f"{stem}.*")))[60:200, 60:200]
    seeds = np.asarray(Image.open(data / pack / "scribbles" / f"{stem}.png"))[60:200, 60:200]
    present, contiguous = np.unique(seeds[seeds != UNLABELED], return_inverse=True)
    index = np.full(seeds.shape, UNLABELED, np.int64)
    index[seeds != UNLABELED] = contiguous
    photograph, scribbles = torch.from_numpy(image).movedim(-1, 0)[None], torch.from_numpy(index)[None]
    probs = MixtureAnnotator().predict(photograph, scribbles, len(present))
    energy = Energy(COLLISION, relaxation, coupling_weight=0.3, pairwise_weight=6.0)
    problem = Problem(energy, probs, scribbles, GridAffinity.from_image(photograph, 9.0))
    found = [solve(problem, GradientDescent())]
    try:
        for threads in (2, 4):
            torch.set_num_threads(threads)
            found.append(solve(problem, GradientDescent()))
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    found.append(solve(problem, GradientDescent()))
    for other in found[1:]:
        assert torch.equal(other.labels, found[0].labels)
        assert_same(other, found[0])


@pytest.mark.parametrize("relaxation", [BILINEAR, COLLISION_DIVERGENCE], ids=lambda r: r.name)
@pytest.mark.needs_numba
def test_descent_with_huge_weights(monkeypatch: pytest.MonkeyPatch, relaxation: Relaxation) -> None:
    """A hundred steps along narrow valleys."""
    energy = Energy(COLLISION, relaxation, coupling_weight=1.0, pairwise_weight=1e6)
    problem = make_case(energy, "grid4", classes=5, size=(60, 70), seeded=0.02).problem
    compiled = solve(problem, GradientDescent())
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    assert_same(solve(problem, GradientDescent()), compiled)
