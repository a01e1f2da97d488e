"""Compiled primal-dual steps: those in torch, for any number of threads."""

from dataclasses import replace

import pytest
import torch
from support.problems import make_case

from selflabel import Energy
from selflabel.numerics.descent.primal_dual import TorchPrimalDual
from selflabel.problem import Problem
from selflabel.terms import ISOTROPIC_VARIATION, STANDARD, TOTAL_VARIATION, Variation

pytestmark = [pytest.mark.quick, pytest.mark.needs_numba]

KINDS = [
    ("grid4", TOTAL_VARIATION, None),
    ("grid8", TOTAL_VARIATION, None),
    ("window-3d", TOTAL_VARIATION, None),
    ("grid4", ISOTROPIC_VARIATION, None),
    ("grid4", ISOTROPIC_VARIATION, (9, 1)),
    ("grid8", TOTAL_VARIATION, (1, 7)),
]


def make(kind: str, variation: Variation, size: tuple[int, ...] | None, dtype: torch.dtype) -> Problem:
    """The second image must not have the first class."""
    case = make_case(Energy(STANDARD, variation, pairwise_weight=1.7), kind, size=size).to(dtype)
    seeds = case.seeds.clone()
    seeds[1][seeds[1] == 0] = 255
    classes = torch.tensor([[True, True, True], [False, True, True]])
    return replace(case, seeds=seeds, classes=classes).problem


@pytest.mark.parametrize(("kind", "variation", "size"), KINDS)
def test_steps_are_those_in_torch(kind: str, variation: Variation, size: tuple[int, ...] | None) -> None:
    from selflabel.numerics.descent.compiled_primal_dual import CompiledPrimalDual

    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        problem = make(kind, variation, size, dtype)
        start = problem.feasible(problem.probs)
        compiled, plain = CompiledPrimalDual(problem, start), TorchPrimalDual(problem, start)
        for _ in range(7):
            compiled.step()
            plain.step()
            torch.testing.assert_close(compiled.labels, plain.labels, rtol=0, atol=tolerance)
        torch.testing.assert_close(compiled.bound(), plain.bound(), rtol=tolerance, atol=tolerance)
        assert compiled.labels.dtype == dtype
        assert float(compiled.labels[1, 0].max()) == 0


def test_threads_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    from selflabel.numerics.descent import compiled_primal_dual as module

    found = []
    for threads in (1, 3):
        monkeypatch.setattr(module, "num_threads", lambda count=threads: count)
        problem = make("grid8", TOTAL_VARIATION, None, torch.float32)
        search = module.CompiledPrimalDual(problem, problem.feasible(problem.probs))
        for _ in range(5):
            search.step()
        found.append((search.labels.clone(), search.bound()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
