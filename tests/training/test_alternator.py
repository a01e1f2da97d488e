"""The alternation: the same as a loop by hand, never uphill, hard and soft and robust, online and from a store."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cases import batch, network, sample
from torch import Tensor, nn

from selflabel.affinity import GridAffinity
from selflabel.affinity.builders import AffinityBuilder, Dense, Grid
from selflabel.datasets.samples import Batch, collate
from selflabel.driver import Solver, solve
from selflabel.labels import UNLABELED, one_hot
from selflabel.losses.cross_entropy import partial_cross_entropy
from selflabel.losses.self_labeling import self_labeling_loss
from selflabel.problem import Energy, Problem
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    NORMALIZED_QUADRATIC,
    QUADRATIC,
    QUADRATIC_POTTS,
    REVERSE,
    STANDARD,
)
from selflabel.training import Alternator, DiskStore, InitialLabels, LabelStore, MemoryStore, SelfLabeling
from selflabel.training.self_labeling import with_errors

SOFT = replace(GradientDescent.default_energy, pairwise_weight=1.3)


def alternator(net: nn.Module, store: LabelStore | None = None) -> Alternator:
    objective = SelfLabeling(SOFT, GradientDescent(), weight=1.0)
    return Alternator(net, objective, torch.optim.SGD(net.parameters(), 0.1), store=store)


@pytest.mark.quick
def test_a_step_is_the_loop_of_the_docstring() -> None:
    energy, weight, affinity, solver = SOFT, 0.7, Grid(sigma=20.0), GradientDescent()
    by_hand, made = network(), network()
    data, losses = batch(), []
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
    own = torch.optim.SGD(made.parameters(), 0.1)
    objective = SelfLabeling(energy, solver, affinity, max_steps=200, weight=weight, starter=None)
    automatic = Alternator(made, objective, own)
    for _ in range(3):
        logits = by_hand(data.images)
        problem = Problem.from_logits(energy, logits, data.seeds, affinity(data.images))
        labels = solve(problem, solver).labels
        coupling = self_labeling_loss(logits, labels, data.seeds, energy.coupling)
        loss = partial_cross_entropy(logits, data.seeds) + weight * energy.coupling_weight * coupling
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report = automatic.step(data)
        losses.append(report.terms["seeds"] + report.terms["coupling"])
        assert losses[-1] == pytest.approx(loss.item(), rel=1e-6)
    assert losses[-1] < losses[0]
    for a, b in zip(by_hand.parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def joint(objective: SelfLabeling, logits: Tensor, data: Batch, labels: Tensor) -> float:
    """Equation (8) from the explicit matrix and pair by pair, in the paper's order."""
    energy, pixels = objective.energy, logits[0, 0].numel()
    affinity = objective.affinity(data.images)
    matrix, log_probs = affinity.as_matrix().double(), logits.double().log_softmax(1)
    free = (data.seeds == UNLABELED)[:, None]
    y = labels.double().flatten(2)
    first, second = (y[..., :, None].expand(*y.shape, pixels), y[..., None, :].expand(*y.shape, pixels))
    pairs = (matrix[:, None] * energy.relaxation.pair(first, second)).sum()
    if objective.affinity == Grid():
        pairs = pairs / 2
    coupling = (energy.coupling.value(labels.double(), log_probs.exp()) * free).sum()
    entropy = -(torch.special.xlogy(labels, labels).sum(1, keepdim=True) * free).sum()
    whole = (
        energy.coupling_weight * coupling + energy.pairwise_weight * pairs - energy.entropy_weight * entropy
    )
    known = data.seeds != UNLABELED
    seeds = -log_probs.movedim(1, -1)[known].gather(1, data.seeds[known][:, None]).mean()
    return float(seeds + objective.weight * whole / (len(logits) * pixels))


MF = Energy(STANDARD, BILINEAR, 0.9, 0.02, 0.6)
METHODS: list[tuple[str, Energy, Solver, AffinityBuilder]] = [
    ("soft", SOFT, GradientDescent(), Grid()),
    ("reverse", Energy(REVERSE, QUADRATIC_POTTS, 0.4, 2.0), GradientDescent(), Grid()),
    ("hard", Energy(STANDARD, BILINEAR, 1.0, 2.0), GraphCut(), Grid()),
    ("hard collision", Energy(COLLISION, NORMALIZED_QUADRATIC, 0.5, 1.5), GraphCut(), Grid()),
    ("walker", Energy(QUADRATIC, QUADRATIC_POTTS, 1.0, 2.0), RandomWalker(), Grid()),
    ("dense", MF, MeanField(), Dense(sigma=25.0, sigma_xy=5.0)),
]


@pytest.mark.parametrize(
    ("energy", "solver", "affinity"), [m[1:] for m in METHODS], ids=[m[0] for m in METHODS]
)
def test_neither_half_goes_uphill(energy: Energy, solver: Solver, affinity: AffinityBuilder) -> None:
    """A full batch and small steps: (8), recomputed from its definition, after every half-step."""
    net, data = network(double=True), batch(2, double=True)
    objective = SelfLabeling(energy, solver, affinity, weight=0.8)
    made = Alternator(net, objective, torch.optim.SGD(net.parameters(), 0.02), network_steps=2)
    labels, last, falls = None, float("inf"), []
    for _ in range(4):
        logits = net(data.images).detach()
        if labels is not None:
            before = joint(objective, logits, data, labels)
            falls.append(("network", last - before))
            last = before
        report = made.step(data, start=labels)
        assert report.labeling is not None
        labels = report.labeling.labels
        solved = joint(objective, logits, data, labels)
        slack = 2e-6 if affinity != Grid() else 0.0  # the lattice is an approximation of the matrix
        assert report.loss == pytest.approx(solved, rel=1e-9, abs=slack * 1e3)
        assert report.before == pytest.approx(report.loss + report.gain)
        assert report.losses[1] <= report.losses[0]
        falls.append(("solver", report.gain))
        last = solved
    assert min(fall for _, fall in falls) >= -1e-9
    for half in ("network", "solver"):
        assert sum(fall for name, fall in falls if name == half) > 1e-6


def test_terms_add_up_and_the_warm_up_scales_all_but_the_seeds() -> None:
    objective = SelfLabeling(MF, MeanField(), Dense(sigma=25.0, sigma_xy=5.0), weight=0.8)
    data = batch(2, double=True)
    logits = network(double=True)(data.images).detach()
    labeling = objective.label(logits, data, None)
    whole, half = (objective.terms(logits, data, labeling, ramp) for ramp in (1.0, 0.5))
    assert tuple(whole) == objective.names == ("seeds", "coupling", "pairwise", "entropy")
    assert float(whole["entropy"].value) < 0 < float(whole["pairwise"].value)
    for name, factor in (("seeds", 1.0), ("coupling", 0.5), ("pairwise", 0.5), ("entropy", 0.5)):
        assert float(half[name].value) == pytest.approx(factor * float(whole[name].value), rel=1e-12)


# --- robust trust region ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [0.05, 0.4])
def test_the_error_probability_is_the_cross_entropy_of_the_paper(error: float) -> None:
    logits = 6 * torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    index = torch.randint(4, (2, 3, 5), generator=torch.Generator().manual_seed(13))
    data = Batch(("a", "b"), torch.rand(2, 1, 3, 5).double(), torch.full((2, 3, 5), UNLABELED))
    energy = Energy(STANDARD, BILINEAR, 0.6, 1.5)
    objective = SelfLabeling(energy, GraphCut(), weight=0.7, error_probability=error)
    labeling = replace(objective.label(logits, data, None), labels=one_hot(index, 4, torch.float64))
    found = objective.terms(logits, data, labeling, 1.0)["coupling"].value
    z = np.exp(logits.numpy())
    sigma = np.take_along_axis(z / z.sum(1, keepdims=True), index.numpy()[:, None], 1)
    expected = 0.7 * 0.6 * -np.log((1 - error) * sigma + error / 3 * (1 - sigma)).mean()
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_the_solver_sees_the_same_distance() -> None:
    """The cut is the best of all labelings, priced pixel by pixel with the robust cross-entropy."""
    generator = torch.Generator().manual_seed(17)
    logits = 0.5 * torch.randn(1, 2, 2, 4, generator=generator, dtype=torch.float64)
    logits[0, 0, 0, 2] += 12  # very sure, against its neighbors
    logits[0, 1] += 0.8
    data = Batch(
        ("a",), torch.rand(1, 1, 2, 4, generator=generator).double(), torch.full((1, 2, 4), UNLABELED)
    )
    data.seeds[0, 0, 0] = 1
    energy = Energy(STANDARD, BILINEAR, 0.9, 0.8)
    objective = SelfLabeling(energy, GraphCut(), Grid(sigma=300.0), error_probability=0.2)
    labeling = objective.label(logits, data, None)
    edges = GridAffinity.from_image(data.images, sigma=300.0).edges()
    sigma = logits.softmax(1)[0].flatten(1)
    cost = -torch.log(0.8 * sigma + 0.2 * (1 - sigma))
    cost[:, 0] = 0
    best, energies = None, []
    for values in product((0, 1), repeat=8):
        y = torch.tensor(values)
        if y[0] != 1:
            continue
        unary = 0.9 * cost.gather(0, y[None]).sum()
        pairs = 0.8 * (edges.weight[0] * (y[edges.first] != y[edges.second])).sum()
        energies.append(float(unary + pairs))
        best = y if energies[-1] == min(energies) else best
    assert best is not None
    assert torch.equal(labeling.labels.argmax(1).flatten(), best)
    plain = replace(objective, error_probability=0.0).label(logits, data, None)
    assert not torch.equal(plain.labels, labeling.labels)  # the labels that robustness changes here


def test_errors_leave_distributions_and_gradients() -> None:
    logits = torch.tensor([[30.0, -90.0, 0.0]]).view(1, 3, 1, 1).double().requires_grad_()
    assert torch.equal(with_errors(logits, 0.0), logits)
    robust = with_errors(logits, 0.1)
    torch.testing.assert_close(robust.exp().sum(1), torch.ones(1, 1, 1).double())
    assert robust.min().item() == pytest.approx(np.log(0.05))
    assert torch.autograd.gradcheck(lambda x: with_errors(x, 0.1), logits)


def test_an_error_probability_that_says_nothing_is_an_error() -> None:
    data = batch(1)
    logits = torch.zeros(1, 3, 16, 16)
    objective = SelfLabeling(SOFT, GradientDescent(), error_probability=0.67)
    with pytest.raises(ValueError, match=r"below 1 - 1/K = 0\.666667 for 3 classes, got 0\.67"):
        objective.label(logits, data, None)
    with pytest.raises(ValueError, match="for 1 classes"):
        objective.label(logits[:, :1], data, None)
    with pytest.raises(ValueError, match=r"error probability in \[0, 1\), got 1"):
        SelfLabeling(SOFT, GradientDescent(), error_probability=1.0)


# --- labels of what ----------------------------------------------------------------------------------------------


def test_present_only_allows_the_classes_of_the_seeds() -> None:
    data = collate([sample(0), sample(1)])
    data.seeds[0][data.seeds[0] == 2] = UNLABELED
    data.seeds[1][:] = UNLABELED
    logits = torch.zeros(2, 3, 16, 16)
    logits[:, 2] = 3.0
    for present_only, missing in ((True, True), (False, False)):
        objective = SelfLabeling(SOFT, GradientDescent(), present_only=present_only)
        labels = objective.label(logits, data, None).labels
        assert (float(labels[0, 2].sum()) == 0) is missing
        assert float(labels[1, 2].sum()) > 0  # no seeds: nothing is known


def test_a_starter_makes_the_labels_that_a_solve_starts_from() -> None:
    data, affinity = batch(), Grid(sigma=20.0)
    logits = 5 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(13))  # a poor prediction
    objective = SelfLabeling(SOFT, GradientDescent(), affinity, starter=InitialLabels(affinity=affinity))
    walk = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.0)
    start = solve(Problem.from_seeds(walk, data.seeds, 3, affinity(data.images)), RandomWalker()).labels
    problem = Problem.from_logits(SOFT, logits, data.seeds, affinity(data.images))
    expected = solve(problem, GradientDescent(), start=start).labels
    torch.testing.assert_close(objective.label(logits, data, None).labels, expected)
    assert not torch.allclose(replace(objective, starter=None).label(logits, data, None).labels, expected)
    stored = one_hot(torch.ones(3, 16, 16, dtype=torch.int64), 3)  # labels that there are already go first
    without = replace(objective, starter=None).label(logits, data, stored).labels
    torch.testing.assert_close(objective.label(logits, data, stored).labels, without)


def test_a_starter_leaves_images_without_seeds_to_the_prediction() -> None:
    data = batch()
    logits = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(13))
    objective = SelfLabeling(SOFT, GradientDescent())
    seeded = objective.default_start(logits, data)
    for unseeded in ([1], [0, 1, 2]):
        seeds = data.seeds.clone()
        seeds[unseeded] = UNLABELED
        found = objective.default_start(logits, replace(data, seeds=seeds))
        for i in range(3):
            torch.testing.assert_close(found[i], logits[i].softmax(0) if i in unseeded else seeded[i])


# --- stores ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], LabelStore]:
    return MemoryStore if request.param == "memory" else lambda: DiskStore(tmp_path / "labels")


def test_an_epoch_on_stored_labels(make_store: Callable[[], LabelStore]) -> None:
    net, data, store = network(norm=True), batch(3), make_store()
    made = alternator(net, store)
    with pytest.raises(ValueError, match="got none of im0, im1, im2: relabel first"):
        made.fit(data)
    made.relabel([batch(3)])
    assert net.training
    net.eval()
    labels = made.objective.label(net(data.images).detach(), data, None).labels
    net.train()
    for _ in range(2):
        report = made.fit(data, measure=True)
        assert report.labeling is not None
        assert float((report.labeling.labels - labels).abs().max()) < 1e-3
        assert report.gain == 0
        assert report.measured is not None
        assert report.measured["joint"] == pytest.approx(report.loss, rel=1e-3)


def test_hard_labels_are_kept_exactly(make_store: Callable[[], LabelStore]) -> None:
    net, store, data = network(), make_store(), batch(2)
    objective = SelfLabeling(Energy(STANDARD, BILINEAR, 1.0, 2.0), GraphCut())
    made = replace(alternator(net, store), objective=objective)
    made.relabel([data])
    fresh = made.objective.label(net(data.images).detach(), data, None)
    report = made.fit(data)
    assert report.labeling is not None
    assert torch.equal(report.labeling.labels, fresh.labels)
    stored = store.get("im0")
    assert stored is not None
    assert stored.labels.dtype == torch.uint8


def test_a_warm_start_starts_from_the_last_labels(make_store: Callable[[], LabelStore]) -> None:
    net, store, data = network(), make_store(), batch(2)
    made = alternator(net, store)
    first = made.step(data)
    assert first.labeling is not None
    stored = store.get("im1")
    assert stored is not None
    soft = stored.labels.float() / stored.labels.float().sum(0)
    assert float((soft - first.labeling.labels[1]).abs().max()) < 1e-3
    warm, cold = (
        made.objective.label(net(data.images).detach(), data, start)
        for start in (first.labeling.labels, None)
    )
    second = made.step(data)
    assert second.gain == pytest.approx(float(warm.gain.sum()) / 512, rel=0.05)
    assert second.gain < 0.75 * float(cold.gain.sum()) / 512


def test_images_without_stored_labels_start_as_if_alone() -> None:
    """The starter's labels are theirs, though others of the batch have stored ones."""
    net, store, data = network(), MemoryStore(), batch(2)
    made = alternator(net, store)
    seen = replace(data, stems=data.stems[:1], images=data.images[:1], seeds=data.seeds[:1], masks=None)
    made.step(seen)
    logits = net(data.images).detach()
    expected = made.objective.label(logits, data, None).labels[1]
    report = made.step(data)
    assert report.labeling is not None
    torch.testing.assert_close(report.labeling.labels[1], expected)
    from_prediction = replace(made.objective, starter=None).label(logits, data, None).labels[1]
    assert not torch.allclose(expected, from_prediction, atol=1e-3)


def test_labels_made_from_a_start_are_stored() -> None:
    store, data = MemoryStore(), batch(2)
    made = alternator(network(), store)
    start = one_hot(torch.ones(2, 16, 16, dtype=torch.int64), 3)
    report = made.step(data, start=start)
    assert set(store.kept) == set(data.stems)
    expected = made.objective.label(network()(data.images).detach(), data, start)
    assert report.labeling is not None
    torch.testing.assert_close(report.labeling.labels, expected.labels)


def test_volumes_have_the_same_defaults() -> None:
    images = torch.rand(1, 1, 4, 6, 5, generator=torch.Generator().manual_seed(3))
    seeds = torch.full((1, 4, 6, 5), UNLABELED)
    seeds[0, 0, 0], seeds[0, 3, 5] = 0, 1
    data = Batch(("volume",), images, seeds)
    found = SelfLabeling(SOFT, GradientDescent()).label(torch.zeros(1, 2, 4, 6, 5), data, None)
    assert found.labels.shape == (1, 2, 4, 6, 5)
    for few, many in ((4, 6), (8, 26)):
        flat, deep = (Grid(neighbors=n)(images).as_matrix() for n in (few, many))
        assert torch.equal(flat, deep)


def test_labels_of_another_size_are_an_error() -> None:
    net, store = network(), MemoryStore()
    made = alternator(net, store)
    made.step(collate([sample(0)]))
    with pytest.raises(ValueError, match=r"stored labels of im0 of \(20, 20\) pixels, got \(16, 16\)"):
        made.step(collate([sample(0, size=20)]))


def test_a_disk_store_returns_to_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    store = DiskStore(folder)
    made = alternator(network(), store)
    made.step(collate([sample(0), replace(sample(1), stem="a/b.c")]))
    state, old = store.state(), store.get("a/b.c")
    store.saved()
    made.step(collate([replace(sample(1), stem="a/b.c")]))
    assert len(list(folder.iterdir())) == 3  # both versions
    again = DiskStore(folder)
    again.load(state)
    returned = again.get("a/b.c")
    assert returned is not None
    assert old is not None
    assert torch.equal(returned.labels, old.labels)
    again.saved()
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(ValueError, match="which the checkpoint names"):
        again.load({"im0": 9})


def test_without_a_store_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match=r"store=MemoryStore\(\)"):
        alternator(network()).fit(batch(1))


def test_pretraining_lowers_the_seeds_term() -> None:
    made, data = alternator(network()), batch()
    losses = [made.pretrain(data).loss for _ in range(10)]
    assert losses[-1] < losses[0]
    assert made.pretrain(data).terms.keys() == {"seeds"}


def test_an_alternator_takes_a_step_of_the_network_at_least() -> None:
    with pytest.raises(ValueError, match="network_steps >= 1"):
        replace(alternator(network()), network_steps=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight >= 0"),
        ({"error_probability": 1.0}, "error probability in"),
        ({"max_steps": 0}, "max_steps >= 1"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SelfLabeling(SOFT, GradientDescent()), **changes)  # type: ignore[arg-type]
