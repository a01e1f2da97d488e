"""Random changes of samples, and the order they come in."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Sample
from selflabel.datasets.shuffle import batch_indices
from selflabel.datasets.symmetry import UNMOVED, Symmetry
from selflabel.labels import UNLABELED


def sample(height: int = 5, width: int = 7, *, mask: bool = True, stem: str = "x") -> Sample:
    """An image whose values number its pixels."""
    place = torch.arange(height * width).view(height, width)
    index = place % 3
    return Sample(stem, (place / (height * width))[None].float(), index, index.clone() if mask else None)


# --- augmentation ---

ALL = Augmentation(
    flip=True, flip_rows=True, rotate90=True, degrees=20.0, scale=1.3, brightness=0.1, contrast=0.3
)


def drawn(augmentation: Augmentation, given: Sample, count: int = 24) -> list[Sample]:
    generator = torch.Generator().manual_seed(6_709)
    return [augmentation(given, generator) for _ in range(count)]


@pytest.mark.parametrize("size", [(6, 6), (5, 8)])
def test_flips_and_turns_move_everything_alike(size: tuple[int, int]) -> None:
    """Pixels keep their labels: an exact permutation; all eight symmetries of the square occur."""
    height, width = size
    place = torch.arange(height * width).view(height, width)
    given = Sample("x", (place / 255.0)[None], place, place.clone())
    found = drawn(Augmentation(flip=True, flip_rows=True, rotate90=True), given, 60)
    for one in found:
        assert torch.equal((one.image[0] * 255).round().long(), one.seeds)
        assert one.mask is not None
        assert torch.equal(one.mask, one.seeds)
        assert sorted(one.seeds.flatten().tolist()) == list(range(height * width))
        assert one.image.shape == given.image.shape
    assert len({tuple(one.seeds.flatten().tolist()) for one in found}) == (8 if height == width else 4)


def test_the_same_generator_gives_the_same_sample() -> None:
    for one, other in zip(drawn(ALL, sample(9, 9)), drawn(ALL, sample(9, 9)), strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.seeds, other.seeds)


def test_nothing_asked_nothing_changes() -> None:
    given = sample()
    for one in drawn(Augmentation(flip=False), given):
        assert torch.equal(one.image, given.image)
        assert torch.equal(one.seeds, given.seeds)


def test_a_warp_moves_image_and_labels_to_the_same_place() -> None:
    """A bright disk and its mask move alike; the disk stays round, and its distance to the middle grows with it."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    mask = (((y - 19.5) ** 2 + (x - 38.5) ** 2) < 49).long()
    given = Sample("x", mask.float()[None], mask, mask.clone())
    zooms, angles = [], []
    for one in drawn(Augmentation(flip=False, degrees=40.0, scale=1.4), given):
        assert one.mask is not None
        labeled = one.mask == 1
        assert ((one.image[0] > 0.5) != labeled).float().mean() < 0.01
        assert torch.equal(one.mask, one.seeds)
        zoom = float(labeled.sum() / mask.sum()) ** 0.5
        assert abs(int(labeled.any(0).sum()) - int(labeled.any(1).sum())) <= 1
        down, right = float(y[labeled].float().mean()) - 23.5, float(x[labeled].float().mean()) - 31.5
        assert np.hypot(down, right) == pytest.approx(zoom * np.hypot(4, 7), abs=0.5)
        zooms.append(zoom)
        angles.append(np.degrees(np.arctan2(-down, right) - np.arctan2(4, 7)))
    assert 1 / 1.45 < min(zooms) < 0.85 < 1.15 < max(zooms) < 1.45
    assert -42 < min(angles) < -20 < 20 < max(angles) < 42


def test_what_comes_into_sight_is_unlabeled() -> None:
    given = sample(20, 20)
    shrunk = [one for one in drawn(Augmentation(flip=False, scale=2.0), given) if one.image[0, 0].sum() == 0]
    assert shrunk
    for one in shrunk:
        assert (one.seeds[0] == UNLABELED).all()
        assert set(one.seeds.unique().tolist()) <= {0, 1, 2, UNLABELED}  # type: ignore[no-untyped-call]


def test_light_changes_the_image_alone() -> None:
    given = Sample("x", torch.tensor([[[0.3, 0.5], [0.5, 0.7]]]), torch.zeros(2, 2, dtype=torch.int64))
    found = drawn(Augmentation(flip=False, brightness=0.1, contrast=0.5), given)
    for one in found:
        assert torch.equal(one.seeds, given.seeds)
        assert abs(float(one.image.mean()) - 0.5) <= 0.1 + 1e-6
        ratio = float(one.image[0, 1, 1] - one.image[0, 0, 0]) / 0.4
        assert 1 / 1.5 - 1e-5 <= ratio <= 1.5 + 1e-5
    assert len({float(one.image.mean()) for one in found}) == len(found)
    for one in drawn(Augmentation(flip=False, brightness=3.0), given):
        assert one.image.min() >= 0
        assert one.image.max() <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": 0.9}, "scale >= 1, got 0.9"),
        ({"degrees": -1.0}, "degrees >= 0"),
        ({"contrast": np.nan}, "nan"),
    ],
)
def test_augmentation_checks_its_ranges(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**given)  # type: ignore[arg-type]


# --- order ---


@pytest.mark.parametrize(("length", "batch"), [(12, 4), (10, 4), (3, 7), (1, 1)])
def test_every_epoch_is_a_permutation(length: int, batch: int) -> None:
    order = batch_indices(length, batch, 4_229)
    stream = [index for _ in range(3 * length) for index in next(order)[0]]
    epochs = [tuple(stream[start : start + length]) for start in range(0, 3 * length, length)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len(set(epochs)) == (3 if length > 3 else len(set(epochs)))


@pytest.mark.parametrize("start", [1, 5, 23])
def test_starting_later_needs_no_replay(start: int) -> None:
    whole, late = batch_indices(10, 4, 4_229), batch_indices(10, 4, 4_229, start)
    expected = [next(whole) for _ in range(40)][start:]
    assert [next(late) for _ in range(40 - start)] == expected


def test_seeds_drawn_differ() -> None:
    order, other = batch_indices(10, 4, 4_229), batch_indices(10, 4, 4_231)
    drawn_seeds = [next(order)[1] for _ in range(50)]
    assert len(set(drawn_seeds)) == 50
    assert all(seed % 2 == 1 and 0 < seed < 2**32 for seed in drawn_seeds)
    assert [index for index, _ in islice(other, 5)] != [
        index for index, _ in islice(batch_indices(10, 4, 4_229), 5)
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 4, 1), "length >= 1, got 0"),
        ((4, 0, 1), "batch >= 1, got 0"),
        ((4, 4, -1), "seed >= 0, got -1"),
        ((4, 4, 1, -3), "start >= 0, got -3"),
    ],
)
def test_orders_are_checked_at_once(given: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch_indices(*given)


# --- symmetries ---

EVERY = [Symmetry(flip, quarters) for flip in (False, True) for quarters in range(4)]


def test_symmetries_are_a_group() -> None:
    square = torch.arange(25).view(5, 5)
    assert len({tuple(one(square).flatten().tolist()) for one in EVERY}) == 8
    for one in EVERY:
        assert torch.equal(one.undo(one(square)), square)
        for other in EVERY:
            assert torch.equal(one.then(other)(square), other(one(square)))


def test_a_sample_knows_where_it_was_moved() -> None:
    given = replace(sample(6, 6), moved=UNMOVED)
    moves = Augmentation(flip=True, flip_rows=True, rotate90=True)
    for one in drawn(moves, given):
        assert one.moved is not None
        assert torch.equal(one.moved.undo(one.image), given.image)
        again = moves(one, torch.Generator().manual_seed(3))
        assert again.moved is not None
        assert torch.equal(again.moved.undo(again.seeds), given.seeds)
    assert {one.moved for one in drawn(moves, sample(6, 6))} == {None}
    for mixed in (Augmentation(flip=False, degrees=3.0), Augmentation(flip=False, brightness=0.1)):
        assert {one.moved for one in drawn(mixed, given)} == {None}
