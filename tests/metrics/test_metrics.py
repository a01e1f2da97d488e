"""Scores against the definitions, written out pixel by pixel."""

import os
from pathlib import Path

import numpy as np
import pytest

from selflabel.files.label_files import LabelFormat, write_index
from selflabel.metrics.confusion import accuracy, confusion, dice, iou, mean_of_defined
from selflabel.metrics.folders import Rules, score_folder, score_image
from selflabel.metrics.hausdorff import boundary, hd95

pytestmark = pytest.mark.quick

DATA = os.environ.get("SELFLABEL_DATA")


def random_maps(seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, (13, 17)).astype(np.uint8)
    index = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, classes, truth.shape))
    truth[random.random(truth.shape) < 0.1] = 255
    index[random.random(truth.shape) < 0.1] = 255
    return truth, index.astype(np.uint8)


@pytest.mark.parametrize("seed", [371, 8042, 55])
def test_iou_and_dice_against_sets_of_pixels(seed: int) -> None:
    truth, index = random_maps(seed)
    counts = confusion(truth, index)
    scored = [(int(t), int(p)) for t, p in zip(truth.ravel(), index.ravel(), strict=True) if t != 255]
    for k in range(4):
        true = {n for n, (t, _) in enumerate(scored) if t == k}
        given = {n for n, (_, p) in enumerate(scored) if p == k}
        assert iou(counts)[k] == pytest.approx(len(true & given) / len(true | given))
        assert dice(counts)[k] == pytest.approx(2 * len(true & given) / (len(true) + len(given)))
    assert accuracy(counts) == pytest.approx(np.mean([t == p for t, p in scored]))
    assert np.isnan(iou(counts)[4:]).all()


def test_unlabeled_pixels_are_missed_and_ignored_pixels_do_not_count() -> None:
    truth = np.array([[0, 0, 0, 0, 255]], np.uint8)
    counts = confusion(truth, np.array([[0, 0, 255, 1, 1]], np.uint8))
    assert iou(counts)[0] == pytest.approx(2 / 4)
    assert iou(counts)[1] == 0  # labeled, but nowhere true
    assert np.isnan(iou(counts)[2])  # in neither: not defined
    assert mean_of_defined(iou(counts)) == pytest.approx(0.25)


def test_nothing_to_count_gives_nan() -> None:
    counts = confusion(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    assert np.isnan(accuracy(counts))
    assert np.isnan(mean_of_defined(iou(counts)))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="labels of 2 x 3 pixels for a truth of 3 x 2"):
        confusion(np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.uint8))


def slow_hd95(a: np.ndarray, b: np.ndarray) -> float:
    def edge(mask: np.ndarray) -> list[tuple[int, int]]:
        padded = np.pad(mask, 1)
        return [
            (i, j)
            for i, j in zip(*np.nonzero(mask), strict=True)
            if not (padded[i, j + 1] and padded[i + 2, j + 1] and padded[i + 1, j] and padded[i + 1, j + 2])
        ]

    def nearest(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> list[float]:
        return [min(np.hypot(i - m, j - n) for m, n in those) for i, j in these]

    return float(np.percentile(nearest(edge(a), edge(b)) + nearest(edge(b), edge(a)), 95))


@pytest.mark.parametrize("seed", [17, 4099, 802])
def test_hd95_against_all_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = (np.kron(random.random((6, 5)) < 0.4, np.ones((4, 3))).astype(bool) for _ in range(2))
    assert hd95(a, b) == pytest.approx(slow_hd95(a, b))
    assert hd95(a, b) == hd95(b, a)


def test_hd95_of_shifted_squares_and_of_nothing() -> None:
    a = np.zeros((30, 30), bool)
    b = a.copy()
    a[5:15, 5:15] = True
    b[5:15, 9:19] = True
    assert hd95(a, a) == 0
    assert hd95(a, b) == 4
    assert np.isnan(hd95(a, np.zeros_like(a)))
    assert np.isnan(hd95(np.zeros_like(a), a))
    assert len(boundary(np.ones((4, 5), bool))) == 14  # the edge of the image is an edge


def test_hd95_ignores_what_the_truth_ignores() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 1
    truth[:, 15:] = 255
    index = np.where(truth == 255, 0, truth)  # wrong there, and it does not matter
    score, _ = score_image("a", index, truth, Rules())
    assert score.hd95 is not None
    assert score.hd95[:2].tolist() == [0, 0]


def write(folder: Path, **maps: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for stem, index in maps.items():
        write_index(folder / f"{stem}.png", np.asarray(index, np.uint8))
    return folder


def test_folder_scores_pool_counts_and_also_average_over_images(tmp_path: Path) -> None:
    truth = write(
        tmp_path / "truth", a=np.array([[0, 0, 0, 1]]), b=np.array([[1, 1, 1, 1]]), c=np.array([[2]])
    )
    pred = write(tmp_path / "pred", a=np.array([[0, 0, 1, 1]]), b=np.array([[1, 1, 1, 2]]))
    found = score_folder(pred, truth, Rules(distances=False))
    assert [c.index for c in found.classes] == [0, 1, 2]
    assert [c.iou for c in found.classes] == pytest.approx([2 / 3, 4 / 6, 0])
    assert [c.dice for c in found.classes] == pytest.approx([4 / 5, 8 / 10, 0])
    assert [c.true_pixels for c in found.classes] == [3, 5, 0]
    assert found.mean_iou == pytest.approx(4 / 9)
    assert found.image_iou == pytest.approx(np.mean([np.mean([2 / 3, 1 / 2]), np.mean([3 / 4, 0])]))
    assert found.missing == ("c",)
    assert found.mean_hd95 is None
    without = score_folder(pred, truth, Rules(distances=False, first=1))
    assert without.mean_iou == pytest.approx(1 / 3)
    assert without.image_dice == pytest.approx(np.mean([2 / 3, np.mean([6 / 7, 0])]))


def test_distances_are_averaged_where_both_have_the_class_and_the_rest_is_counted(tmp_path: Path) -> None:
    a, b, none = np.zeros((9, 9)), np.zeros((9, 9)), np.zeros((9, 9))
    a[2:4, 2:4] = 1
    b[2:4, 5:7] = 1
    truth = write(tmp_path / "truth", m=a, n=a, o=none)
    pred = write(tmp_path / "pred", m=b, n=none, o=b)
    found = score_folder(pred, truth, Rules(first=1))
    assert found.classes[0].hd95 is None  # the background takes no part
    assert found.classes[1].hd95 == 3
    assert (found.classes[1].hd95_images, found.classes[1].hd95_skipped) == (1, 2)
    assert found.mean_hd95 == 3


def test_bad_pairs_are_reported_and_the_others_scored(tmp_path: Path) -> None:
    truth = write(
        tmp_path / "truth", a=np.zeros((2, 2)), b=np.zeros((2, 3)), c=np.full((2, 2), 9), e=np.zeros((1, 1))
    )
    pred = write(
        tmp_path / "pred", a=np.zeros((2, 2)), b=np.zeros((2, 2)), c=np.zeros((2, 2)), d=np.zeros((2, 2))
    )
    (pred / "e.png").write_bytes(b"not a file")
    calls: list[tuple[int, int]] = []
    found = score_folder(
        pred, truth, Rules(num_classes=2), progress=lambda done, all_: calls.append((done, all_))
    )
    assert [image.stem for image in found.images] == ["a"]
    reasons = dict(found.failures)
    assert "2 x 2 pixels for a truth of 2 x 3" in reasons["b"]
    assert reasons["c"] == "the truth has class 9, but there are 2 classes"
    assert reasons["d"] == "no true file of this stem"
    assert "e" in reasons
    assert calls[-1] == (5, 5)
    assert [c.index for c in found.classes] == [0, 1]
    assert np.isnan(found.classes[1].iou)


def test_stems_must_be_there(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    pred = write(tmp_path / "pred", a=np.zeros((2, 2)))
    found = score_folder(pred, truth, Rules(), stems=["a", "b"])
    assert found.failures == (("b", "no label file of this stem"),)
    with pytest.raises(ValueError, match=r"none of 1 images could be scored: .*no label file"):
        score_folder(pred, truth, Rules(), stems=["b"])
    with pytest.raises(ValueError, match="none of 0 images could be scored: no stems"):
        score_folder(pred, truth, Rules(), stems=[])


def test_two_files_and_other_label_formats(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", t=np.array([[0, 1, 2]]))
    pred = write(tmp_path / "pred", p=np.array([[0, 0, 0]]))
    found = score_folder(pred / "p.png", truth / "t.png", Rules(truth=LabelFormat(0, 1)))
    assert [c.iou for c in found.classes] == pytest.approx([1 / 2, 0])


@pytest.mark.skipif(DATA is None, reason="SELFLABEL_DATA is not set")
def test_a_truth_scores_one_against_itself() -> None:
    masks = Path(str(DATA)) / "bsds" / "masks"
    found = score_folder(masks, masks, Rules())
    assert len(found.images) == 60
    assert (found.mean_iou, found.image_dice, found.mean_hd95) == (1, 1, 0)
