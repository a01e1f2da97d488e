"""Self-labeling: pseudo-labels from a solver for the network to fit (ADM), hard or soft, robust or not."""

from dataclasses import dataclass, replace
from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.affinity.protocol import Affinity
from selflabel.datasets.samples import Batch
from selflabel.driver import Solver, check_fit, solve
from selflabel.energy import Energy
from selflabel.inputs import widened
from selflabel.kinds import check_fields
from selflabel.labels import classes_present
from selflabel.losses.base import full_precision, mean_per_pixel
from selflabel.losses.modules import build
from selflabel.losses.self_labeling import self_labeling_loss
from selflabel.problem import Problem
from selflabel.training.objectives import Logits, SeedsOnly, Terms, WeightedMean, pixels
from selflabel.training.pseudo_labels import PseudoLabels
from selflabel.training.starters import InitialLabels, Starter


def with_errors(logits: Logits, probability: float) -> Logits:
    """``ln σ'`` with ``σ'^k = (1 - ε) σ^k + ε/(K-1) (1 - σ^k)``: the classes that an erring annotator would name.

    If labels y name the true class with probability 1 - ε, and each other class with ε/(K-1), then σ' is the
    distribution of y under the prediction σ. The cross entropy ``-ln σ'^y`` is bounded by ``-ln ε/(K-1)``: outliers
    among the labels pull with a bounded, vanishing force (Marin & Boykov, ICCV 2021). ε = 0 returns the logits as
    they are.
    """
    if probability == 0:
        return logits
    others = probability / (logits.shape[1] - 1)
    with full_precision(logits):
        return torch.log(others + (1 - probability - others) * widened(logits).softmax(1))


@dataclass(frozen=True)
class SelfLabeling:
    """Alternate a solver and the network on one loss (Zhang & Boykov 2025, eq. 8):

        L(σ, y) = pCE(σ) + weight / N · [η Σ_{i∉Ω} H(y_i, σ_i) + λ Σ_ij w_ij P(y_i, y_j) - τ Σ_{i∉Ω} S(y_i)]

    The bracket is `Energy`, a sum over the N pixels of the batch; pCE is the mean of the `seeds`. The solver lowers
    it in y, the network in σ.

    - hard self-labeling (grid Potts by graph cut): a solver of hard labels, such as `GraphCut`;
    - soft self-labeling: `GradientDescent` with collision cross-entropy and collision divergence;
    - dense CRF (Tang et al., ECCV 2018): `MeanField` with a dense affinity;
    - robust trust region (Marin & Boykov, ICCV 2021): `GraphCut` and an `error_probability` ε > 0. Both halves
      then see σ' of `with_errors` in the coupling: the trust region's distance between labels and prediction is
      ``-ln((1-ε) σ^y + ε/(K-1) (1-σ^y))``, its weight η.

    `selflabel.training.default_objective` has the settings for each solver, as far as the papers say.

    starter: makes the start of a solve without stored labels, from the seeds alone. This is far better while the
    prediction is poor: hard labels and scale-free relaxations have energies with many local minima. `KeptLabels` makes
    them once an image, as `train` does. None: solves start at the prediction, as published.

    affinities: of the energy's regularizers, one each; without any, all are on `affinity`.

    weight: 10, as seeds are about a percent of the pixels, and count that much less in the published sums than in
    means. max_steps: of each solve. present_only: an image has only the classes of its seeds (any class without
    seeds). Raises `ValueError` for a weight below 0 and for ε outside [0, 1 - 1/K), where labels carry no information.
    """

    energy: Energy
    solver: Solver
    affinity: AffinityBuilder = Grid(neighbors=8, by_distance=True)
    max_steps: int = 30
    weight: float = 10.0
    error_probability: float = 0.0
    present_only: bool = False
    seeds: SeedsOnly = SeedsOnly()
    starter: Starter | None = InitialLabels()
    affinities: tuple[AffinityBuilder, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        self.energy.check_affinities(len(self.affinities))
        if not 0 <= self.weight < inf:
            raise ValueError(f"expected a finite weight >= 0, got {self.weight}")
        if not 0 <= self.error_probability < 1:
            raise ValueError(f"expected an error probability in [0, 1), got {self.error_probability}")
        if self.max_steps < 1:
            raise ValueError(f"expected max_steps >= 1, got {self.max_steps}")

    @property
    def names(self) -> tuple[str, ...]:
        """The summands of (8); the entropy only if the energy has it."""
        names = ("seeds", "coupling", "pairwise")
        return (*names, "entropy") if self.energy.entropy_weight else names

    def check(self, num_classes: int) -> None:
        """Raise `ValueError` if solvers, energies and affinities do not fit together, or ε not this many classes.

        `ImportError` without a package that a solver needs. Builds the affinities of an image of 4 x 4 pixels.
        """
        self._view(torch.zeros(1, num_classes, 1, 1))
        image = torch.full((1, 3, 4, 4), 0.5)
        check_fit(self.solver, self.energy, self.affinity(image))
        if self.starter is not None:
            check_fit(self.starter.solver, self.starter.energy, self.starter.affinity(image))

    def problem(self, logits: Logits, batch: Batch, affinity: Affinity) -> Problem:
        """The solver's half."""
        view, classes = self._view(logits), self._classes(logits, batch)
        further = tuple(build(builder, batch.images) for builder in self.affinities)
        return Problem.from_logits(self.energy, view, batch.seeds, affinity, classes, further)

    def default_start(self, logits: Logits, batch: Batch) -> Logits:
        """The start of a solve without stored labels: the starter's labels, or the prediction."""
        problem = self.problem(logits, batch, build(self.affinity, batch.images))
        return self._default_start(problem, batch)

    def label(self, logits: Logits, batch: Batch, start: Logits | None) -> PseudoLabels:
        """Solve for the pseudo-labels, from `start` or the default start."""
        affinity = build(self.affinity, batch.images)
        problem = self.problem(logits, batch, affinity)
        start = self._default_start(problem, batch) if start is None else start
        solution = solve(problem, self.solver, start=start, max_steps=self.max_steps)
        coupling, entropy = unary_values(problem, solution.labels)
        return PseudoLabels(
            solution.labels,
            self.energy,
            self.affinity,
            pairwise=solution.energy - coupling - entropy,
            entropy=entropy,
            gain=solution.start_energy - solution.energy,
            affinity=affinity,
        )

    def terms(self, logits: Logits, batch: Batch, pseudo_labels: PseudoLabels | None, ramp: float) -> Terms:
        """The network's half, and the constants that complete (8). Raises `ValueError` without labels."""
        if pseudo_labels is None:
            raise ValueError(
                "expected pseudo-labels to fit, got none: call `label` first, or take a stored one"
            )
        scale, mass = ramp * self.weight, pixels(logits)
        coupling = self_labeling_loss(
            self._view(logits), pseudo_labels.labels, batch.seeds, self.energy.coupling
        )
        terms = dict(self.seeds.terms(logits, batch, None, ramp))
        terms["coupling"] = WeightedMean(scale * self.energy.coupling_weight * coupling, mass)
        terms["pairwise"] = WeightedMean(scale * mean_per_pixel(pseudo_labels.pairwise, logits), mass)
        if self.energy.entropy_weight:
            terms["entropy"] = WeightedMean(scale * mean_per_pixel(pseudo_labels.entropy, logits), mass)
        return terms

    def _default_start(self, problem: Problem, batch: Batch) -> Logits:
        return problem.probs if self.starter is None else self.starter(problem, batch)

    def _view(self, logits: Logits) -> Logits:
        least = 1 - 1 / logits.shape[1]
        if self.error_probability >= least > 0 or (self.error_probability and logits.shape[1] < 2):
            raise ValueError(
                f"expected an error probability below 1 - 1/K = {least:g} for {logits.shape[1]} classes, got "
                f"{self.error_probability}"
            )
        return with_errors(logits, self.error_probability)

    def _classes(self, logits: Logits, batch: Batch) -> Bool[Tensor, "b k"] | None:
        if not self.present_only:
            return None
        present = classes_present(batch.seeds, logits.shape[1])
        return present | ~present.any(1, keepdim=True)


def unary_values(problem: Problem, labels: Logits) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The parts of coupling and entropy in the energy of each image."""
    unary = replace(problem.energy, pairwise_weight=0.0, regularizers=())
    alone = replace(problem, energy=unary, affinities=())
    coupling = replace(alone, energy=replace(unary, entropy_weight=0.0)).value(labels)
    if not unary.entropy_weight:
        return coupling, torch.zeros_like(coupling)
    return coupling, alone.value(labels) - coupling
