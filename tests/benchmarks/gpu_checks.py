"""Every path that tensors on a GPU take, against the CPU in double precision.

On the CPU the same paths run in single precision, with torch's lattice in place of the compiled one: so the checks are
tested where there is no GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

from selflabel import (
    DenseAffinity,
    Energy,
    GaussianKernel,
    GridAffinity,
    Problem,
    WindowAffinity,
    solve,
)
from selflabel.affinity import FINE, Affinity, Exact, FilterBuilder
from selflabel.affinity.filters.lattice_torch import TorchLattice
from selflabel.affinity.filters.protocol import Filter, LatticeFilter, grid_features
from selflabel.affinity.filters.split import SplitFilter
from selflabel.driver import Solver
from selflabel.labels import UNLABELED
from selflabel.losses import (
    dense_crf_loss,
    entropy_loss,
    gated_crf_loss,
    kernel_cut_loss,
    kmeans_loss,
    non_exist_loss,
    normalized_cut_loss,
    partial_cross_entropy,
    potts_loss,
    self_labeling_loss,
)
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.multigrid import Multigrid
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.solvers.gradient_descent import PAPER
from selflabel.terms import COUPLINGS, QUADRATIC, QUADRATIC_POTTS, RELAXATIONS, REVERSE, STANDARD

KERNELS = (GaussianKernel(1.0, 20.0, 40.0), GaussianKernel(0.5, 2.0, None))
CLASSES = 4


class LatticeOnGPU(Exact):
    """The lattice that a GPU uses, on any device."""

    def build(self, features: Tensor) -> Filter:
        if features.is_cuda:
            return FINE.build(features)
        return TorchLattice.build(features, FINE.variance, FINE.radius)

    def build_grid(
        self, size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
    ) -> Filter:
        if device.type == "cuda":
            return FINE.build_grid(size, sigmas, dtype, device)
        built = self.build(grid_features(size, sigmas, dtype, device))
        assert isinstance(built, LatticeFilter)
        return SplitFilter((built,), images=1, batch=None)


@dataclass(frozen=True)
class Scene:
    """Two images with predictions and seeds, on a device."""

    image: Tensor
    logits: Tensor
    seeds: Tensor

    @classmethod
    def draw(cls, side: int, device: torch.device, dtype: torch.dtype) -> "Scene":
        """The same scene on every device."""
        draw = torch.Generator().manual_seed(6_121)
        size = (side, side + 6)
        image = torch.nn.functional.avg_pool2d(torch.rand(2, 3, *size, generator=draw), 5, 1, 2)
        logits = 2 * torch.randn(2, CLASSES, *size, generator=draw)
        seeds = torch.full((2, *size), UNLABELED)
        for label in range(CLASSES):
            seeds[:, (2 * label + 1) * side // (2 * CLASSES), label : side // 2] = label
        return cls(image.to(device, dtype), logits.to(device, dtype), seeds.to(device))

    @property
    def probs(self) -> Tensor:
        return self.logits.softmax(1)


def grid(scene: Scene) -> Affinity:
    return GridAffinity.from_image(scene.image, 40.0, 8, by_distance=True)


def window(scene: Scene) -> Affinity:
    gate = scene.image[:, :1]
    return WindowAffinity.from_image(scene.image, 2, (GaussianKernel(1.0, 3.0, 60.0),), source=gate)


def lattice(scene: Scene) -> Affinity:
    # the reference is compiled where Numba is there: the same sums, to rounding
    filtering: FilterBuilder = FINE if scene.image.dtype == torch.float64 else LatticeOnGPU()
    return DenseAffinity.from_image(scene.image, KERNELS[:1], filtering=filtering, symmetric=True)


def exact(scene: Scene) -> Affinity:
    return DenseAffinity.from_image(scene.image, KERNELS, filtering=Exact(), symmetric=True)


AFFINITIES: dict[str, Callable[[Scene], Affinity]] = {
    function.__name__: function for function in (grid, window, lattice, exact)
}
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Check:
    """A computation on a scene, and the relative error allowed in the norm of each output."""

    name: str
    run: Callable[[Scene], Outputs]
    tolerance: float

    def error(self, side: int, device: torch.device) -> float:
        """The largest relative error of an output."""
        reference = self.run(Scene.draw(side, torch.device("cpu"), torch.float64))
        found = self.run(Scene.draw(side, device, torch.float32))
        assert all(x.device.type == device.type for x in found), f"{self.name}: an output is elsewhere"
        pairs = [(a.double().cpu(), b.double()) for a, b in zip(found, reference, strict=True)]
        return max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)


def _applied(build: Callable[[Scene], Affinity], scene: Scene) -> Outputs:
    affinity = build(scene)
    return affinity.apply(scene.probs), affinity.degree()


def _listed(scene: Scene) -> Outputs:
    affinity = GridAffinity.from_contrast(scene.image, 7.0)
    edges, coarse = affinity.edges(), affinity.coarsen()
    return edges.first, edges.second, edges.weight, *coarse.weights


def _energy(energy: Energy, build: Callable[[Scene], Affinity], scene: Scene) -> Outputs:
    labels = (scene.logits.flip(1) / 2).softmax(1)
    problem = Problem(energy, scene.probs, scene.seeds, build(scene))
    value, grad = problem.value_and_grad(labels)
    return value, grad.value, grad.curvature


def _solved(
    solver: Solver, energy: Energy, build: Callable[[Scene], Affinity], steps: int, scene: Scene
) -> Outputs:
    problem = Problem(energy, scene.probs, scene.seeds, build(scene))
    solution = solve(problem, solver, max_steps=steps)
    return solution.energy, solution.labels


def _lowered(loss: Callable[[Scene], Tensor], scene: Scene) -> Outputs:
    """The loss and its gradient."""
    own = replace(scene, logits=scene.logits.clone().requires_grad_())
    value = loss(own)
    value.backward()
    assert own.logits.grad is not None
    return value.detach(), own.logits.grad


def _absent(scene: Scene) -> Tensor:
    return torch.arange(CLASSES, device=scene.image.device).expand(2, -1) < 2


LOSSES: dict[str, Callable[[Scene], Tensor]] = {
    "partial cross-entropy": lambda scene: partial_cross_entropy(scene.logits, scene.seeds),
    "entropy": lambda scene: entropy_loss(scene.logits, scene.seeds),
    "potts": lambda scene: potts_loss(scene.logits, grid(scene)),
    "dense crf, lattice": lambda scene: dense_crf_loss(scene.logits, lattice(scene)),
    "dense crf, exact": lambda scene: dense_crf_loss(scene.logits, exact(scene)),
    "normalized cut": lambda scene: normalized_cut_loss(scene.logits, lattice(scene), scene.seeds),
    "kernel cut": lambda scene: kernel_cut_loss(scene.logits, lattice(scene), scene.seeds),
    "gated crf": lambda scene: gated_crf_loss(scene.logits, scene.image, radius=3, source=scene.image[:, :1]),
    "non-exist": lambda scene: non_exist_loss(scene.logits, _absent(scene)),
    "k-means": lambda scene: kmeans_loss(scene.logits, 255 * scene.image),
    "self-labeling": lambda scene: self_labeling_loss(
        scene.logits, scene.probs.detach().flip(1), scene.seeds
    ),
}


def checks() -> Iterator[Check]:
    """Affinities, every term of the energy, solvers, losses."""
    for name, build in AFFINITIES.items():
        yield Check(f"affinity: {name}", partial(_applied, build), 1e-5)
    yield Check("affinity: pairs and blocks", _listed, 1e-5)
    for coupling, relaxation in product(COUPLINGS, RELAXATIONS):
        energy = Energy(coupling, relaxation, 0.3, 2.0, 0.1)
        yield Check(f"energy: {coupling.name}, {relaxation.name}", partial(_energy, energy, grid), 1e-5)
    for relaxation in (relaxation for relaxation in RELAXATIONS if relaxation.is_quadratic):
        energy = Energy(STANDARD, relaxation, 1.0, 2.0, 1.0)
        yield Check(f"energy: {relaxation.name}, dense", partial(_energy, energy, lattice), 1e-5)

    roots, quadratic = GradientDescent.default_energy, Energy(QUADRATIC, QUADRATIC_POTTS, 0.3, 6.0)
    logits = replace(roots, coupling=REVERSE)
    short = GradientDescent(rtol=0.0)
    for name, solver, energy, build, steps, tolerance in (
        ("gradient descent, roots", short, roots, grid, 10, 1e-3),
        ("gradient descent, logits", short, logits, window, 10, 1e-3),
        ("gradient descent, linear", short, quadratic, grid, 20, 1e-3),
        ("gradient descent as published", PAPER, roots, grid, 10, 1e-3),
        ("mean field, lattice", MeanField(rtol=0.0), MeanField.default_energy, lattice, 5, 1e-3),
        ("mean field, exact", MeanField(rtol=0.0), MeanField.default_energy, exact, 5, 1e-3),
        ("mean field, grid", MeanField(rtol=0.0), MeanField.default_energy, grid, 5, 1e-3),
        ("graph cut", GraphCut(), GraphCut.default_energy, grid, 20, 1e-3),
        ("random walker, direct", RandomWalker(Elimination()), RandomWalker.default_energy, grid, 1, 1e-4),
        ("random walker, multigrid", RandomWalker(Multigrid()), RandomWalker.default_energy, grid, 1, 1e-5),
        (
            "random walker, conjugate gradients",
            RandomWalker(ConjugateGradients()),
            RandomWalker.default_energy,
            window,
            50,
            1e-4,
        ),
    ):
        yield Check(f"solver: {name}", partial(_solved, solver, energy, build, steps), tolerance)
    for name, loss in LOSSES.items():
        yield Check(f"loss: {name}", partial(_lowered, loss), 1e-4)
