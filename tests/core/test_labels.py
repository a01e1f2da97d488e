"""Labels, seeds and what converts between them."""

import pytest
import torch

from selflabel.labels import (
    UNLABELED,
    check_seeds,
    classes_present,
    one_hot,
    restrict_classes,
    to_index,
    unlabeled,
    with_seeds,
)

pytestmark = pytest.mark.quick

INDEX = torch.tensor([[[0, 2, UNLABELED], [1, 1, 0]]])


@pytest.mark.parametrize("integer", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hot(integer: torch.dtype, dtype: torch.dtype) -> None:
    labels = one_hot(INDEX.to(integer), 3, dtype)
    assert labels.dtype == dtype
    expected = [[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [1, 1, 0]], [[0, 1, 0], [0, 0, 0]]]
    assert labels[0].tolist() == expected


def test_one_hot_of_volumes() -> None:
    index = torch.tensor([[[[1]], [[UNLABELED]], [[0]]]])
    assert one_hot(index, 2).shape == (1, 2, 3, 1, 1)
    assert one_hot(index, 2)[0, :, :, 0, 0].tolist() == [[0, 0, 1], [1, 0, 0]]


def test_unlabeled_and_clamp() -> None:
    labels = torch.tensor([0.2, 0.3, 0.5]).view(1, 3, 1, 1).expand(1, 3, 2, 3).contiguous()
    before = labels.clone()
    clamped = with_seeds(labels, INDEX)
    assert torch.equal(labels, before)
    assert unlabeled(INDEX)[0, 0].tolist() == [[False, False, True], [False, False, False]]
    assert clamped[0, :, 0, 2].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert clamped[0, :, 0, 1].tolist() == [0, 0, 1]
    assert clamped.dtype == labels.dtype


def test_restrict_normalizes_and_helps_pixels_without_mass() -> None:
    labels = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]]).t().reshape(1, 3, 1, 2)
    kept = restrict_classes(labels, torch.tensor([[True, False, True]]))
    assert kept[0, :, 0, 0].tolist() == pytest.approx([2 / 7, 0, 5 / 7])
    assert kept[0, :, 0, 1].tolist() == [0.5, 0, 0.5]


def test_restrict_is_by_image() -> None:
    labels = torch.full((2, 2, 1, 1), 0.5, dtype=torch.float64)
    kept = restrict_classes(labels, torch.tensor([[True, True], [False, True]]))
    assert kept.flatten(1).tolist() == [[0.5, 0.5], [0, 1]]
    assert kept.dtype == torch.float64


def test_harden_takes_the_first_of_equals() -> None:
    labels = torch.tensor([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]).t().reshape(1, 3, 1, 2)
    assert to_index(labels)[0].tolist() == [[0, 2]]


def test_classes_present() -> None:
    seeds = torch.stack([INDEX[0], torch.full_like(INDEX[0], UNLABELED)])
    assert classes_present(seeds, 4).tolist() == [[True, True, True, False], [False] * 4]


@pytest.mark.parametrize(("value", "shown"), [(3, r"\[3\]"), (-1, r"\[-1\]"), (254, r"\[254\]")])
def test_seeds_out_of_range(value: int, shown: str) -> None:
    seeds = INDEX.clone()
    seeds[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"seeds in 0..2 or 255.*got {shown}"):
        check_seeds(seeds, 3)


def test_seeds_of_excluded_classes() -> None:
    check_seeds(INDEX, 3)
    check_seeds(INDEX, 3, torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="every class that has seeds to be allowed"):
        check_seeds(INDEX, 3, torch.tensor([[True, True, False]]))
