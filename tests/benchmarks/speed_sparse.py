"""Sparse affinities: graph cut against GCO and PyMaxflow, descent as published, scikit-image's random walker."""

import warnings
from functools import partial
from itertools import product

import maxflow
import numpy as np
import torch
from graph_cut import gco_labels
from pictures import Picture, color_mixture
from skimage.draw import line
from skimage.segmentation import random_walker
from timing import Duel, Row, spread
from torch import Tensor

from selflabel import Energy, GridAffinity, Problem, solve
from selflabel.labels import UNLABELED
from selflabel.solvers import GradientDescent, GraphCut, RandomWalker
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE, QUADRATIC, QUADRATIC_POTTS

Array = np.ndarray


def energy_of(labels: Array, unary: Array, first: Array, second: Array, weight: Array) -> float:
    return float(unary[np.arange(len(unary)), labels].sum() + weight[labels[first] != labels[second]].sum())


def plain_expansion(unary: Array, first: Array, second: Array, weight: Array) -> Array:
    """α-expansion in a plain loop over PyMaxflow graphs, as its users write it."""
    labels = unary.argmin(1)
    best = energy_of(labels, unary, first, second, weight)
    while True:
        before = best
        for alpha in range(unary.shape[1]):
            graph = maxflow.Graph[float](len(unary), len(first))
            nodes = graph.add_grid_nodes(len(unary))
            apart = weight * (labels[first] != labels[second])
            # θ(0,0) = apart, θ(0,1) = w [y ≠ α], θ(1,0) = w [y' ≠ α], θ(1,1) = 0
            to_first, to_second = weight * (labels[second] != alpha), weight * (labels[first] != alpha)
            capacity = (to_first + to_second - apart) / 2
            cost = unary[:, alpha] - unary[np.arange(len(unary)), labels]
            cost += np.bincount(first, to_first - apart - capacity, len(unary))
            cost += np.bincount(second, to_second - apart - capacity, len(unary))
            graph.add_grid_tedges(nodes, np.maximum(cost, 0), np.maximum(-cost, 0))
            graph.add_edges(first, second, capacity, capacity)
            graph.maxflow()
            trial = np.where(graph.get_grid_segments(nodes), alpha, labels)
            value = energy_of(trial, unary, first, second, weight)
            if value < best:
                labels, best = trial, value
        if best >= before * (1 - 1e-12):
            return labels


def potts(pictures: list[Picture], repeats: int) -> list[Row]:
    rng, rows = np.random.default_rng(20_303), []
    cases = [(p.pixels(), color_mixture(p.pixels(), 21, rng)) for p in pictures]
    for strength in (0.5, 3.0):
        duel, above = Duel(repeats), []
        for image, probs in cases:
            affinity = GridAffinity.from_image(torch.from_numpy(image).movedim(-1, 0)[None], 9.0)
            seeds = torch.full((1, *image.shape[:2]), UNLABELED)
            sigma = torch.from_numpy(probs).float()[None]
            problem = Problem(Energy(pairwise_weight=strength), sigma, seeds, affinity)
            edges = affinity.edges()
            first, second = edges.first.numpy().astype(np.int32), edges.second.numpy().astype(np.int32)
            weight = strength * edges.weight[0].double().numpy()
            assert problem.energy.coupling.at_vertices is not None
            unary = problem.energy.coupling.at_vertices(sigma)[0].flatten(1).T.double().contiguous().numpy()
            given = unary, first, second, weight
            solution, labels = duel.run(partial(solve, problem, GraphCut()), partial(gco_labels, *given))
            best = min(energy_of(found, *given) for found in (labels, plain_expansion(*given)))
            above.append(100 * (energy_of(solution.labels[0].argmax(0).flatten().numpy(), *given) / best - 1))
        check = f"energy over the better of GCO and PyMaxflow: {spread(above, '.3f')} %"
        rows.append(
            duel.row(f"Potts, K = 21, λ = {strength:g}", "gco-wrapper", 0.5, check, max(above) <= 0.01)
        )
    return rows


def recipe(probs: Tensor, affinity: GridAffinity, energy: Energy) -> Tensor:
    """200 steps of descent on logits at rate 0.075 by autograd (Zhang & Boykov 2025, App. A), from the prediction."""
    logits = probs.clamp_min(1e-10).log().requires_grad_()
    for _ in range(200):
        labels = logits.softmax(1)
        value = -energy.coupling_weight * (labels * probs).sum(1).clamp_min(1e-13).log().sum()
        norms = (labels * labels).sum(1, keepdim=True)
        for pairs in affinity.pairs():
            dot = (pairs.first(labels) * pairs.second(labels)).sum(1, keepdim=True).clamp_min(1e-13)
            apart = 0.5 * (pairs.first(norms) * pairs.second(norms)).log() - dot.log()
            value = value + energy.pairwise_weight * (pairs.weight * apart).sum()
        (slope,) = torch.autograd.grad(value, logits)
        with torch.no_grad():
            logits -= 0.075 * slope
    return logits.detach().softmax(1)


def soft(pictures: list[Picture], repeats: int) -> list[Row]:
    """With the steps that reach the recipe's energy, and with the default number."""
    rng = np.random.default_rng(20_304)
    energy = Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 6.0)
    duels = {steps: (Duel(repeats), []) for steps in (5, 200)}
    for picture in pictures:
        image = torch.nn.functional.interpolate(picture.image, (360, 480), mode="bilinear")
        array = (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        probs = torch.from_numpy(color_mixture(array, 12, rng)).float()[None]
        affinity = GridAffinity.from_image(torch.from_numpy(array).movedim(-1, 0)[None], 9.0)
        problem = Problem(energy, probs, torch.full((1, 360, 480), UNLABELED), affinity)
        for steps, (duel, shares) in duels.items():
            ours, theirs = duel.run(
                partial(solve, problem, GradientDescent(), max_steps=steps),
                partial(recipe, probs, affinity, energy),
            )
            shares.append(float(ours.energy / problem.value(theirs)))
    return [
        duel.row(
            f"soft labels, K = 12, 480x360, at most {steps} steps",
            "published recipe",
            0.05,
            f"energy {spread(shares, '.2f')} times the recipe's",
            max(shares) < 1,
        )
        for steps, (duel, shares) in duels.items()
    ]


def scattered(shape: tuple[int, int], classes: int, rng: np.random.Generator) -> Array:
    """Seeds on 5 % of the pixels; classes by blocks of 40x40 pixels."""
    height, width = shape
    grid = height // 40 + 1, width // 40 + 1
    blocks = rng.permutation(np.arange(np.prod(grid)) % classes).reshape(grid)
    regions = blocks.repeat(40, 0).repeat(40, 1)[:height, :width]
    return np.where(rng.random(shape) < 0.05, regions, UNLABELED)


def strokes(shape: tuple[int, int], classes: int, rng: np.random.Generator) -> Array:
    """Two straight strokes a class, one pixel thin and at most 80 pixels long."""
    seeds = np.full(shape, UNLABELED)
    last = np.array(shape) - 1
    for label in np.arange(classes).repeat(2):
        start = rng.integers(0, shape)
        seeds[line(*start, *np.clip(start + rng.integers(-56, 57, 2), 0, last))] = label
    return seeds


def walker(pictures: list[Picture], repeats: int) -> list[Row]:
    """Weights as scikit-image's for β = 130."""
    warnings.simplefilter("ignore")
    rng, rows = np.random.default_rng(20_305), []
    for (what, draw), classes in product((("5 % seeds", scattered), ("thin strokes", strokes)), (5, 21)):
        duels = {mode: (Duel(repeats), []) for mode in ("bf", "cg_mg")}
        for picture in pictures:
            image = picture.pixels()
            seeds = draw(image.shape[:2], classes, rng)
            markers = np.where(seeds == UNLABELED, 0, seeds + 1)
            affinity = as_scikit_image(image)
            problem = Problem.from_seeds(
                Energy(QUADRATIC, QUADRATIC_POTTS, 0.0, 1.0), torch.from_numpy(seeds)[None], classes, affinity
            )
            exact = None
            for mode, (duel, errors) in duels.items():
                ours, theirs = duel.run(
                    partial(solve, problem, RandomWalker()),
                    partial(
                        random_walker,
                        image,
                        markers,
                        beta=130,
                        mode=mode,
                        channel_axis=2,
                        return_full_prob=True,
                    ),
                )
                exact = theirs if mode == "bf" else exact
                errors.append(float(np.abs(ours.labels[0].numpy() - exact).max()))
        for mode, target in (("bf", 0.5), ("cg_mg", 0.25)):
            duel, errors = duels[mode]
            name = f"random walker, K = {classes}, {what}"
            check = f"from the factorization {spread(errors)}"
            rows.append(duel.row(name, f"scikit-image {mode}", target, check, max(errors) <= 1e-5))
    return rows


def as_scikit_image(image: Array, beta: float = 130.0) -> GridAffinity:
    """Its edge weights: ``exp(-β d² / (10 std √c)) + 1e-10``, d² summed over the c channels of the image in 0..1."""
    features = torch.from_numpy(image / 255).movedim(-1, 0)[None]
    rate = beta / (10 * float(features.std(correction=0)) * features.shape[1] ** 0.5)
    plain = GridAffinity.from_features(features, (2 * rate) ** -0.5, 4)
    return GridAffinity(plain.size, plain.offsets, tuple(weight + 1e-10 for weight in plain.weights))
