"""Seeds of scribbles, of masks, of both, and of nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import make_data

from selflabel.datasets.samples import Folder
from selflabel.datasets.supervision import Supervision
from selflabel.files.label_files import read_index, write_index
from selflabel.labels import UNLABELED

pytestmark = pytest.mark.quick
STEMS = ("t0", "t1", "t2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Scribbles with a mistake: all of their pixels say class 0; a row of the masks is unknown."""
    root = make_data(tmp_path, train=3, val=0)
    for stem in STEMS:
        seeds, mask = (read_index(root / name / f"{stem}.png") for name in ("scribbles", "masks"))
        seeds[seeds == 1] = 0
        mask[1, :4] = UNLABELED
        write_index(root / "scribbles" / f"{stem}.png", seeds)
        write_index(root / "masks" / f"{stem}.png", mask)
    return root


def seeds_of(root: Path, supervision: Supervision, size: int | None = None) -> list[np.ndarray]:
    folder = Folder(root, STEMS, 2, size=size, supervision=supervision)
    assert [folder[number].mask for number in range(3)] == [None] * 3
    return [folder[number].seeds.numpy() for number in range(3)]


def test_curated_seeds_have_the_classes_of_the_masks(root: Path) -> None:
    for stem, found in zip(STEMS, seeds_of(root, Supervision(curated=True)), strict=True):
        seeds, mask = (read_index(root / name / f"{stem}.png") for name in ("scribbles", "masks"))
        np.testing.assert_array_equal(found, np.where(seeds == UNLABELED, UNLABELED, mask))
        assert {0, 1} < set(found.ravel().tolist())
        assert (found[1, :4] == UNLABELED).all(), "unknown in the mask"


@pytest.mark.parametrize("size", [None, 8])
def test_images_of_each_kind(root: Path, size: int | None) -> None:
    """A mask as seeds is the mask as a network gets it; only the scribbled image needs scribbles."""
    (root / "scribbles" / "t1.png").unlink()
    (root / "scribbles" / "t2.png").unlink()
    (root / "masks" / "t2.png").unlink()
    found = seeds_of(root, Supervision(full=frozenset({"t1"}), none=frozenset({"t2"})), size)
    mask = Folder(root, ("t1",), 2, size=size, scribbles=None, masks="masks")[0].mask
    assert mask is not None
    np.testing.assert_array_equal(found[1], mask.numpy())
    np.testing.assert_array_equal(found[0], Folder(root, ("t0",), 2, size=size)[0].seeds.numpy())
    assert (found[2] == UNLABELED).all()


def test_a_folder_knows_which_files_it_reads(root: Path) -> None:
    digests = {
        Folder(root, STEMS, 2, supervision=supervision).digest
        for supervision in (
            Supervision(),
            Supervision(full=frozenset({"t1"})),
            Supervision(none=frozenset({"t1"})),
            Supervision(curated=True),
        )
    }
    assert len(digests) == 4


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "masks" / "t1.png").unlink()
    (root / "scribbles" / "t2.png").unlink()
    with pytest.raises(ValueError, match="no mask of t1"):
        Folder(root, STEMS[:2], 2, supervision=Supervision(full=frozenset({"t1"})))
    with pytest.raises(ValueError, match="no scribbles of t2"):
        Folder(root, STEMS, 2, supervision=Supervision(full=frozenset({"t1"})))
    with pytest.raises(ValueError, match="got both for t1: leave each in one"):
        Supervision(full=frozenset({"t0", "t1"}), none=frozenset({"t1"}))


def test_all_seeds_of_masks_are_no_mistake(root: Path) -> None:
    """Scribbles at every pixel are warned about; masks that were asked for are not."""
    folder = Folder(root, STEMS, 2, supervision=Supervision(full=frozenset(STEMS)))
    assert all(torch.is_tensor(folder[number].seeds) for number in range(3))
    assert folder.whole_seeds == 0
