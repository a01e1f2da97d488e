"""Files of probabilities have at most 255 classes: 255 means unlabeled."""

from pathlib import Path

import numpy as np
import pytest

from selflabel.files.probabilities import Probabilities, decode_probabilities, write_soft


def test_255_classes_are_the_most() -> None:
    row = np.full((300, 1, 1), 1 / 300)
    with pytest.raises(ValueError, match="expected at most 255 classes, got 300: 255 means unlabeled"):
        Probabilities(row)
    assert len(Probabilities(row[:255]).probs) == 255
    for wrong in (255, -1):
        with pytest.raises(ValueError, match=rf"expected classes in 0..254, got {wrong}"):
            Probabilities(row[:2], np.array([0, wrong]))


def test_255_classes_are_the_most_in_files(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.full((300, 1, 1), 1 / 300))
    with pytest.raises(ValueError, match="expected at most 255 classes, got 300"):
        decode_probabilities((tmp_path / "p.npy").read_bytes(), ".npy", (1, 1))
    write_soft(tmp_path / "p.npz", np.full((2, 1, 1), 0.5), np.array([0, 255]))
    with pytest.raises(ValueError, match=r"expected classes in 0\.\.254, got 255"):
        decode_probabilities((tmp_path / "p.npz").read_bytes(), ".npz", (1, 1))
