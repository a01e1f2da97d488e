"""Scalar formulas of couplings and relaxations against `selflabel.terms`, and the kernels made for them."""

import copy
import runpy
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from selflabel.kernels.cpu.compile import kernel
from selflabel.kernels.cpu.descent import add_pairs
from selflabel.kernels.cpu.formulas import PairFormulas, ProductFormulas, specialized
from selflabel.numerics.descent import compiled_search
from selflabel.numerics.descent.compiled_search import couplings_of, pairs_of
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    RELAXATIONS,
    STANDARD,
    Coupling,
    Relaxation,
)

PAIR_FORMULAS = list(product(RELAXATIONS, PairFormulas._fields))
PRODUCT_FORMULAS = list(product((STANDARD, COLLISION), ProductFormulas._fields))


def name_of(x: object) -> str:
    return x if isinstance(x, str) else x.name  # type: ignore[attr-defined]


def assert_formula(kernel: Any, expected: Callable[..., Tensor], given: list[NDArray[np.float32]]) -> None:
    found = [kernel(*numbers) for numbers in zip(*given, strict=True)]
    tensors = expected(*(torch.from_numpy(x) for x in given))
    np.testing.assert_allclose(found, tensors.numpy(), rtol=2e-6, atol=1e-6)
    assert all(str(s.return_type) == "float32" for s in kernel.nopython_signatures)


@pytest.mark.parametrize(("relaxation", "field"), PAIR_FORMULAS, ids=name_of)
def test_formulas_of_pairs_are_those_of_terms(
    rng: np.random.Generator, relaxation: Relaxation, field: str
) -> None:
    """From orthogonal to equal distributions; a derivative that is None is zero."""
    norms = rng.uniform(0.05, 1, (2, 50)).astype(np.float32)
    cosine = np.concatenate([[0, 1e-20, 1], 10 ** rng.uniform(-16, 0, 22), rng.uniform(1e-3, 1, 25)])
    dots = (cosine * np.sqrt(norms.prod(0))).astype(np.float32)
    formula = getattr(relaxation, field) or (lambda dot, pp, qq: torch.zeros_like(dot))
    assert_formula(getattr(compiled_search.RELAXATIONS[relaxation], field), formula, [dots, *norms])


@pytest.mark.parametrize(("coupling", "field"), PRODUCT_FORMULAS, ids=name_of)
def test_formulas_of_products_are_those_of_terms(
    rng: np.random.Generator, coupling: Coupling, field: str
) -> None:
    """Products are logarithms, from -30 to 0, or probabilities."""
    probabilities = np.concatenate([[0, 1e-20, 1], 10 ** rng.uniform(-16, 0, 47)])
    dots = (30 * (probabilities - 1) if coupling == STANDARD else probabilities).astype(np.float32)
    assert_formula(
        getattr(compiled_search.COUPLINGS[coupling], field), getattr(coupling.product, field), [dots]
    )


def test_machine_code_goes_by_the_formulas() -> None:
    """Or formulas that are changed would run the code of yesterday from Numba's cache."""
    kernels = [pairs_of(r) for r in RELAXATIONS] + [couplings_of(c) for c in (STANDARD, COLLISION)]
    assert len({kernel.py_func.__qualname__ for kernel in kernels}) == len(kernels)
    assert pairs_of(copy.deepcopy(BILINEAR)) is pairs_of(BILINEAR)


FUNCTIONS = """
import numpy as np
from selflabel.kernels.cpu.compile import kernel
SCALE = np.float32({scale})
@kernel
def called(x):
    return {called}
@kernel
def formula(dot, pp, qq):
    return SCALE * called(dot)
"""


def test_names_change_with_all_that_a_formula_uses(tmp_path: Path) -> None:
    def name(scale: str, called: str) -> str:
        path = tmp_path / f"formulas_{scale}_{len(called)}.py"
        path.write_text(FUNCTIONS.format(scale=scale, called=called))
        formula = runpy.run_path(str(path))["formula"]
        return str(specialized(add_pairs, PairFormulas(formula, formula, formula)).py_func.__qualname__)

    assert name("2", "x") == name("2.0", "x")
    assert len({name("2", "x"), name("3", "x"), name("2", "x * x")}) == 3


def test_machine_code_survives_the_process() -> None:
    """Numba finds the code of a specialized kernel on disk again."""
    program = (
        "import torch\n"
        "from selflabel import Energy, GridAffinity, Problem\n"
        "from selflabel.numerics.descent.compiled_search import CompiledSearch, pairs_of\n"
        "from selflabel.terms import BILINEAR, STANDARD\n"
        "affinity = GridAffinity.from_image(torch.rand(1, 3, 9, 8), 30.0)\n"
        "probs = torch.full((1, 2, 9, 8), 0.5)\n"
        "problem = Problem(Energy(STANDARD, BILINEAR), probs, torch.full((1, 9, 8), 255), affinity)\n"
        "zero = torch.zeros(1, dtype=torch.float64)\n"
        "CompiledSearch(problem, probs).evaluate(zero, zero > 0)\n"
        "print(sum(pairs_of(BILINEAR).stats.cache_hits.values()))\n"
    )
    hits = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert int(hits[1]) == 1


def test_divisions_by_zero_are_infinite() -> None:
    @kernel
    def inverse(x):
        return np.float32(1) / x

    assert inverse(np.float32(0)) == np.inf
