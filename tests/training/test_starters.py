"""Starts of solves that are made once an image and moved with it."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from support.cases import CLASSES, QUICK, batch, network, sample, samples
from torch import Tensor

from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Batch, Sample, collate
from selflabel.datasets.symmetry import UNMOVED, Symmetry
from selflabel.driver import Solver
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent, RandomWalker
from selflabel.training import Batches, InitialLabels, KeptLabels, SelfLabeling, read_history, train
from selflabel.training.starters import in_bytes, lifted

SOFT = SelfLabeling(replace(GradientDescent.default_energy, pairwise_weight=1.3), GradientDescent())
EVERY = [Symmetry(flip, quarters) for flip in (False, True) for quarters in range(4)]


def kept_samples(count: int) -> list[Sample]:
    return [replace(sample(number), moved=UNMOVED) for number in range(count)]


def moved(given: Sample, symmetry: Symmetry) -> Sample:
    return replace(given, image=symmetry(given.image), seeds=symmetry(given.seeds), mask=None, moved=symmetry)


@dataclass(frozen=True, eq=False)
class Counting(InitialLabels):
    """Counts the images that it solves for."""

    solves: tuple[list[int], ...] = ([],)

    def solved(self, images: Tensor, seeds: Tensor, like: Tensor, classes: Tensor | None = None) -> Tensor:
        """Count, and solve."""
        self.solves[0].append(len(images))
        return super().solved(images, seeds, like, classes)


def problem(data: Batch, logits: Tensor | None = None, present_only: bool = False) -> Problem:
    objective = replace(SOFT, present_only=present_only)
    given = torch.zeros(len(data.stems), CLASSES, *data.images.shape[2:]) if logits is None else logits
    return objective.problem(given, data, SOFT.affinity(data.images))


def test_labels_are_solved_for_once_and_moved_with_their_image() -> None:
    """In every symmetry they are what a solve on the moved image gives, but for bytes."""
    inner = Counting(solves=([],))
    starter = KeptLabels(inner)
    for symmetry in EVERY:
        data = collate([moved(sample(number), symmetry) for number in range(3)])
        found, expected = starter(problem(data), data), InitialLabels()(problem(data), data)
        torch.testing.assert_close(found, expected, rtol=0, atol=1.75 / 255)
        torch.testing.assert_close(found.sum(1), torch.ones(3, 16, 16))
        assert float(found.min()) >= 9e-4
    assert inner.solves == ([3],)
    assert starter.bytes == sum(one.labels.numel() for one in starter.kept.values() if one is not None) > 0


def test_the_batch_that_first_has_an_image_does_not_matter() -> None:
    """As a resumed run meets images in other company and otherwise turned: the same bytes."""
    given = kept_samples(4)
    together, apart = KeptLabels(InitialLabels()), KeptLabels(InitialLabels())
    data = collate(given)
    expected = together(problem(data), data)
    for number, symmetry in ((2, EVERY[5]), (0, EVERY[3]), (3, EVERY[0]), (1, EVERY[6])):
        one = collate([moved(given[number], symmetry)])
        apart(problem(one), one)
    assert torch.equal(apart(problem(data), data), expected)


def test_a_budget_changes_nothing_but_the_work() -> None:
    inner = Counting(solves=([],))
    data = collate(kept_samples(3))
    free = KeptLabels(InitialLabels())(problem(data), data)
    size = KeptLabels(InitialLabels())
    size(problem(data), data)
    tight = KeptLabels(inner, budget=size.bytes - 1)
    for _ in range(2):
        assert torch.equal(tight(problem(data), data), free)
    assert inner.solves == ([3, 1],)
    assert tight.bytes <= tight.budget


def test_images_whose_pixels_or_colors_were_mixed_are_solved_for_anew() -> None:
    given, generator = kept_samples(2), torch.Generator().manual_seed(11)
    for augmentation in (Augmentation(degrees=9.0), Augmentation(scale=1.2), Augmentation(contrast=0.2)):
        data = collate([augmentation(one, generator) for one in given])
        assert data.moved == (None, None)
        starter = KeptLabels(InitialLabels())
        assert torch.equal(starter(problem(data), data), InitialLabels()(problem(data), data))
        assert starter.kept == {}
    data = batch(2)  # made by hand: nothing is known
    assert torch.equal(starter(problem(data), data), InitialLabels()(problem(data), data))


def test_images_without_seeds_start_from_the_prediction() -> None:
    given = kept_samples(3)
    given[1] = replace(given[1], seeds=torch.full((16, 16), UNLABELED))
    data = collate(given)
    logits = torch.randn(3, CLASSES, 16, 16, generator=torch.Generator().manual_seed(13))
    starter = KeptLabels(InitialLabels())
    for scale in (1.0, 2.0):
        found = starter(problem(data, scale * logits), data)
        assert torch.equal(found[1], problem(data, scale * logits).probs[1])
        torch.testing.assert_close(
            found[[0, 2]], InitialLabels()(problem(data), data)[[0, 2]], rtol=0, atol=1.75 / 255
        )


def test_only_the_allowed_classes_get_labels() -> None:
    given = kept_samples(2)
    given[0] = replace(given[0], seeds=torch.where(given[0].seeds == 2, UNLABELED, given[0].seeds))
    data = collate(given)
    starter = KeptLabels(InitialLabels())
    posed = problem(data, present_only=True)
    labels = posed.feasible(starter(posed, data))
    assert float(labels[0, 2].max()) == 0 < float(labels[1, 2].max())
    first = starter.kept["im0"]
    assert first is not None
    assert first.classes == (0, 1)


def test_bytes_sum_to_255() -> None:
    generator = torch.Generator().manual_seed(17)
    labels = (4 * torch.randn(2, 150, 7, 5, generator=generator)).softmax(1)
    labels[:, ::3] = 0
    labels /= labels.sum(1, keepdim=True)
    found = in_bytes(labels)
    assert torch.equal(found.sum(1, dtype=torch.int64), torch.full((2, 7, 5), 255))
    assert bool((found[:, ::3] == 0).all())
    assert float((found.double() / 255 - labels).abs().max()) < 1 / 255
    torch.testing.assert_close(lifted(found.double(), 150).sum(1), torch.ones(2, 7, 5).double())


def test_a_run_solves_once_an_image_for_objective_and_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = list[int]()
    original = InitialLabels.solved

    def counted(self: InitialLabels, images: Tensor, seeds: Tensor, like: Tensor, classes: object) -> Tensor:
        solved.append(len(images))
        return original(self, images, seeds, like, classes)  # type: ignore[arg-type]

    monkeypatch.setattr(InitialLabels, "solved", counted)
    flips = Augmentation(flip=True, flip_rows=True, rotate90=True)
    data = Batches(kept_samples(5), CLASSES, 2, augmentation=flips)
    settings = replace(QUICK, steps=10)
    train(network(), SOFT, data, settings, tmp_path / "kept")
    assert sum(solved) == 5
    solved.clear()
    train(network(), SOFT, replace(data, samples=samples(5)), settings, tmp_path / "anew")
    assert sum(solved) > 10
    losses = [
        [row["loss"] or 0 for row in read_history(tmp_path / name / "history.jsonl")]
        for name in ("kept", "anew")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_starter_says_what_it_solves() -> None:
    inner = InitialLabels(RandomWalker())
    solver: Solver = KeptLabels(inner).solver
    assert (solver, KeptLabels(inner).affinity, KeptLabels(inner).energy) == (
        inner.solver,
        inner.affinity,
        inner.energy,
    )
    replace(SOFT, starter=KeptLabels(inner)).check(3)
