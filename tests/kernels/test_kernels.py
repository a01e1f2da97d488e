"""Compiled inner loops against plain numpy, and what is made of them against the paths in torch."""

import math

import numba
import numpy as np
import pytest
import torch
from support.problems import make_case
from torch import Tensor

from selflabel import DenseAffinity, Energy, GaussianKernel, Solver, solve
from selflabel.affinity import Lattice
from selflabel.affinity.filters.lattice_cpu import CompiledLattice
from selflabel.affinity.filters.lattice_torch import TorchLattice
from selflabel.kernels import memory
from selflabel.kernels.backend import has_numba
from selflabel.kernels.cpu.compile import kernel
from selflabel.kernels.cpu.elementary import log_
from selflabel.kernels.cpu.hashing import numbered
from selflabel.kernels.cpu.layout import channels_first, channels_last, empty_channels_last, rows
from selflabel.kernels.cpu.mean_field import LOG2_E
from selflabel.kernels.cpu.rows import Incidence, add_row, counted, padded, sum_rows, sum_taps
from selflabel.kernels.cpu.vectors import LANES, exp2, full, greater, largest, load, number, store, total
from selflabel.kernels.memory import Array, FreeBlocks, scratch, working_array
from selflabel.kernels.threads import num_threads, parallel_for, run_parallel, split_range, split_threads
from selflabel.solvers import GradientDescent, MeanField
from selflabel.terms import BILINEAR, STANDARD

THREADS = pytest.mark.parametrize("threads", [1, 2, 3])
DENSE = Energy(STANDARD, BILINEAR, 1.0, 0.4, entropy_weight=1.0)


# --- loops --------------------------------------------------------------------------------------------------


@kernel
def inverse_roots(x):
    for i in range(x.size):
        x[i] = np.float32(1) / np.float32(math.sqrt(x[i]))


def test_no_processor_estimates() -> None:
    """Estimates of reciprocals (x86: rsqrt, rcp) differ from one make of processor to the next."""
    ones = np.ones(100, np.float32)
    inverse_roots(ones)
    assert (ones == 1).all()
    options = {name: inverse_roots.targetoptions[name] for name in ("fastmath", "error_model")}
    anew = numba.njit(**options)(inverse_roots.py_func)  # of cached code Numba shows nothing
    anew(ones)
    machine_code = "".join(anew.inspect_asm().values())
    assert "sqrt" in machine_code
    assert not any(estimate in machine_code for estimate in ("rsqrt", "rcp", "frsqrte", "frecpe"))


@kernel
def sums(x, column, stride, incidence, first, scale, to, start, width):
    sum_rows(x, column, stride, incidence, first, scale, to, start, width)


@kernel
def add(x, start, width, stride, incidence, first, to, column):
    add_row(x, start, width, stride, incidence, first, to, column)


@kernel
def tapped(x, index, first, taps, to, start, width):
    sum_taps(x, index, first, taps, to, start, width)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize(("width", "column"), [(1, 0), (1, 3), (8, 0), (8, 16), (16, 8), (24, 0), (40, 8)])
def test_rows(
    rng: np.random.Generator, width: int, column: int, kind: type[np.integer], dtype: type[np.floating]
) -> None:
    """Parts of rows of 48 numbers, against slices of numpy."""
    x, to = rng.normal(size=(9, 48)).astype(dtype), rng.normal(size=(5, 48)).astype(dtype)
    index, weight = rng.integers(0, 5, 7).astype(kind), rng.normal(size=7).astype(dtype)
    part = slice(column, column + width)
    expected = to.copy()
    expected[3, 2 : 2 + width] += dtype(0.7) * (weight[2:6, None] * x[index[2:6], part]).sum(0)
    sums(x, column, 48, Incidence(index, weight, (0,) * 4), 2, dtype(0.7), to, 3 * 48 + 2, width)
    np.testing.assert_allclose(to, expected, rtol=1e-5, atol=1e-6)
    expected = to.copy()
    for e in range(1, 7):  # some rows twice
        expected[index[e], part] += weight[e] * x[8, 5 : 5 + width]
    add(x, 8 * 48 + 5, width, 48, Incidence(index, weight, (0,) * 6), 1, to, column)
    np.testing.assert_allclose(to, expected, rtol=1e-5, atol=1e-6)
    whole, taps = x.reshape(-1)[: 9 * width].reshape(9, width), tuple(weight[:3])
    expected = to.copy()
    expected[3, 2 : 2 + width] = weight[:3] @ whole[index[2:5]]
    tapped(whole, index, 2, taps, to, 3 * 48 + 2, width)
    np.testing.assert_allclose(to, expected, rtol=1e-5, atol=1e-6)


@kernel
def through_vectors(x, y, to):
    """2 (x + y) x - y, the largest, sums and powers of two."""
    a, b = load(x, 3), load(y, 0)
    store(to, 0, full(x[0]) * (a + b) * a - b)
    store(to, 8, greater(a, b))
    store(to, 16, exp2(a))
    to[24], to[25], to[26] = largest(b), total(a), number(y, 7)


@pytest.mark.quick
def test_vectors(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=11).astype(np.float32) * 20, rng.normal(size=8).astype(np.float32)
    x[0], to, a = 2, np.zeros(27, np.float32), x[3:]
    through_vectors(x, y, to)
    np.testing.assert_allclose(to[:8], 2 * (a + y) * a - y, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(to[8:16], np.maximum(a, y))
    np.testing.assert_allclose(to[16:24], np.exp2(a.astype(np.float64)), rtol=2e-6)
    np.testing.assert_allclose(to[24:], [y.max(), a.sum(), y[7]], rtol=1e-5)


def test_rows_are_padded_to_vectors() -> None:
    assert [padded(k) for k in (1, 2, 8, 9, 21, 100)] == [1, 8, 8, 16, 24, 104]
    assert len(counted(np.empty((7, 3)))) == 3


@pytest.mark.quick
def test_keys_are_numbered(rng: np.random.Generator) -> None:
    """Many more than the table starts with, and some that are far apart."""
    keys = rng.integers(-(2**61), 2**61, 60_000)[rng.integers(0, 60_000, (50_000, 3))]
    numbers = np.full(keys.shape, -1, np.int32)
    distinct = numbered(keys, numbers, 100, len(keys))
    assert len(distinct) == len(np.unique(keys[100:]))
    np.testing.assert_array_equal(distinct[numbers[100:]], keys[100:])
    assert (numbers[:100] == -1).all()
    assert numbers[100, 0] == 0


@kernel
def exponentials(x, floor):
    for at in range(0, x.size, LANES):
        store(x, at, exp2(greater(load(x, at), full(floor)) * full(LOG2_E)))


@pytest.mark.quick
def test_exponentials_and_logarithms(rng: np.random.Generator) -> None:
    x = np.concatenate([-rng.uniform(0, 40, 1005), [0.0, -1e30, -0.0]]).astype(np.float32)
    found = x.copy()
    exponentials(found, np.float32(-30))
    np.testing.assert_allclose(found, np.exp(np.maximum(x, -30).astype(np.float64)), rtol=2e-6)
    x = np.concatenate([rng.uniform(0, 1, 1001), 10.0 ** rng.uniform(-12, 3, 1001), [0.0, 1.0]]).astype(
        np.float32
    )
    found = x.copy()
    log_(found, np.float32(1e-10))
    np.testing.assert_allclose(found, np.log(np.maximum(x.astype(np.float64), 1e-10)), rtol=1e-6, atol=2e-7)


# --- threads and memory -------------------------------------------------------------------------------------


@pytest.mark.quick
def test_parts_cover_the_range() -> None:
    for count, pieces in ((10, 3), (2, 4), (0, 2), (7, 1)):
        found = split_range(count, pieces)
        assert len(found) == pieces
        assert [i for a, b in found for i in range(a, b)] == list(range(count))


@pytest.mark.quick
@THREADS
def test_work_is_shared(several: int) -> None:
    assert num_threads() == several
    assert [i for part in parallel_for(10, several, lambda a, b: list(range(a, b))) for i in part] == list(
        range(10)
    )
    assert split_threads(8) == (1, several)
    assert split_threads(1) == ((1, 1) if several == 1 else (several, 1))


def test_errors_come_back_from_threads() -> None:
    with pytest.raises(ZeroDivisionError):
        run_parallel([lambda: 1, lambda: 1 // 0], 2)


def test_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FREE", FreeBlocks(10_000))
    with scratch((30, 40), np.float32) as one, scratch((30, 40), np.float32) as other:
        assert not np.shares_memory(one, other)
        first = one.__array_interface__["data"][0], other.__array_interface__["data"][0]
    assert memory.FREE.nbytes == 9600
    with scratch((30, 39), np.float64) as again:
        assert again.shape == (30, 39)
    with scratch((20, 40), np.float32) as again:
        assert again.__array_interface__["data"][0] in first
    with scratch((10_000,), np.uint8):
        pass
    assert memory.FREE.nbytes == 9600


def test_memory_is_kept_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that label have one thread each, and keep no more than the least."""
    kept = FreeBlocks(10_000, 4_000)
    for threads, limit in ((1, 10_000), (2, 10_000), (3, 12_000)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert kept.limit == limit
    kept.give(np.empty(11_000, np.uint8))
    assert kept.nbytes == 11_000


def test_memory_of_an_owner_is_free_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FREE", FreeBlocks(10_000))
    owner = torch.nn.Identity()
    array = working_array(owner, (30, 40), np.float32)
    with scratch((30, 40), np.float32) as other:
        assert not np.shares_memory(array, other)
    assert memory.FREE.nbytes == 4800
    first = array.__array_interface__["data"][0]
    del owner
    assert memory.FREE.nbytes == 9600
    taken = [memory.FREE.take(4800).__array_interface__["data"][0] for _ in range(2)]
    assert first in taken


class _FullOfNans(FreeBlocks):
    def take(self, size: int) -> Array:
        return np.full(size, 255, np.uint8)  # nan as float32, float64


@pytest.mark.parametrize("solver", [MeanField(), GradientDescent()], ids=lambda solver: solver.name)
def test_working_memory_may_hold_anything(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "lattice" if isinstance(solver, MeanField) else "grid4"
    clean = solve(make_case(solver.default_energy, kind).problem, solver)
    monkeypatch.setattr(memory, "FREE", _FullOfNans(0))
    dirty = solve(make_case(solver.default_energy, kind).problem, solver)
    assert torch.equal(clean.labels, dirty.labels)
    assert torch.equal(clean.energy, dirty.energy)


# --- memory layout ------------------------------------------------------------------------------------------


@THREADS
@pytest.mark.parametrize("shape", [(2, 5, 7, 70), (1, 3, 4, 5, 6), (1, 1, 3, 3)])
def test_layouts(several: int, shape: tuple[int, ...]) -> None:
    labels = torch.rand(shape)
    pixels = channels_last(labels)
    assert torch.equal(pixels, labels)
    assert pixels.movedim(1, -1).is_contiguous()
    assert channels_last(pixels) is pixels
    back = channels_first(pixels)
    assert torch.equal(back, labels)
    assert back.is_contiguous()
    assert rows(pixels).shape == (shape[0], math.prod(shape[2:]), shape[1])
    assert empty_channels_last(labels).shape == labels.shape
    odd = labels.transpose(2, 3)
    assert torch.equal(channels_last(odd), odd)
    assert torch.equal(channels_first(odd), odd)


# --- the lattice --------------------------------------------------------------------------------------------


def lattices(features: Tensor, variance: float, radius: int) -> tuple[CompiledLattice, TorchLattice]:
    compiled = Lattice(variance, radius).build(features)
    assert isinstance(compiled, CompiledLattice)
    return compiled, TorchLattice.build(features, variance, radius)


@THREADS
@pytest.mark.parametrize(("variance", "radius"), [(1.0, 2), (0.7, 1), (1.6, 4)])
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_compiled_lattice_is_the_other(
    several: int, generator: torch.Generator, d: int, variance: float, radius: int
) -> None:
    features = torch.randn(2, 500, d, generator=generator, dtype=torch.float64) * 3
    compiled, reference = lattices(features, variance, radius)
    assert compiled.vertices == reference.vertices
    for step, gather in enumerate(reference.blurs):
        found = 0
        for image in compiled.images:
            sources = len(image.neighbors[step - 1]) if step else image.vertices
            assert image.neighbors[step].max() <= sources
            found += int((image.neighbors[step] < sources).sum())
        assert found == gather.index.numel()
    for k in (1, 3, 8, 21):
        values = torch.randn(2, k, 500, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(compiled.apply(values), reference.apply(values), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(compiled.degree(), reference.degree(), rtol=1e-9, atol=1e-9)


@THREADS
def test_compiled_lattice_in_single_precision(several: int, generator: torch.Generator) -> None:
    features = torch.randn(1, 2000, 5, generator=generator) * 2
    compiled, reference = lattices(features, 1.0, 2)
    values = torch.rand(1, 4, 2000, generator=generator)
    found, expected = compiled.apply(values), reference.apply(values)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_adding_scales_on_both_sides(generator: torch.Generator) -> None:
    compiled, reference = lattices(torch.randn(2, 300, 3, generator=generator), 1.0, 2)
    values, scale = torch.rand(2, 4, 300, generator=generator), torch.rand(2, 1, 300, generator=generator)
    to = empty_channels_last(values).fill_(0.5)
    compiled.add(values, scale, -2.0, to)
    torch.testing.assert_close(to, 0.5 - 2 * scale * reference.apply(scale * values), rtol=1e-4, atol=1e-4)


def test_the_lattice_of_a_size_is_kept() -> None:
    image = torch.rand(2, 3, 20, 30)
    kernels = (GaussianKernel(1.0, 3.0, None),)
    one, other = (DenseAffinity.from_image(x, kernels) for x in (image, image[:1]))
    assert one.filters[0].filter is other.filters[0].filter
    assert DenseAffinity.from_image(image[:, :, :19], kernels).filters[0].filter is not one.filters[0].filter
    labels = torch.rand(2, 4, 20, 30).softmax(1)
    torch.testing.assert_close(one.apply(labels)[:1], other.apply(labels[:1]))


def test_kernels_are_there_for_the_tests() -> None:
    assert has_numba()
