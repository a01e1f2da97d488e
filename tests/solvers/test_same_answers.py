"""The same answers for any number of threads, with Numba and without."""

import pytest
import torch
from support.problems import make_case

from selflabel.affinity import COARSE, FINE, Affinity, DenseAffinity, FilterBuilder, GaussianKernel
from selflabel.driver import Solution, solve
from selflabel.problem import Problem
from selflabel.solvers import SOLVERS, MeanField

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
    """Few steps: the ends of two descents that differ by rounding may differ by more."""
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
