"""Predictions of a network as files that `selflabel label --probs` reads."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from selflabel.files.folders import listing
from selflabel.files.images import IMAGE_SUFFIXES
from selflabel.files.lock import sole_user
from selflabel.files.probabilities import read_probabilities
from selflabel.training.predict import MANIFEST, Precision, Prediction, Predictor, Storage, predict_folder

SIZES = {"a": (10, 14), "b": (21, 9), "c": (16, 16)}


class Bright(nn.Module):
    """Logits that follow the brightness; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        """Two classes: dark and bright."""
        self.calls += 1
        return torch.cat([0 * images, 4 * images - 2], 1)


class Nan(nn.Module):
    """A network with nan for a prediction."""

    def forward(self, images: Tensor) -> Tensor:
        """All nan."""
        return torch.full((1, 2, *images.shape[2:]), float("nan"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for stem, (height, width) in SIZES.items():
        ramp = np.linspace(40, 220, height).round()[:, None].repeat(width, 1)
        Image.fromarray(ramp.astype(np.uint8)).save(folder / f"{stem}.png")
    return folder


def predictor(network: nn.Module | None = None, size: int | None = 16) -> Predictor:
    return Predictor(network or Bright(), 1, size, torch.device("cpu"))


def run(images: Path, out: Path, network: nn.Module | None = None, **more: object) -> list[Prediction]:
    storage, overwrite = more.get("storage", Storage()), more.get("overwrite", False)
    assert isinstance(storage, Storage)
    identity = {"checkpoint": more.get("checkpoint", "x")}
    given = predictor(network, 16)
    found = predict_folder(
        given, listing(images, IMAGE_SUFFIXES).files, storage, out, identity, overwrite=bool(overwrite)
    )
    return list(found)


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("compressed", [True, False])
def test_files_are_as_label_reads_them(
    images: Path, tmp_path: Path, precision: Precision, compressed: bool
) -> None:
    """A smooth ramp is predicted at its own resolution, away from the border."""
    storage = Storage(compressed, precision)
    assert run(images, tmp_path / "out", storage=storage) == [Prediction(stem) for stem in SIZES]
    for stem, size in SIZES.items():
        path = storage.path(tmp_path / "out", stem)
        read = read_probabilities(path, size)
        assert read.probs.shape == (2, *size)
        ramp = np.linspace(40, 220, size[0]).round()[:, None].repeat(size[1], 1) / 255
        expected = 1 / (1 + np.exp(-(4 * ramp - 2)))
        assert np.abs(read.probs[1] - expected)[3:-3, 3:-3].max() < 0.03
        assert read.classes is None if not compressed else read.classes is not None
        if read.classes is not None:
            assert read.classes.tolist() == [0, 1]


def test_without_a_size_the_image_is_taken_as_it_is() -> None:
    image = torch.rand(1, 7, 5, generator=torch.Generator().manual_seed(9_011))
    network = Bright().train()
    probs = predictor(network, None)(image)
    assert torch.allclose(probs[1], torch.sigmoid(4 * image[0] - 2))
    assert not network.training


def test_what_is_done_is_skipped(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    network = Bright()
    assert run(images, out, network) == [Prediction(stem, skipped=True) for stem in SIZES]
    assert network.calls == 0
    (out / "b.npz").unlink()
    Image.new("L", (14, 10), 9).save(images / "a.png")  # other bytes
    again = run(images, out, network)
    assert [one.skipped for one in again] == [False, False, True]
    other, gone = "its image is not the one that it was predicted from", "b.npz is gone"
    assert [one.stale for one in again] == [other, gone, None]
    assert network.calls == 2
    (out / "c.npz").write_bytes(b"")
    assert [one.stale for one in run(images, out)] == [None, None, "c.npz is not as it was written"]
    assert {one.stale for one in run(images, out, network, overwrite=True)} == {None}
    assert network.calls == 5


def test_a_run_that_was_killed_goes_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    work = predict_folder(
        predictor(), listing(images, IMAGE_SUFFIXES).files, Storage(), out, {"checkpoint": "x"}
    )
    assert next(work) == Prediction("a")
    work.close()
    with open(out / MANIFEST, "ab") as file:
        file.write(b'{"stem": "b", "inp')
    (out / ".b.npz.99999999.0123456789abcdef.selflabel-part").write_bytes(b"half")
    assert [one.skipped for one in run(images, out)] == [True, False, False]
    assert sorted(path.name for path in out.iterdir()) == ["a.npz", "b.npz", "c.npz", MANIFEST]
    lines = (out / MANIFEST).read_text().splitlines()
    assert [json.loads(line).get("stem") for line in lines] == [None, "a", "b", "c"]


def test_other_checkpoints_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    with pytest.raises(ValueError, match=r"predictions of another checkpoint.*--overwrite"):
        run(images, out, checkpoint="y")
    assert [one.skipped for one in run(images, out, checkpoint="y", overwrite=True)] == [False] * 3
    assert [one.skipped for one in run(images, out, checkpoint="y")] == [True] * 3


def test_a_stem_has_one_file(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out")
    run(images, tmp_path / "out", storage=Storage(compressed=False), overwrite=True)
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".npy", ".jsonl"}


def spoiled(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda content: content + b"5\n", 5),
        (lambda content: content + b"\xff\xfe\n", 5),
        (lambda content: content + content, 5),  # two heads
        (spoiled(b'"stem": "a"', b'"stem": 3'), 2),
        (spoiled(b'"stem": "a", ', b""), 2),
        (spoiled(b'"inputs"', b'"input"'), 2),
        (spoiled(b'"output": "', b'"output": null, "x": "'), 2),
        (spoiled(b"}\n{", b"}{"), 1),
        (lambda content: content.decode().encode("utf-16"), 2),
        (lambda content: b"\0" * 40 + b"\n" + content, 1),
        (lambda content: content.partition(b"\n")[2], None),  # no head
    ],
)
def test_damaged_ledgers_are_named(
    images: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], line: int | None
) -> None:
    path = tmp_path / "out" / MANIFEST
    run(images, tmp_path / "out")
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    said = (
        "predictions of another checkpoint"
        if line is None
        else rf"predictions\.jsonl, line {line} is damaged"
    )
    with pytest.raises(ValueError, match=rf"(?s){said}.*--overwrite"):
        run(images, tmp_path / "out")
    assert path.read_bytes() == before
    assert all(one.reason is None for one in run(images, tmp_path / "out", overwrite=True))


def test_predictions_that_were_edited_are_made_again(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    whole = (out / "a.npz").read_bytes()
    (out / "a.npz").write_bytes(b"")
    (out / "b.npz").write_bytes((out / "b.npz").read_bytes()[:-1])
    assert [one.skipped for one in run(images, out)] == [False, False, True]
    assert (out / "a.npz").read_bytes() == whole


def test_a_folder_of_predictions_has_one_writer(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with sole_user(out), pytest.raises(ValueError, match="another process that works in it"):
        run(images, out)
    assert not list(out.glob("[!.]*"))


def test_nothing_of_an_earlier_run_stays_under_an_image_that_fails(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    (images / "b.png").write_bytes(b"")
    assert [one.reason is None for one in run(images, out, checkpoint="y", overwrite=True)] == [
        True,
        False,
        True,
    ]
    assert not (out / "b.npz").exists()


def test_bad_images_do_not_stop_the_others(images: Path, tmp_path: Path) -> None:
    (images / "b.png").write_bytes(b"")
    found = run(images, tmp_path / "out")
    assert [one.reason is None for one in found] == [True, False, True]
    assert "empty or not an image" in str(found[1].reason)
    assert all("gives nan" in str(one.reason) for one in run(images, tmp_path / "nan", Nan())[::2])


def test_images_are_not_written_over(images: Path) -> None:
    with pytest.raises(ValueError, match="is the folder of your images"):
        run(images, images)


def test_files_that_no_run_wrote_are_not_replaced(images: Path, tmp_path: Path) -> None:
    (tmp_path / "b.npz").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"b\.npz exists and is not of an earlier run"):
        run(images, tmp_path)
    assert (tmp_path / "b.npz").read_bytes() == b"precious"
    assert all(one.reason is None for one in run(images, tmp_path, overwrite=True))


def test_an_empty_ledger_is_named(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"predictions\.jsonl is empty: .* --overwrite to predict again"):
        run(images, tmp_path / "out")
    assert path.read_bytes() == b""
    assert [one.skipped for one in run(images, tmp_path / "out", overwrite=True)] == [False] * 3
