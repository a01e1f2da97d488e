"""State files of torch: a change anywhere is found, nothing but tensors and plain values is read."""

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from selflabel.training.checkpoint import FORMAT, Checkpoint, load_checkpoint
from selflabel.training.sealed import load_sealed, save_sealed
from selflabel.training.store import DiskStore, Stored

pytestmark = pytest.mark.quick


def checkpoint(**changed: object) -> Checkpoint:
    values: dict[str, object] = {
        "step": 2,
        "seconds": 0.5,
        "settings": {"steps": "3"},
        "about": {"options": {"size": 16}},
        "network": {"weight": torch.arange(12.0).view(3, 4)},
        "average": None,
        "optimizer": {},
        "labels": None,
        "rows": (17, 19),
        "best": None,
        "columns": ("step", "loss"),
    }
    return Checkpoint(**(values | changed))  # type: ignore[arg-type]


def test_a_change_of_any_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint().save(path)
    whole = path.read_bytes()
    assert torch.equal(load_checkpoint(path).network["weight"], torch.arange(12.0).view(3, 4))
    for place in range(len(whole)):
        edited = bytearray(whole)
        edited[place] ^= 1 << place % 8
        path.write_bytes(edited)
        with pytest.raises(
            ValueError, match=r"last\.pt cannot be read as a checkpoint.*put a copy of it back"
        ):
            load_checkpoint(path)


def test_other_programs_read_the_file_and_its_zip_is_whole(tmp_path: Path) -> None:
    checkpoint().save(tmp_path / "last.pt")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content.keys() == {"format", *(entry.name for entry in fields(Checkpoint))}
    with zipfile.ZipFile(tmp_path / "last.pt") as file:
        assert file.testzip() is None
        assert file.comment.startswith(b"selflabel sha256 ")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def text(path: Path) -> None:
    path.write_text("step = 3\n", encoding="utf-16")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def shorter_by_one(path: Path) -> None:
    path.write_bytes(path.read_bytes()[1:])


def resaved(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True), path)


@pytest.mark.parametrize(
    "edit", [empty, missing, folder, pipe, text, cut, longer, twice, shorter_by_one, resaved]
)
def test_damaged_files_are_named(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    path = tmp_path / "last.pt"
    checkpoint().save(path)
    edit(path)
    with pytest.raises(ValueError, match=r"last\.pt cannot be read as a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"step": "2"}, "step"),
        ({"step": -1}, "step"),
        ({"seconds": float("nan")}, "seconds"),
        ({"best": "high"}, "best"),
        ({"network": [1]}, "network"),
        ({"about": None}, "about"),
        ({"labels": 3}, "labels"),
        ({"rows": 2}, "rows"),
        ({"rows": ("a",)}, "rows"),
        ({"columns": "step"}, "columns"),
    ],
)
def test_fields_of_other_types_are_refused(tmp_path: Path, changed: dict[str, object], named: str) -> None:
    whole = {entry.name: getattr(checkpoint(), entry.name) for entry in fields(Checkpoint)}
    save_sealed(tmp_path / "last.pt", {"format": FORMAT, **whole, **changed})
    with pytest.raises(
        ValueError, match=rf"last\.pt is no checkpoint of this version of selflabel \({named}\)"
    ):
        load_checkpoint(tmp_path / "last.pt")


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (self.path,)

    path = ""


def test_no_code_is_run(tmp_path: Path) -> None:
    bomb = Bomb()
    bomb.path = str(tmp_path / "gone")
    type(bomb).path = bomb.path
    save_sealed(tmp_path / "last.pt", {"format": FORMAT, "step": bomb})
    with pytest.raises(ValueError, match=r"last\.pt cannot be read as a checkpoint: UnpicklingError"):
        load_checkpoint(tmp_path / "last.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_sealed(tmp_path / "plain.pt")
    assert not (tmp_path / "gone").exists()


def test_stored_labels_are_checked(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.put("a", Stored(torch.zeros(4, 5, dtype=torch.uint8), 1.0, 2.0))
    path = tmp_path / "a.1.labels"
    edited = bytearray(path.read_bytes())
    edited[200] ^= 4
    path.write_bytes(edited)
    with pytest.raises(ValueError, match=r"a\.1\.labels cannot be read as a checkpoint"):
        store.get("a")
