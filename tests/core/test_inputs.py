"""What the entries take: NumPy arrays, half precision, bandwidths by axis; and the remedies for what they refuse."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.affinity_loops import Array, assert_matrix, kernel, loop
from torch import Tensor, nn

from selflabel import DenseAffinity, GaussianKernel, GridAffinity, Problem, WindowAffinity, solve
from selflabel.affinity import Exact
from selflabel.affinity.builders import AffinityBuilder, Contrast, Dense, Grid, Window
from selflabel.affinity.image import Image, as_image
from selflabel.affinity.stencil import check_spacing
from selflabel.datasets.samples import Batch
from selflabel.inputs import (
    as_tensor,
    check_tensor,
    logits_of,
    size_remedy,
    widened_distributions,
)
from selflabel.labels import UNLABELED
from selflabel.losses import dense_crf_loss, gated_crf_loss, potts_loss
from selflabel.losses.base import checked_seeds
from selflabel.networks import AnySize
from selflabel.solvers import SOLVERS, GraphCut

pytestmark = pytest.mark.quick

BUILDERS: dict[str, AffinityBuilder] = {
    "grid": Grid(),
    "window": Window(radius=2),
    "contrast": Contrast(),
    "dense": Dense(sigma_xy=4.0),
}
HALVES = [torch.float16, torch.bfloat16]


def scene(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A photograph-like image in eighths, which half precision holds exactly; logits and seeds."""
    image = torch.from_numpy(rng.integers(0, 9, (1, 3, 7, 8)) / 8).float()
    logits = torch.from_numpy(rng.normal(0, 2, (1, 3, 7, 8))).float()
    seeds = torch.full((1, 7, 8), UNLABELED)
    seeds[0, 1, 1:4], seeds[0, 5, 2:7] = 0, 2
    return image, logits, seeds


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", BUILDERS)
def test_weights_are_not_made_in_half_precision(
    name: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    image, logits, _ = scene(rng)
    labels = logits.softmax(1)
    expected = BUILDERS[name](image).apply(labels)
    torch.testing.assert_close(BUILDERS[name](image.to(dtype)).apply(labels), expected)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_features_in_half_precision_are_widened(dtype: torch.dtype, rng: np.random.Generator) -> None:
    image, logits, _ = scene(rng)
    labels = logits.softmax(1)
    for build in (GridAffinity.from_features, GridAffinity.from_contrast, WindowAffinity.from_features):
        torch.testing.assert_close(build(image.to(dtype)).apply(labels), build(image).apply(labels))
    kernels = (GaussianKernel(1.0, 3.0, 0.5),)
    half, full = (DenseAffinity.from_features(i, kernels) for i in (image.to(dtype), image))
    torch.testing.assert_close(half.apply(labels), full.apply(labels))


@pytest.mark.parametrize("name", BUILDERS)
def test_labels_in_half_precision_are_summed_in_float32(name: str, rng: np.random.Generator) -> None:
    image, logits, _ = scene(rng)
    affinity, labels = BUILDERS[name](image), logits.softmax(1).half()
    assert affinity.apply(labels).dtype == torch.float16
    torch.testing.assert_close(affinity.apply(labels), affinity.apply(labels.float()).half())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_take_half_precision(name: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    image, logits, seeds = scene(rng)
    solver = SOLVERS[name]()
    affinity = solver.default_affinity(image.to(dtype))
    problem = Problem(solver.default_energy, logits.softmax(1).to(dtype), seeds, affinity)
    assert problem.probs.dtype == torch.float32
    torch.testing.assert_close(problem.probs.sum(1), torch.ones(1, 7, 8))
    found = solve(problem, solver, start=problem.probs.to(dtype))
    assert found.labels.dtype == torch.float32
    logits_problem = Problem.from_logits(solver.default_energy, logits.to(dtype), seeds, affinity)
    assert solve(logits_problem, solver).labels.dtype == torch.float32


def test_what_is_no_distribution_in_half_precision_is_still_refused(rng: np.random.Generator) -> None:
    image, logits, seeds = scene(rng)
    torch.testing.assert_close(
        widened_distributions(logits.half()), logits.half().float(), rtol=0.0, atol=0.0
    )
    with pytest.raises(ValueError, match="sum to one"):
        Problem(GraphCut.default_energy, logits.half(), seeds, Grid()(image)).check()


@pytest.mark.parametrize("name", SOLVERS)
def test_numpy_arrays_are_taken_for_tensors(name: str, rng: np.random.Generator) -> None:
    image, logits, seeds = scene(rng)
    solver = SOLVERS[name]()
    affinity = solver.default_affinity(image)
    from_arrays = solver.default_affinity(image.numpy())
    energy = solver.default_energy
    here = solve(Problem.from_logits(energy, logits, seeds, affinity), solver)
    there = solve(Problem.from_logits(energy, logits.numpy(), seeds.numpy(), from_arrays), solver)
    assert torch.equal(here.labels, there.labels)
    uniform = Problem.from_seeds(energy, seeds.numpy(), 3, from_arrays)
    assert torch.equal(uniform.seeds, seeds)


def test_arrays_of_other_layouts_in_memory_are_taken() -> None:
    big_endian = np.arange(6, dtype=">f4").reshape(1, 1, 2, 3)
    assert torch.equal(as_tensor(big_endian, "values"), torch.arange(6.0).view(1, 1, 2, 3))
    flipped = np.arange(6.0)[::-1]
    assert as_tensor(flipped, "values").tolist() == [5, 4, 3, 2, 1, 0]


def test_what_is_no_array_of_numbers_is_refused() -> None:
    with pytest.raises(
        ValueError, match="expected values as a torch tensor or a NumPy array of numbers, got str: convert"
    ):
        as_tensor("image.png", "values")
    with pytest.raises(ValueError, match="got ndarray of <U1: convert it to numbers"):
        as_tensor(np.array(["a"]), "values")


WRAPPED: dict[str, tuple[Any, str]] = {
    "array": (np.zeros(3), r"got ndarray: torch\.from_numpy\(logits\)"),
    "mapping": ({"out": 1, "aux": 2}, r"got dict: pick one of its tensors \['aux', 'out'\]"),
    "record": (SimpleNamespace(logits=torch.zeros(1)), r"got SimpleNamespace: pass its `\.logits`"),
    "tuple": ((torch.zeros(1),), "got tuple: pass one of its tensors"),
    "none": (None, "got NoneType: convert it"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_no_tensor_comes_with_the_way_to_one(name: str) -> None:
    values, message = WRAPPED[name]
    with pytest.raises(ValueError, match=message):
        check_tensor(values, "logits")


SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "stride 4": ((2, 3, 16, 16), (2, 64, 64), r"size=\(64, 64\), mode='bilinear'"),
    "stride 4 of a volume": ((1, 3, 4, 16, 16), (1, 8, 64, 64), "trilinear"),
    "no batch axis": ((3, 64, 64), (1, 64, 64), "batch axis"),
    "no batch axis of seeds": ((1, 3, 64, 60), (64, 60), r"batch axis, `seeds\[None\]`"),
    "no batch axis at all": ((3, 64, 60), (64, 60), r"`\[None\]` for both"),
    "volumes without": ((3, 8, 64, 60), (8, 64, 60), r"`\[None\]` for both"),
    "another batch": ((2, 3, 64, 64), (1, 64, 64), "as many predictions as images"),
    "channels last": ((1, 64, 60, 3), (1, 64, 60), r"movedim\(-1, 1\)"),
    "other axes": ((1, 3, 8, 64, 64), (1, 64, 64), r"\[b d h w\]"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_that_differ_come_with_their_remedy(name: str) -> None:
    given, wanted, message = SHAPES[name]
    with pytest.raises(ValueError, match=message):
        raise ValueError(size_remedy(given, wanted))


def test_seeds_of_a_single_image_come_with_the_way_to_a_batch(
    rng: np.random.Generator, unchecked: None
) -> None:
    image, logits, seeds = scene(rng)
    affinity = Grid()(image)
    with pytest.raises(ValueError, match=r"`seeds\[None\]`"):
        Problem.from_logits(GraphCut.default_energy, logits, seeds[0], affinity)
    with pytest.raises(ValueError, match=r"`\[None\]` for both predictions and seeds"):
        Problem.from_logits(GraphCut.default_energy, logits[0], seeds[0], affinity)


def test_logits_at_a_stride_are_to_be_resized(rng: np.random.Generator) -> None:
    image, logits, seeds = scene(rng)
    small = logits[..., ::2, ::2]
    for call in (
        lambda: Problem.from_logits(GraphCut.default_energy, small, seeds[:, ::2, ::2], Grid()(image)),
        lambda: checked_seeds(small, seeds),
        lambda: potts_loss(small, Grid()(image)),
        lambda: dense_crf_loss(small, Dense()(image)),
    ):
        with pytest.raises(ValueError, match=r"torch\.nn\.functional\.interpolate\(logits"):
            call()


IMAGES: dict[str, tuple[Any, str]] = {
    "standardized": (torch.linspace(-2, 2, 48).view(1, 3, 4, 4), r"image \* std \+ mean"),
    "0 to 255": (torch.linspace(0, 255, 48).view(1, 3, 4, 4), "divide it by 255"),
    "16 bit": (torch.linspace(0, 60000, 48).view(1, 3, 4, 4), "divide it by its range"),
    "overshoot": (torch.linspace(-0.05, 1.05, 48).view(1, 3, 4, 4), r"clamp\(0, 1\)"),
    "nan": (torch.full((1, 3, 4, 4), torch.nan), "where nan or inf come from"),
    "whole numbers": (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "65535 for 16 bit"),
    "channels last": (torch.zeros(1, 8, 9, 3), r"permute\(0, 3, 1, 2\)"),
    "one image, channels last": (torch.zeros(8, 9, 3), r"permute\(2, 0, 1\)\[None\]"),
    "no batch": (torch.zeros(3, 8, 9), r"image\[None\]"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_are_refused_come_with_their_remedy(name: str) -> None:
    image, message = IMAGES[name]
    with pytest.raises(ValueError, match=message):
        Image(image)


def test_rounding_of_resized_images_is_no_error() -> None:
    image = torch.tensor([-1e-6, 0.5, 1 + 1e-6, 1.0]).view(1, 1, 2, 2)
    assert as_image(image).shape == (1, 1, 2, 2)


ANISOTROPIC = GaussianKernel(0.7, (2.0, 4.0), (30.0, 60.0, 90.0))


def test_bandwidths_by_axis_and_channel(rng: np.random.Generator) -> None:
    features = torch.from_numpy(rng.uniform(0, 200, (2, 3, 5, 6))).float()
    spacing = (1.0, 1.5)

    def weight(offset: tuple[int, ...], a: Array, b: Array, i: int, j: int) -> float:
        return kernel(offset, a, b, spacing, ANISOTROPIC)

    expected = [loop(one.double().numpy(), weight) for one in features]
    dense = DenseAffinity.from_features(features, (ANISOTROPIC,), filtering=Exact(), spacing=spacing)
    assert_matrix(dense, expected)
    window = WindowAffinity.from_features(features, 9, (ANISOTROPIC,), spacing=spacing)
    assert_matrix(window, [matrix - np.diag(np.diag(matrix)) for matrix in expected])


def test_the_gated_crf_takes_bandwidths_by_axis_and_channel(rng: np.random.Generator) -> None:
    image, logits, _ = scene(rng)
    found = gated_crf_loss(logits, image, radius=2, kernels=(ANISOTROPIC,))
    window = WindowAffinity.from_image(image, 2, (ANISOTROPIC,))
    torch.testing.assert_close(found, 2 * potts_loss(logits, window))


def test_lists_of_bandwidths_are_tuples() -> None:
    assert GaussianKernel(1.0, [3.0, 3.0], [13.0] * 3) == GaussianKernel(1.0, (3.0, 3.0), (13.0,) * 3)


def test_a_kernel_with_one_bandwidth_is_one_of_place() -> None:
    assert GaussianKernel(3.0, sigma_xy=3.0) == GaussianKernel(3.0, 3.0, None)


def test_bandwidths_of_another_number_are_refused(rng: np.random.Generator) -> None:
    image, _, _ = scene(rng)
    for wrong, message in (
        (GaussianKernel(1.0, (3.0, 3.0, 3.0), 13.0), "one sigma_xy or 2, one for each of the axes, got 3"),
        (GaussianKernel(1.0, 3.0, (13.0, 13.0)), "one sigma_rgb or 3, one for each of the channels, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            DenseAffinity.from_image(image, (wrong,))
        with pytest.raises(ValueError, match=message):
            WindowAffinity.from_image(image, 2, (wrong,))
    with pytest.raises(ValueError, match="got none"):
        GaussianKernel(1.0, (), 13.0)
    with pytest.raises(ValueError, match="sigma_xy > 0"):
        GaussianKernel(1.0, (3.0, 0.0), 13.0)


def test_kernels_of_a_window_share_their_proportions(rng: np.random.Generator) -> None:
    image, _, _ = scene(rng)
    kernels = (GaussianKernel(1.0, (2.0, 4.0), 10.0), GaussianKernel(1.0, (1.0, 2.0), None))
    window = WindowAffinity.from_image(image, 2, kernels)
    single = [WindowAffinity.from_image(image, 2, (one,)).as_matrix() for one in kernels]
    torch.testing.assert_close(window.as_matrix(), single[0] + single[1])
    with pytest.raises(ValueError, match="same proportion"):
        WindowAffinity.from_image(image, 2, (kernels[0], GaussianKernel(1.0, 3.0, None)))


@pytest.mark.parametrize("spacing", [(1.0, float("nan")), (1.0, float("inf")), (0.0, 1.0), (1.0,)], ids=str)
def test_spacings_that_are_no_lengths_are_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="finite, positive spacing"):
        check_spacing(spacing, (4, 5))


class Wrapping(nn.Module):
    """A network that puts its logits into something."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> object:
        logits = images[:, :2, ::4, ::4]
        return {
            "mapping": {"out": logits, "aux": None},
            "logits": {"logits": logits},
            "record": SimpleNamespace(logits=logits, loss=None),
            "plain": logits,
            "list": [logits],
        }[self.kind]


@pytest.mark.parametrize("kind", ["mapping", "logits", "record", "plain"])
def test_networks_may_wrap_their_logits(kind: str) -> None:
    images = torch.rand(2, 3, 16, 20)
    found = logits_of(Wrapping(kind)(images))
    assert isinstance(found, Tensor)
    assert AnySize(Wrapping(kind), 3, 2)(images).shape == (2, 2, 16, 20)


def test_networks_that_return_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="as one tensor or under `logits` or `out`, got list"):
        AnySize(Wrapping("list"), 3, 2)(torch.rand(1, 3, 16, 20))


def test_a_dense_affinity_of_too_many_features_says_how_many_it_takes(rng: np.random.Generator) -> None:
    features = torch.from_numpy(rng.uniform(0, 1, (1, 384, 3, 3))).float()
    with pytest.raises(ValueError, match="in 386 dimensions: keep at most") as raised:
        DenseAffinity.from_features(features, (GaussianKernel(1.0, 8.0, 0.3),))
    assert len(str(raised.value)) < 250
    most = int(str(raised.value).split("at most ")[1].split()[0])
    kept = most - 2  # two are of place
    DenseAffinity.from_features(features[:, :kept], (GaussianKernel(1.0, 8.0, 0.3),))


def test_what_holds_tensors_prints_in_a_line(rng: np.random.Generator) -> None:
    image, logits, seeds = scene(rng)
    batch = torch.cat([image] * 5)
    solver = GraphCut()
    problem = Problem.from_logits(
        solver.default_energy, torch.cat([logits] * 5), torch.cat([seeds] * 5), Grid()(batch)
    )
    grid = "GridAffinity(images: 5 of 7 x 8, neighbors: 4)"
    assert repr(problem) == f"Problem(images: 5 of 7 x 8, classes: 3, seeds: 14.3 %, {grid})"
    solution = solve(problem, solver)
    text = repr(solution)
    assert text.startswith("Solution(images: 5 of 7 x 8, classes: 3, 5 CONVERGED, steps: ")
    assert f"energy: {float(solution.start_energy[0]):.6g}, " in text
    assert "\n" not in text
    assert len(text) < 250
    assert repr(as_image(image)) == "Image(1 of 7 x 8, channels: 3)"
    assert repr(Dense()(image)) == "DenseAffinity(images: 1 of 7 x 8, kernels: 1)"
    assert repr(Window(radius=1)(image)) == "WindowAffinity(images: 1 of 7 x 8, neighbors: 8)"
    samples = Batch(("a",), image, seeds.long())
    assert repr(samples) == "Batch(1 of 7 x 8, channels: 3, no masks: a)"
