"""The permutohedral lattice by kernels in Triton, against the one in torch."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from selflabel import DenseAffinity, GaussianKernel
from selflabel.affinity.filters import lattice_gpu
from selflabel.affinity.filters.lattice import Lattice
from selflabel.affinity.filters.lattice_gpu import TritonLattice
from selflabel.affinity.filters.lattice_torch import TorchLattice, blur, spread
from selflabel.affinity.filters.protocol import Addition
from selflabel.affinity.filters.split import SplitFilter
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kernels.gpu import lattice as kernels
from selflabel.kernels.gpu import launch, simplices, vertices

pytestmark = pytest.mark.needs_triton


@pytest.fixture(autouse=True)
def few_programs(kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time is that of programs, not of pixels."""
    if kernel_device.type == "cpu":
        for module in (simplices, vertices):
            monkeypatch.setattr(module, "BLOCK", 1 << 14)
        monkeypatch.setattr(launch, "TILE", 8192)


def features(batch: int, pixels: int, d: int, reach: float, generator: torch.Generator) -> Tensor:
    return reach * torch.rand(batch, pixels, d, generator=generator)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double().cpu() - expected).norm() / expected.norm())


CASES = {
    "line": (2, 90, 1, 9.0, 1.3, 2),
    "place": (1, 70, 2, 5.0, 1.3, 2),
    "volume": (1, 40, 3, 3.0, 0.8, 1),
    "color": (2, 5, 5, 1.0, 0.8, 1),
    "six": (1, 3, 6, 1.0, 0.8, 1),
    "fine": (1, 12, 2, 2.0, 3.0, 4),
    "flat": (1, 300, 2, 0.0, 1.3, 2),
    "pixel": (1, 1, 3, 1.0, 1.3, 2),
}
"""Images, pixels, dimensions, reach of the features, variance and radius."""


@pytest.mark.parametrize("name", CASES)
def test_filters_as_in_torch(name: str, generator: torch.Generator, kernel_device: torch.device) -> None:
    batch, pixels, d, reach, variance, radius = CASES[name]
    given = features(batch, pixels, d, reach, generator)
    expected = TorchLattice.build(given.double(), variance, radius)
    found = TritonLattice.build(given.to(kernel_device), variance, radius)
    assert found.vertices == expected.vertices
    x = torch.randn(batch, 3, pixels, generator=generator)
    wanted = expected.apply(x.double())
    assert relative(found.apply(x.to(kernel_device)), wanted) < 2e-6
    assert relative(found.degree(), expected.degree()) < 2e-6
    assert found.degree() is found.degree()


def test_numbers_of_columns(generator: torch.Generator, kernel_device: torch.device) -> None:
    given = features(2, 37, 2, 4.0, generator)
    exact = TorchLattice.build(given.double(), 1.3, 2)
    lattice = TritonLattice.build(given.to(kernel_device), 1.3, 2)
    for classes in (1, 2, 4, 5, 21, 150):
        x = torch.randn(2, classes, 37, generator=generator)
        assert relative(lattice.apply(x.to(kernel_device)), exact.apply(x.double())) < 2e-6, classes


@pytest.mark.parametrize("images", [1, 2])
def test_scales_and_adds(images: int, generator: torch.Generator, kernel_device: torch.device) -> None:
    """With a scale for each image, one for all, and none; the values lie in memory as they like."""
    given, x = features(2, 30, 2, 4.0, generator), torch.randn(2, 30, 3, generator=generator).mT
    scale, to = torch.rand(images, 1, 30, generator=generator), torch.randn(2, 3, 30, generator=generator)
    found = TritonLattice.build(given.to(kernel_device), 1.3, 2)
    exact = TorchLattice.build(given.double(), 1.3, 2)
    for own in (scale, None):
        factor: Tensor | float = 1.0 if own is None else own.double()
        wanted = to + 0.7 * factor * exact.apply(factor * x.double())
        added = to.clone().to(kernel_device)
        found.add_scaled(x.to(kernel_device), None if own is None else own.to(kernel_device), 0.7, added)
        assert relative(added, wanted) < 2e-6


def test_long_sums_are_cut(
    generator: torch.Generator, kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vertex of more pixels than a piece has entries."""
    monkeypatch.setattr(lattice_gpu, "PIECE", 8)
    given, x = features(1, 90, 2, 1.0, generator), torch.randn(1, 2, 90, generator=generator)
    found = TritonLattice.build(given.to(kernel_device), 1.3, 2)
    lengths = [stop - start for start, stop in pairwise(found.entries.pieces.tolist())]
    assert max(lengths) == 8
    assert sum(lengths) == 270
    assert len(lengths) > found.vertices
    wanted = TorchLattice.build(given.double(), 1.3, 2).apply(x.double())
    assert relative(found.apply(x.to(kernel_device)), wanted) < 2e-6


def test_a_batch_is_its_images_and_a_run_the_next(
    generator: torch.Generator, kernel_device: torch.device
) -> None:
    """Bit for bit."""
    given = features(2, 25, 2, 3.0, generator).to(kernel_device)
    x = torch.randn(2, 2, 25, generator=generator).to(kernel_device)
    whole = TritonLattice.build(given, 1.3, 2).apply(x)
    assert torch.equal(TritonLattice.build(given, 1.3, 2).apply(x), whole)
    for image in range(2):
        own = slice(image, image + 1)
        assert torch.equal(TritonLattice.build(given[own], 1.3, 2).apply(x[own]), whole[own])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_features_are_finite(wrong: float, generator: torch.Generator, kernel_device: torch.device) -> None:
    given = features(2, 20, 2, 4.0, generator)
    given[1, 7, 0] = wrong
    with pytest.raises(ValueError, match="expected finite features"):
        TritonLattice.build(given.to(kernel_device), 1.3, 2)


def test_keys_fit(generator: torch.Generator, kernel_device: torch.device) -> None:
    """Wide features have 64-bit keys, and few digits after the point; wider ones are an error."""
    given, x = features(1, 30, 3, 3e4, generator), torch.ones(1, 1, 30)
    wanted = TorchLattice.build(given, 1.3, 2).apply(x).double()
    found = TritonLattice.build(given.to(kernel_device), 1.3, 2).apply(x.to(kernel_device))
    assert relative(found, wanted) < 1e-3
    with pytest.raises(ValueError, match="lattice cells"):
        TritonLattice.build(features(1, 9, 6, 1e5, generator).to(kernel_device), 1.3, 2)


def test_corners_have_numbers() -> None:
    with pytest.raises(ValueError, match="fewer images at a time"):
        TritonLattice.build(torch.zeros(1, 1, 2).expand(1, 2**30, 2), 1.3, 2)


def test_values_are_checked(generator: torch.Generator, kernel_device: torch.device) -> None:
    lattice = TritonLattice.build(features(1, 20, 1, 4.0, generator).to(kernel_device), 1.3, 2)
    with pytest.raises(ValueError, match=r"\[1 k 20\]"):
        lattice.apply(torch.zeros(1, 2, 21, device=kernel_device))
    double = torch.zeros(1, 2, 20, dtype=torch.float64, device=kernel_device)
    with pytest.raises(ValueError, match="float32"):
        lattice.add_scaled(double, None, 1.0, double)


@pytest.mark.parametrize(
    ("stride", "radius", "kind"),
    [(1, 2, torch.int32), (-13, 2, torch.int64), (-13, 1, torch.int32), (1, 1, torch.int64)],
)
def test_tables_between_blurs(
    stride: int, radius: int, kind: torch.dtype, generator: torch.Generator, kernel_device: torch.device
) -> None:
    """The union of the shifted tables, and the neighbors in both directions, as by sorting and by searching."""
    table, other = (
        torch.unique(torch.randint(0, 3000, (n,), generator=generator).to(kind)) for n in (170, 60)
    )
    wanted, weights = spread(table, stride, radius), torch.arange(1, 2 * radius + 2).double()
    here, step = table.to(kernel_device), torch.tensor(stride, device=kernel_device)
    made = vertices.Spread.of(here, step, radius)
    for forth, (source, target) in ((True, (table, wanted)), (False, (wanted, table))):
        found, neighbors = made.written(int(made.count), forth)
        assert torch.equal(found.cpu(), wanted)
        expected, used, reached = blur(source, target, stride, weights)
        assert bool(used.all() & reached.all())
        x = torch.randn(len(source), 4, generator=generator, dtype=torch.float64)
        by_place = torch.cat([x, torch.zeros_like(x[:1])])[neighbors.cpu().T.long()]
        torch.testing.assert_close((weights[:, None] * by_place).sum(1), expected.apply(x))

    meeting = vertices.Spread.of(here, step, radius, (other.to(kernel_device), step))
    kept, _ = meeting.written(int(meeting.count), True)
    assert torch.equal(kept.cpu(), wanted[torch.isin(wanted, spread(other, stride, radius))])
    there = vertices.nearest(kept, other.to(kernel_device), step, radius).cpu()
    for tap in range(2 * radius + 1):
        at = there[tap]
        keys = other + (tap - radius) * stride
        assert torch.equal(at >= 0, torch.isin(keys, kept.cpu()))
        assert torch.equal(kept.cpu()[at[at >= 0]], keys[at >= 0])


@pytest.mark.parametrize("first", [0, 2])
def test_columns_after_the_last_are_zero(first: int, kernel_device: torch.device) -> None:
    values = torch.arange(20.0, device=kernel_device).view(2, 5, 2)
    to = torch.full((2, 2, 4), math.nan, device=kernel_device)
    kernels.rows(values, None, to, kernels.Columns(first, 3))()
    assert torch.equal(to[..., :3], values[:, first : first + 3].mT)
    assert torch.equal(to[..., 3], torch.zeros(2, 2, device=kernel_device))


@pytest.mark.parametrize(("images", "scaled"), [(1, True), (2, False)])
def test_what_is_prepared_takes_parts_of_the_classes(
    images: int, scaled: bool, generator: torch.Generator, kernel_device: torch.device
) -> None:
    """As all at once, of the values at the time of the call: parts of 16 and 8 classes, of 8, and of 4."""
    given, pixels, classes = features(2, 9, 2, 4.0, generator).to(kernel_device), 9, 21
    lattices = tuple(TritonLattice.build(part, 1.3, 2) for part in torch.split(given, images))
    lattice = SplitFilter(lattices, images, batch=2)
    values, to = (torch.randn(2, classes, pixels, generator=generator).to(kernel_device) for _ in range(2))
    scale = torch.rand(2, 1, pixels, generator=generator).to(kernel_device) if scaled else None
    for most in (16, 8, 4):
        filled = values.new_zeros(2, classes, pixels)
        found, expected = to.clone(), to.clone()
        scratch = filled.new_full((lattice.scratch(most),), math.nan)
        calls = lattice.prepared(Addition(filled, scale, 0.3, found), scratch)
        filled.copy_(values)
        for call in calls:
            call()
        lattice.add_scaled(values, scale, 0.3, expected)
        assert torch.equal(found, expected)


def test_large_images_have_lattices_of_their_own(
    generator: torch.Generator, kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images a lattice, and the last one alone: the same as one lattice, with scales of one image or of all."""
    given, x = features(3, 20, 2, 4.0, generator), torch.rand(3, 5, 20, generator=generator).to(kernel_device)
    monkeypatch.setattr("selflabel.affinity.filters.lattice.backend", lambda *_: Backend.GPU)
    whole = Lattice().build(given.to(kernel_device))
    monkeypatch.setattr("selflabel.affinity.filters.lattice.PIXELS_OF_A_TABLE", 59)
    split = Lattice().build(given.to(kernel_device))
    assert isinstance(whole, TritonLattice)
    assert isinstance(split, SplitFilter)
    assert [each.degree().shape[0] for each in split.filters] == [2, 1]
    assert split.vertices == whole.vertices
    assert torch.equal(split.degree(), whole.degree())
    assert torch.equal(split.apply(x), whole.apply(x))
    for images in (1, 3):
        scale = torch.rand(images, 1, 20, generator=generator).to(kernel_device)
        found, expected = x.clone(), x.clone()
        split.add_scaled(x, scale, 0.4, found)
        whole.add_scaled(x, scale, 0.4, expected)
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="expected values of 3 images, as at build, got 2"):
        split.apply(x[:2])
    with pytest.raises(ValueError, match="expected values of 3 images, as at build, got 2"):
        split.prepared(Addition(x[:2], None, 1.0, x[:2]), x.new_empty(split.scratch(5)))


def test_a_table_and_the_next_one_do_not_overlap(
    generator: torch.Generator, kernel_device: torch.device
) -> None:
    """The interpreter would not see it: it works on copies."""
    lattice = TritonLattice.build(features(2, 9, 2, 4.0, generator).to(kernel_device), 1.3, 2)
    scratch = torch.empty(lattice.scratch(8), device=kernel_device)
    places = [
        (table.data_ptr() - scratch.data_ptr(), 4 * table.numel()) for table in lattice._tables(scratch, 8)
    ]
    assert len(places) == len(lattice.neighbors) + 2
    for (begin, size), (other, another) in pairwise(places):
        assert begin + size <= other or other + another <= begin
    assert max(begin + size for begin, size in places) <= 4 * scratch.numel()


def test_what_cannot_be_prepared(generator: torch.Generator, kernel_device: torch.device) -> None:
    lattice = TritonLattice.build(features(1, 9, 2, 4.0, generator).to(kernel_device), 1.3, 2)
    values = torch.zeros(1, 2, 9, device=kernel_device)
    scratch = values.new_empty(lattice.scratch(1) - 1)
    with pytest.raises(ValueError, match=f"scratch memory of {lattice.scratch(1)} numbers, got"):
        lattice.prepared(Addition(values, None, 1.0, values), scratch)
    with pytest.raises(ValueError, match="expected values of shape"):
        lattice.prepared(Addition(values[:, :, 1:], None, 1.0, values), scratch)


def test_an_affinity_and_its_gradient(
    generator: torch.Generator, kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(1, 1, 3, 4, generator=generator)
    labels, weight = (torch.randn(1, 2, 3, 4, generator=generator).double() for _ in range(2))

    def both_ways(image: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        kernel = (GaussianKernel(0.7, 2.0, 90.0),)
        affinity = DenseAffinity.from_features(90 * image, kernel, filtering=Lattice(), symmetric=True)
        labels = labels.detach().requires_grad_()
        applied = affinity.apply(labels)
        (gradient,) = torch.autograd.grad((applied * weight).sum(), labels)
        return applied.detach(), gradient

    expected = both_ways(image.double(), labels, weight)
    monkeypatch.setattr(
        "selflabel.affinity.filters.lattice.backend", lambda routine, device, dtype: Backend.GPU
    )
    found = both_ways(
        image.to(kernel_device), labels.float().to(kernel_device), weight.float().to(kernel_device)
    )
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 3e-6


def test_kernels_are_chosen_for_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert backend(Routine.LATTICE, cuda, torch.float32) is Backend.GPU
    assert backend(Routine.LATTICE, cuda, torch.float64) is Backend.TORCH
    monkeypatch.setattr("selflabel.kernels.backend.has_triton", lambda: False)
    assert backend(Routine.LATTICE, cuda, torch.float32) is Backend.TORCH
