"""The jobs that `gpu.py` times: what they do, and the bytes that they must move."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gpu_base import (
    NUMBER,
    Family,
    Job,
    Shape,
    Sizes,
    at_most,
    by,
    bytes_of_lattice,
    draw,
    free_seeds,
    strokes,
    times_floor,
)
from gpu_checks import LatticeOnGPU
from gpu_folder import folder
from gpu_peers import descend_by_autograd, published
from gpu_training import steps
from torch import Tensor

from selflabel import DenseAffinity, Energy, GaussianKernel, GridAffinity, Problem, WindowAffinity, solve
from selflabel.affinity import Affinity, Exact
from selflabel.kernels.backend import Routine
from selflabel.losses import dense_crf_loss, gated_crf_loss
from selflabel.networks import network
from selflabel.solvers import GradientDescent, MeanField, RandomWalker
from selflabel.terms import potts_and_grad


def descent(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    image, logits = draw(sizes.descent, device)
    solver, steps = GradientDescent(rtol=0.0, coarse_levels=0), 8
    affinity = GridAffinity.from_image(image, 9.0)
    problem = Problem.from_logits(solver.default_energy, logits, free_seeds(logits), affinity)
    labels = NUMBER * logits.numel()
    yield Job(
        f"energy and gradient of GradientDescent, {by(sizes.descent)}",
        torch.no_grad()(partial(problem.value_and_grad, problem.probs)),
        3 * labels,
        "labels, prediction; gradient",
    )
    counted = (
        "11 labels: direction, point and natural gradient to new direction and point (3 + 2); these and prediction, "
        "old gradient to gradient and natural gradient (4 + 2)"
    )
    started = solver.iterate(problem, problem.probs)

    @torch.no_grad()
    def some() -> None:
        for _ in range(steps):
            next(started)

    name = f"GradientDescent, a step ({steps} a call), {by(sizes.descent)}"
    yield Job(name, some, 11 * labels, counted, times_floor(3), steps)


def converged(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    for shape in (sizes.descent, sizes.single):
        problem = _smooth_problem(shape, device)
        work = partial(solve, problem, GradientDescent())

        def note(problem: Problem = problem) -> str:
            solution = solve(problem, GradientDescent())
            return f"{int(solution.steps.max())} steps, energy {float(solution.energy.sum()):.1f}"

        yield Job(f"GradientDescent to convergence, {by(shape)}", work, 0, "", note=note)


def recipe(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    for shape in (sizes.descent, sizes.single):
        image, logits = draw(shape, device)
        energy = GradientDescent.default_energy
        weights = energy.coupling_weight, energy.pairwise_weight
        work = partial(descend_by_autograd, logits.softmax(1), image, 9.0, *weights)

        def note(work: Callable[[], tuple[Tensor, Tensor]] = work) -> str:
            return f"energy {float(work()[1].double().sum()):.1f}"

        yield Job(f"published recipe, 200 autograd steps, {by(shape)}", work, 0, "", note=note)


def _smooth_problem(shape: Shape, device: torch.device) -> Problem:
    image, logits = draw(shape, device)
    affinity = GridAffinity.from_image(image, 9.0)
    return Problem.from_logits(GradientDescent.default_energy, logits, free_seeds(logits), affinity)


def training(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    """The solver of a training step of soft ADM, from the prediction."""
    work = partial(solve, _batch_of_training(sizes, device), GradientDescent())
    yield Job(f"GradientDescent from the prediction, {by(sizes.training)}", work, 0, "")


def network_alone(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    """What a solver in training is compared with: the network's step on the same batch."""
    image, logits = draw(sizes.training, device)
    target = logits.argmax(1)
    torch.manual_seed(4_409)
    made = network("unet:32", image.shape[1], logits.shape[1]).to(device)
    optimizer = torch.optim.SGD(made.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(made(image), target).backward()
        optimizer.step()

    yield Job(f"network alone, unet:32, forward, backward and optimizer, {by(sizes.training)}", step, 0, "")


def from_the_walker(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    """As by default: the walker's labels are solved for in each step."""
    problem, classes = _batch_of_training(sizes, device), sizes.training[1]
    image, _ = draw(sizes.training, device)
    walks = Problem.from_seeds(
        RandomWalker.default_energy, problem.seeds, classes, RandomWalker.default_affinity(image)
    )

    def both() -> object:
        return solve(problem, GradientDescent(), start=solve(walks, RandomWalker()).labels)

    name = f"GradientDescent from the walker's labels, {by(sizes.training)}"
    yield Job(name, both, 0, "", at_most(25))


def _batch_of_training(sizes: Sizes, device: torch.device) -> Problem:
    image, logits = draw(sizes.training, device)
    affinity = GridAffinity.from_image(image, 9.0)
    return Problem.from_logits(
        GradientDescent.default_energy, logits, strokes(sizes.training, device), affinity
    )


def mean_field(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    kernels = (GaussianKernel(10.0, 80.0, 13.0), GaussianKernel(3.0, 3.0, None))
    solver, steps = MeanField(rtol=0.0), 10
    for shape, goal in ((sizes.mean_field, times_floor(3)), (sizes.photograph, at_most(10))):
        image, logits = draw(shape, device)
        build = partial(DenseAffinity.from_image, image, kernels, filtering=LatticeOnGPU(), symmetric=True)
        affinity = build()
        problem = Problem.from_logits(solver.default_energy, logits, free_seeds(logits), affinity)
        lattice: Any = affinity.filters[0].filter
        labels = NUMBER * logits.numel()
        moved = (steps + 1) * (bytes_of_lattice(lattice, shape[1]) + 2 * labels) + steps * 3 * labels
        counted = "11 filterings by the lattice and by that of places (2 labels), 10 updates (3 labels)"
        name = f"mean field, {steps} iterations, {by(shape)}"
        yield Job(name, partial(solve, problem, solver, max_steps=steps), moved, counted)

        def with_build(build: Callable[[], DenseAffinity] = build, logits: Tensor = logits) -> object:
            built = Problem.from_logits(solver.default_energy, logits, free_seeds(logits), build())
            return solve(built, solver, max_steps=steps)

        yield Job(f"{name}, build included", with_build, moved, counted, goal)


def filters(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    side = sizes.lattice_side
    features = _place_and_gray(side, device, colors=3)
    built = LatticeOnGPU().build(features)
    for channels, goal in ((3, at_most(0.5)), (21, at_most(1.0))):
        values = torch.rand(1, channels, side * side, device=device)
        moved = bytes_of_lattice(built, channels)
        counted = "matrices, values, and tables of vertices both ways"
        name = f"lattice, {side}² points in five dimensions, {channels} values"
        yield Job(name, partial(built.apply, values), moved, counted, goal)
    build = partial(LatticeOnGPU().build, features)
    yield Job(f"the lattice's build, {side}² points in five dimensions", build, 0, "", at_most(2.5))


def exact(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    side = sizes.exact_side
    features = _place_and_gray(side, device, colors=1)
    values = torch.rand(1, 21, side * side, device=device)
    moved = NUMBER * (2 * values.numel() + features.numel())
    work = partial(Exact().build(features).apply, values)
    yield Job(f"exact filter, {side}² points, 21 values", work, moved, "it waits for arithmetic", at_most(8))


def _place_and_gray(side: int, device: torch.device, colors: int) -> Tensor:
    image, _ = draw((1, 1, side, side), device)
    place = torch.stack(torch.meshgrid(*[torch.arange(side, device=device)] * 2, indexing="ij"))
    return torch.cat([place[None] / 80.0, image[:, :colors] * 255 / 13.0], 1).flatten(2).mT.contiguous()


GATED_KERNEL = GaussianKernel(1.0, 6.0, 15.0)


def gated(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    for shape in sizes.gated:
        image, logits = draw(shape, device)
        loss = partial(gated_crf_loss, images=image, radius=5, kernels=(GATED_KERNEL,))
        yield Job(
            f"gated CRF loss, both ways, radius 5, {by(shape)}",
            partial(_both_ways, loss, logits.requires_grad_()),
            NUMBER * (2 * logits.numel() + image.numel()),
            "logits, images; gradient",
            at_most(4) if shape == sizes.gated[-1] else None,
        )


def published_gated(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    for shape in sizes.published:
        image, logits = draw(shape, device)
        loss = partial(published, images=image, radius=5)
        yield Job(
            f"published gated CRF module, both ways, radius 5, {by(shape)}",
            partial(_both_ways, loss, logits.requires_grad_()),
            NUMBER * (2 * logits.numel() + image.numel()),
            "logits, images; gradient",
        )


def window(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    """The energy of gradient descent on a window whose weights are kept."""
    shape = (1, *sizes.dense[1:])
    image, logits = draw(shape, device)
    probs, affinity = logits.softmax(1), WindowAffinity.from_image(image, 5)
    weights = NUMBER * sum(weight.numel() for weight in affinity.weights)
    labels = NUMBER * probs.numel()
    name = f"window affinity, radius 5, {by(shape)}"
    yield Job(
        f"{name}: apply", partial(affinity.apply, probs), 2 * labels + weights, "weights, labels both ways"
    )
    relaxation = GradientDescent.default_energy.relaxation
    work = torch.no_grad()(partial(potts_and_grad, probs, affinity, relaxation))
    yield Job(f"{name}: Potts sum and gradient", work, 2 * labels + weights, "weights, labels; gradient")


def dense(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    image, logits = draw(sizes.dense, device)
    inputs = NUMBER * (2 * logits.numel() + image.numel())
    for filtering in (LatticeOnGPU(), Exact()):
        build = partial(
            DenseAffinity.from_image, image, (GaussianKernel(1.0, 100.0, 15.0),), filtering=filtering
        )
        built: Any = build().filters[0].filter
        is_lattice = isinstance(filtering, LatticeOnGPU)
        moved = bytes_of_lattice(built, logits.shape[1]) if is_lattice else 0
        yield Job(
            f"dense CRF loss with its {'lattice' if is_lattice else 'exact filter'}, both ways, {by(sizes.dense)}",
            partial(_both_ways, partial(_dense_crf, build), logits.detach().requires_grad_()),
            inputs + moved,
            "logits, images; gradient" + "; one filtering" * is_lattice,
            at_most(3) if is_lattice else None,
        )


def _dense_crf(build: Callable[[], Affinity], logits: Tensor) -> Tensor:
    return dense_crf_loss(logits, build())


def _both_ways(loss: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    logits.grad = None
    loss(logits).backward()


def walker(sizes: Sizes, device: torch.device) -> Iterator[Job]:
    for shape, goal in zip(sizes.strokes, (at_most(10), at_most(25)), strict=False):
        image, _ = draw(shape, device)
        energy: Energy = RandomWalker.default_energy
        problem = Problem.from_seeds(
            energy, strokes(shape, device), shape[1], RandomWalker.default_affinity(image)
        )
        work = partial(solve, problem, RandomWalker())
        yield Job(f"random walker from strokes, {by(shape)}", work, 0, "", goal)


FAMILIES: dict[str, Family] = {
    "descent": Family(descent, (Routine.DESCENT, Routine.STENCIL)),
    "converged": Family(converged, (Routine.DESCENT, Routine.STENCIL)),
    "recipe": Family(recipe),
    "training": Family(training, (Routine.DESCENT,)),
    "network": Family(network_alone),
    "adm": Family(from_the_walker, (Routine.DESCENT, Routine.MULTIGRID)),
    "steps": Family(steps, (Routine.DESCENT, Routine.MULTIGRID)),
    "gated": Family(gated, (Routine.GATED,)),
    "published": Family(published_gated),
    "window": Family(window, (Routine.STENCIL,)),
    "mean-field": Family(mean_field, (Routine.LATTICE, Routine.MEAN_FIELD)),
    "lattice": Family(filters, (Routine.LATTICE,)),
    "exact": Family(exact, (Routine.EXACT,)),
    "dense": Family(dense, (Routine.LATTICE, Routine.EXACT)),
    "walker": Family(walker, (Routine.MULTIGRID,)),
    "folder": Family(folder),
}
"""By the name that `--jobs` knows them by."""


def hot_functions(
    sizes: Sizes, device: torch.device
) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """Name, eager and compiled."""
    problem = _smooth_problem(sizes.descent, device)
    probs, affinity, relaxation = problem.probs, problem.affinity, problem.energy.relaxation
    image, logits = draw(sizes.gated[-1], device)
    calls: dict[str, Callable[[], object]] = {
        "Potts sum and gradient, collision divergence": partial(potts_and_grad, probs, affinity, relaxation),
        "energy and gradient, default of GradientDescent": partial(problem.value_and_grad, probs),
        "gated CRF loss, forward": partial(gated_crf_loss, logits, image, radius=5),
    }
    for name, call in calls.items():
        yield name, call, torch.compile(call)
