"""Losses of pairs of pixels: against full matrices, plain numpy from the papers, and their cost in filterings."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import exp

import numpy as np
import pytest
import torch
from support.loss_formulas import GAMMA, LOSSES, PAIRWISE, draw_logits, pixels, value_and_gradient
from support.problems import KINDS, SPARSE, make_case
from torch import Tensor

from selflabel.affinity import DenseAffinity, Exact, GaussianKernel, GridAffinity, Lattice
from selflabel.affinity.filters.protocol import Filter
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.losses import dense_crf_loss, kernel_cut_loss, normalized_cut_loss, potts_loss
from selflabel.terms import BILINEAR, RELAXATIONS, Relaxation, normalized_cut, normalized_cut_and_grad

pytestmark = pytest.mark.usefixtures("either_path")

EVERY_RELAXATION = pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
CUTS = pytest.mark.parametrize("name", ["dense-crf", "normalized-cut", "kernel-cut"])


# --- against the full matrix --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPARSE)
@EVERY_RELAXATION
def test_potts_is_the_formula(relaxation: Relaxation, kind: str) -> None:
    case = make_case(Energy(relaxation=relaxation), kind).to(torch.float64)
    logits = draw_logits(case)
    value, gradient = value_and_gradient(PAIRWISE["potts"].loss, logits, case)
    expected, expected_gradient = value_and_gradient(PAIRWISE["potts"].formula, logits, case)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-10)
    assert float(gradient.abs().max()) > 1e-5


@EVERY_RELAXATION
def test_potts_gradients_are_finite_differences(relaxation: Relaxation) -> None:
    case = make_case(Energy(relaxation=relaxation), "grid8", size=(3, 2)).to(torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: potts_loss(x, case.affinity, relaxation), draw_logits(case).requires_grad_()
    )


@pytest.mark.parametrize("kind", KINDS)
@CUTS
def test_cuts_are_their_formulas(name: str, kind: str) -> None:
    """With both filters, in 2-D and 3-D; sparse affinities as well."""
    case = make_case(Energy(), kind, seeded=0.3).to(torch.float64)
    logits = draw_logits(case)
    value, gradient = value_and_gradient(LOSSES[name].loss, logits, case)
    expected, expected_gradient = value_and_gradient(LOSSES[name].formula, logits, case)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-9)
    assert float(gradient.abs().max()) > 1e-5


@pytest.mark.parametrize("kind", ["lattice", "exact", "grid4", "exact-3d"])
@CUTS
def test_gradients_are_finite_differences(name: str, kind: str) -> None:
    case = make_case(Energy(), kind, size=(2, 1, 3) if kind.endswith("3d") else (3, 2), seeded=0.3)
    case = case.to(torch.float64)
    loss = LOSSES[name].loss
    assert torch.autograd.gradcheck(lambda x: loss(x, case), draw_logits(case).requires_grad_())


def test_dense_crf_takes_the_published_gradient() -> None:
    """``-2 W S``, as the papers print it, and the true gradient are the same after the softmax."""
    case = make_case(Energy(), "exact").to(torch.float64)
    logits = draw_logits(case).requires_grad_()
    labels = logits.softmax(1)
    published = -2 * case.affinity.apply(labels.detach()) / pixels(logits)
    (expected,) = torch.autograd.grad(labels, logits, published)
    _, gradient = value_and_gradient(lambda x, c: dense_crf_loss(x, c.affinity), logits, case)
    torch.testing.assert_close(gradient, expected)


# --- against the papers, in plain numpy ----------------------------------------------------------------------

SIGMA_XY, SIGMA_RGB = 4.0, 60.0


def plain_matrix(image: np.ndarray) -> np.ndarray:
    """``W_pq = exp(-‖p - q‖² / 2σ_xy² - ‖I_p - I_q‖² / 2σ_rgb²)`` for one image ``[c *s]`` in 0..255 units."""
    places = list(np.ndindex(*image.shape[1:]))
    matrix = np.zeros((len(places), len(places)))
    for (p, here), (q, there) in product(enumerate(places), repeat=2):
        far = sum((a - b) ** 2 for a, b in zip(here, there, strict=True))
        unlike = sum(float(channel[here] - channel[there]) ** 2 for channel in image)
        matrix[p, q] = exp(-far / (2 * SIGMA_XY**2) - unlike / (2 * SIGMA_RGB**2))
    return matrix


def plain_softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(logits) / np.exp(logits).sum(0))


def plain_dense_crf(matrix: np.ndarray, labels: np.ndarray) -> float:
    """``Σ_k S_k' W (1 - S_k)`` (Tang et al., ECCV 2018, eq. 4): ordered pairs, an image's sum."""
    total = 0.0
    for k, p, q in product(range(len(labels)), range(len(matrix)), range(len(matrix))):
        total += labels[k, p] * matrix[p, q] * (1 - labels[k, q])
    return total


def plain_normalized_cut(matrix: np.ndarray, labels: np.ndarray) -> float:
    """``Σ_k S_k' W (1 - S_k) / d' S_k`` (Tang et al., CVPR 2018, eq. 6)."""
    degree = matrix @ np.ones(len(matrix))
    return float(sum(s @ matrix @ (1 - s) / (degree @ s) for s in labels))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(4, 5), (2, 3, 3)])
def test_losses_are_the_papers(size: tuple[int, ...], channels: int, rng: np.random.Generator) -> None:
    """The dense CRF loss is divided by the number of pixels, the normalized cut by the number of images."""
    batch, n = 2, int(np.prod(size))
    image, logits = rng.random((batch, channels, *size)), 2 * rng.normal(size=(batch, 3, *size))
    seeds = np.where(rng.random((batch, *size)) < 0.2, rng.integers(0, 3, (batch, *size)), UNLABELED)
    crf, cuts = 0.0, 0.0
    for b in range(batch):
        matrix, labels = plain_matrix(255 * image[b]), plain_softmax(logits[b]).reshape(3, n)
        crf += plain_dense_crf(matrix, labels)
        for p, k in enumerate(seeds[b].ravel()):
            if k != UNLABELED:
                labels[:, p] = np.arange(3) == k
        cuts += plain_normalized_cut(matrix, labels)
    kernel = (GaussianKernel(1.0, SIGMA_XY, SIGMA_RGB),)
    affinity = DenseAffinity.from_image(torch.from_numpy(image), kernel, filtering=Exact())
    scores, known = torch.from_numpy(logits), torch.from_numpy(seeds)
    loss = float(dense_crf_loss(scores, affinity))
    cut = float(normalized_cut_loss(scores, affinity, known))
    assert loss == pytest.approx(crf / (batch * n), rel=1e-9)
    assert cut == pytest.approx(cuts / batch, rel=1e-9)
    assert float(kernel_cut_loss(scores, affinity, known, GAMMA)) == pytest.approx(loss + GAMMA * cut)


def test_sparse_pairs_count_twice_in_the_dense_crf_loss() -> None:
    case = make_case(Energy(), "grid8").to(torch.float64)
    logits = draw_logits(case)
    once = potts_loss(logits, case.affinity, BILINEAR)
    torch.testing.assert_close(dense_crf_loss(logits, case.affinity), 2 * once)


# --- cost ---------------------------------------------------------------------------------------------------


@dataclass
class Counter:
    """The number of channels of each filtering."""

    channels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class CountedFilter:
    filter: Filter
    counter: Counter
    pixels: tuple[int, int]  # of the batch, and of an image

    def apply(self, values: Tensor) -> Tensor:
        self.counter.channels.append(values.shape[1])
        return self.filter.apply(values)

    def degree(self) -> Tensor:
        return self.apply(values=torch.ones(self.pixels[0], 1, self.pixels[1]))[:, 0]


@dataclass(frozen=True)
class CountedLattice:
    counter: Counter

    def build(self, features: Tensor) -> Filter:
        return CountedFilter(Lattice().build(features), self.counter, (features.shape[0], features.shape[1]))

    def build_grid(
        self, size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
    ) -> Filter:
        raise NotImplementedError("no kernel of place alone here")


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("name", "most"), [("dense-crf", [3]), ("normalized-cut", [3]), ("kernel-cut", [3, 3])]
)
def test_filterings_forward_and_backward(name: str, most: list[int], symmetric: bool) -> None:
    """One filtering of all classes per term, none backward; once per affinity one channel for the degree."""
    case = make_case(Energy(), "lattice", size=(8, 9))
    counter = Counter()
    kernel = (GaussianKernel(1.0, 5.0, 50.0),)
    affinity = DenseAffinity.from_image(
        case.image, kernel, filtering=CountedLattice(counter), symmetric=symmetric
    )
    logits = draw_logits(case).float().requires_grad_()
    losses = {
        "dense-crf": lambda: dense_crf_loss(logits, affinity),
        "normalized-cut": lambda: normalized_cut_loss(logits, affinity, case.seeds),
        "kernel-cut": lambda: kernel_cut_loss(logits, affinity, case.seeds),
    }
    loss = losses[name]()
    forward = len(counter.channels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert len(counter.channels) == forward
    assert [k for k in counter.channels if k > 1] == most
    if name == "dense-crf":
        assert len(counter.channels) <= 3  # with the degrees
    else:
        assert len(counter.channels) <= len(most) + 2
    again = len(counter.channels)
    losses[name]().backward()  # type: ignore[no-untyped-call]
    assert counter.channels[again:] == most


def graph(loss: Tensor) -> Iterator[str]:
    """The names of all nodes that backward will visit."""
    left = [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None:
            yield type(node).__name__
            left += [each for each, _ in node.next_functions]


@CUTS
def test_nothing_is_recorded_inside_the_filter(name: str) -> None:
    case = make_case(Energy(), "lattice")
    logits = draw_logits(case).float().requires_grad_()
    recorded = list(graph((case.affinity.apply(logits.softmax(1)) * logits).sum()))
    assert "_FilterValuesBackward" in recorded
    nodes = list(graph(LOSSES[name].loss(logits, case)))
    assert "_FilterValuesBackward" not in nodes
    assert "_KnownGradientBackward" in nodes


@pytest.mark.parametrize("name", PAIRWISE)
def test_without_a_gradient_the_value_is_the_same(name: str) -> None:
    case = make_case(Energy(), "grid8")
    logits = draw_logits(case).float()
    value, _ = value_and_gradient(LOSSES[name].loss, logits, case)
    with torch.no_grad():
        plain = LOSSES[name].loss(logits.requires_grad_(), case)
    assert not plain.requires_grad
    assert torch.equal(plain, value)


@pytest.mark.parametrize("name", PAIRWISE)
def test_there_is_no_second_derivative(name: str) -> None:
    """An error, not a wrong number."""
    case = make_case(Energy(), "grid8")
    logits = draw_logits(case).float().requires_grad_()
    with pytest.raises(RuntimeError, match="without create_graph=True"):
        torch.autograd.grad(LOSSES[name].loss(logits, case), logits, create_graph=True)


# --- normalized cut -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid4", "exact"])
def test_seeds_are_clamped(kind: str) -> None:
    case = make_case(Energy(), kind, seeded=0.3).to(torch.float64)
    seeded = (case.seeds != UNLABELED)[:, None].expand_as(case.probs)
    logits = draw_logits(case)
    value, gradient = value_and_gradient(LOSSES["normalized-cut"].loss, logits, case)
    assert float(gradient[seeded].abs().max()) == 0
    assert float(gradient[~seeded].abs().min()) > 0
    other = torch.where(seeded, draw_logits(case, 9_999), logits)
    assert torch.equal(normalized_cut_loss(other, case.affinity, case.seeds), value)
    free = torch.full_like(case.seeds, UNLABELED)
    assert float((normalized_cut_loss(logits, case.affinity, free) - value).abs()) > 1e-3


def test_normalized_cut_of_hard_labels() -> None:
    """Four pixels in a row, cut in the middle, by hand: ``2 / (1 + 3) + 2 / (6 + 4)``, at any scale of W."""
    weights = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    affinity = GridAffinity((1, 4), ((0, 1),), (weights,))
    labels = one_hot(torch.tensor([[[0, 0, 1, 1]]]), 2)
    assert float(normalized_cut(labels, affinity)) == pytest.approx(2 / 4 + 2 / 10)
    thrice = GridAffinity((1, 4), ((0, 1),), (3 * weights,))
    assert float(normalized_cut(labels, thrice)) == pytest.approx(2 / 4 + 2 / 10)
    one = torch.tensor([[[0, 0, 0, 0]]])
    assert float(normalized_cut(one_hot(one, 1), affinity)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_classes_count_one(dtype: torch.dtype) -> None:
    """The formula is 0 / 0; the limit of a class that fades evenly is one."""
    case = make_case(Energy(), "exact").to(dtype)
    logits = draw_logits(case).to(dtype)
    logits[:, 2] = -30  # faint, but above the floor
    faint = normalized_cut_and_grad(logits.softmax(1), case.affinity)
    logits[:, 2] = -1000
    empty = normalized_cut_and_grad(logits.softmax(1), case.affinity)
    torch.testing.assert_close(empty[0], faint[0], rtol=1e-5, atol=1e-5)
    assert bool(empty[1].value.isfinite().all())
    nobody = GridAffinity((1, 1), ((0, 1),), (torch.zeros(1, 1, 1, 0, dtype=dtype),))
    value, grad = normalized_cut_and_grad(torch.full((1, 2, 1, 1), 0.5, dtype=dtype), nobody)
    assert float(value) == 2
    assert float(grad.value.abs().max()) == 0


# --- errors -------------------------------------------------------------------------------------------------


def test_wrong_affinities_are_named(unchecked: None) -> None:
    case = make_case(Energy(), "exact")
    logits = draw_logits(case).float()
    for name in PAIRWISE:
        with pytest.raises(ValueError, match=r"affinity over \(2, 3, 6\) as the logits', got \(2, 5, 6\)"):
            LOSSES[name].loss(logits[:, :, :3], case)
    with pytest.raises(ValueError, match=r"expected seeds of shape \(2, 5, 6\)"):
        normalized_cut_loss(logits, case.affinity, case.seeds[:, :3])
    for relaxation in RELAXATIONS:
        if not relaxation.is_quadratic:
            with pytest.raises(ValueError, match="quadratic in the labels for a dense affinity"):
                potts_loss(logits, case.affinity, relaxation)
