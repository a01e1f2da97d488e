"""Mean field by kernels in Triton, against the guarded steps in torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from selflabel import DenseAffinity, Energy, GaussianKernel, GridAffinity, Problem, Solution, solve
from selflabel.affinity import FINE, Exact, FilterBuilder
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.labels import UNLABELED
from selflabel.numerics.descent import mean_field_gpu
from selflabel.numerics.descent.mean_field_gpu import supports
from selflabel.numerics.descent.mean_field_torch import is_swept
from selflabel.solvers import MeanField
from selflabel.terms import BILINEAR, STANDARD

pytestmark = pytest.mark.needs_triton

SIZE = (5, 7)
EXACT = Exact()


@contextmanager
def mean_field_by(kernels: Backend) -> Iterator[None]:
    with patch("selflabel.solvers.mean_field.backend", lambda routine, device, dtype: kernels):
        yield


def problem(
    classes: int,
    generator: torch.Generator,
    device: torch.device,
    *,
    weight: float = 0.2,
    seeded: bool = True,
    allowed: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    filtering: FilterBuilder = EXACT,
) -> Problem:
    image = torch.rand(2, 1, *SIZE, generator=generator).to(device, dtype)
    logits = 2 * torch.randn(2, classes, *SIZE, generator=generator).to(device, dtype)
    seeds = torch.full((2, *SIZE), UNLABELED, device=device)
    if seeded:
        seeds[0, 1, 1:4], seeds[1, 4] = 0, classes - 1
    kernels = (GaussianKernel(1.0, 3.0, 80.0), GaussianKernel(0.5, 2.0, None))
    affinity = DenseAffinity.from_image(image, kernels, filtering=filtering)
    energy = Energy(STANDARD, BILINEAR, coupling_weight=0.8, pairwise_weight=weight, entropy_weight=1.3)
    return Problem.from_logits(energy, logits, seeds, affinity, allowed)


@pytest.mark.parametrize(("rtol", "scratch"), [(1e-7, mean_field_gpu.SCRATCH), (1e-3, 0)])
def test_sweeps_as_in_torch(
    rtol: float,
    scratch: int,
    generator: torch.Generator,
    kernel_device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On lattices steps visit the pixels that still move. Lattices in torch, and by kernels in little memory."""
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    monkeypatch.setattr(mean_field_gpu, "SCRATCH", scratch)
    if scratch == 0:
        monkeypatch.setattr("selflabel.affinity.filters.lattice.backend", lambda *_: Backend.GPU)
    given = problem(5, generator, kernel_device, filtering=FINE, weight=0.15)
    assert is_swept(given)
    steps = 9 if scratch else 5  # half a minute otherwise
    found, expected = (solved(given, each, steps, rtol=rtol) for each in (Backend.GPU, Backend.TORCH))
    torch.testing.assert_close(found.labels, expected.labels, rtol=1e-4, atol=3e-5)
    assert found.trace is not None
    assert expected.trace is not None
    torch.testing.assert_close(found.trace, expected.trace, rtol=1e-6, atol=1e-5)
    assert torch.equal(found.steps, expected.steps)


def test_memory_for_tables_is_limited(
    generator: torch.Generator, kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a noisy image, whose lattice has several vertices a pixel: some classes at once, and never less than one."""
    monkeypatch.setattr("selflabel.affinity.filters.lattice.backend", lambda *_: Backend.GPU)
    given = problem(21, generator, kernel_device, filtering=FINE)
    assert isinstance(given.affinity, DenseAffinity)
    filters, labels = given.affinity.filters, given.probs.flatten(2)
    needed = [max(scaled.scratch(classes) for scaled in filters) for classes in (1, 8, 16, 21)]
    limits = (0.0, 1.0, needed[1] / labels.numel(), needed[2] / labels.numel() + 0.1, 1e9)
    found = []
    for limit in limits:
        monkeypatch.setattr(mean_field_gpu, "SCRATCH", limit)
        found.append(mean_field_gpu._scratch(filters, labels).numel())
    assert found == [needed[0], needed[0], needed[1], needed[2], needed[3]]
    assert needed[1] > labels.numel()


def test_a_sweep_that_is_refused_is_followed_by_a_step_of_all_pixels(
    generator: torch.Generator, kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
    given = problem(3, generator, kernel_device, seeded=False, weight=0.5)
    assert isinstance(given.affinity, DenseAffinity)
    scale = torch.tensor([1.0, 0.05], device=kernel_device).view(2, 1, 1).expand(2, 1, SIZE[0] * SIZE[1])
    for filtered in given.affinity.filters:
        object.__setattr__(filtered, "filter", Negative())
        object.__setattr__(filtered, "scale", scale)
    assert is_swept(given)
    # in torch that step is taken at once
    found, expected = (solved(given, *each) for each in ((Backend.GPU, 13), (Backend.TORCH, 12)))
    assert found.trace is not None
    assert expected.trace is not None
    refused = int((found.trace[:, 0].diff() == 0).nonzero()[0])
    torch.testing.assert_close(
        found.trace[: refused + 1], expected.trace[: refused + 1], rtol=1e-6, atol=1e-5
    )
    torch.testing.assert_close(found.energy[:1], expected.energy[:1], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.labels[:1], expected.labels[:1], rtol=1e-4, atol=3e-5)


def solved(given: Problem, kernels: Backend, max_steps: int = 200, *, rtol: float = 1e-7) -> Solution:
    with mean_field_by(kernels):
        return solve(given, MeanField(rtol=rtol), trace=True, max_steps=max_steps)


def check(given: Problem, max_steps: int = 200) -> Solution:
    found, expected = (solved(given, kernels, max_steps) for kernels in (Backend.GPU, Backend.TORCH))
    torch.testing.assert_close(found.labels, expected.labels, rtol=1e-4, atol=3e-5)
    torch.testing.assert_close(found.start_energy, expected.start_energy, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.energy, given.value(found.labels), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.labels, given.feasible(found.labels))
    assert found.trace is not None
    assert bool((found.trace.diff(dim=0) <= 1e-6 * found.trace[1:].abs()).all())
    return found


@pytest.mark.parametrize("classes", [1, 2, 21, 150])
def test_steps_as_in_torch(classes: int, generator: torch.Generator, kernel_device: torch.device) -> None:
    check(problem(classes, generator, kernel_device), max_steps=4)


def test_converges(generator: torch.Generator, kernel_device: torch.device) -> None:
    found = check(problem(3, generator, kernel_device, seeded=False, weight=0.05))
    assert int(found.steps.max()) < 100


def test_a_weight_of_zero_and_excluded_classes(
    generator: torch.Generator, kernel_device: torch.device
) -> None:
    allowed = torch.tensor([[True, False, True], [True, True, True]], device=kernel_device)
    found = check(problem(3, generator, kernel_device, allowed=allowed), max_steps=3)
    assert float(found.labels[0, 1].sum()) == 0
    check(problem(3, generator, kernel_device, weight=0.0), max_steps=3)


class Negative:
    """A filter that is no positive semidefinite matrix: full steps raise the energy."""

    def apply(self, values: Tensor) -> Tensor:
        return 3 * values - values.sum(2, keepdim=True)

    def degree(self) -> Tensor:
        raise AssertionError

    vertices = 1  # as if it were a lattice


def test_steps_are_halved_where_the_energy_would_rise(
    generator: torch.Generator, kernel_device: torch.device
) -> None:
    """In one image of two, whose labels stay until a step is short enough."""
    given = problem(3, generator, kernel_device, seeded=False, weight=0.5)
    assert isinstance(given.affinity, DenseAffinity)
    scale = torch.tensor([1.0, 0.05], device=kernel_device).view(2, 1, 1).expand(2, 1, SIZE[0] * SIZE[1])
    object.__setattr__(given.affinity.filters[0], "filter", Negative())
    object.__setattr__(given.affinity.filters[0], "scale", scale)
    found = check(given, max_steps=12)
    assert found.trace is not None
    repeated = (found.trace.diff(dim=0) == 0).any(0).tolist()
    assert repeated == [True, False]


def test_what_does_not_fit_runs_in_torch(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    given = problem(3, generator, cpu)
    assert supports(given)
    assert not supports(problem(3, generator, cpu, dtype=torch.float64))
    grid = GridAffinity.from_image(torch.rand(2, 1, *SIZE, generator=generator), 9.0)
    assert not supports(Problem(given.energy, given.probs, given.seeds, grid))
    assert backend(Routine.MEAN_FIELD, cuda, torch.float32) is Backend.GPU
    monkeypatch.setattr("selflabel.kernels.backend.has_triton", lambda: False)
    assert backend(Routine.MEAN_FIELD, cuda, torch.float32) is Backend.TORCH
