"""The history of a run: two files that survive any end of the process, and TensorBoard."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from selflabel.training import (
    History,
    TensorBoard,
    read_history,
)


def test_a_history_is_two_files(tmp_path: Path) -> None:
    history = History.resume(("step", "loss"), tmp_path)
    for step, loss in ((1, 0.1 + 0.2), (2, float("nan")), (3, 1e-300)):
        history.append({"step": step, "loss": loss})
    history.flush()
    assert read_history(tmp_path / "history.jsonl") == history.rows
    with open(tmp_path / "history.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table == [["step", "loss"], ["1", "0.30000000000000004"], ["2", ""], ["3", "1e-300"]]
    assert history.column("loss") == ([1.0, 3.0], [0.30000000000000004, 1e-300])
    with pytest.raises(ValueError, match="the columns step, loss, got also speed"):
        history.append({"step": 4, "speed": 1.0})


def started(folder: Path) -> History:
    """The history of three steps."""
    history = History.resume(("step", "loss"), folder)
    for step in (1, 2, 3):
        history.append({"step": step, "loss": 0.1 * step})
    return history


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (b'"loss": 0.2', b'"loss": 0.1', 2),
        (b'"loss": 0.2', b'"loss": NaN', 2),
        (b'"loss": 0.2', b'"loss": "0.2"', 2),
        (b'"step": 2, ', b"", 2),
        (b'{"step": 2, "loss": 0.2}\n', b"", 2),
        (b'{"step": 1, "loss": 0.1}', b'{"step": 1, "loss": 0.1}\n{"step": 1, "loss": 0.1}', 2),
        (b"{", b"[", 1),
        (b"\n", b"\r\n", 1),
        (b'{"step": 1', b"\xff\xfe\x00\x80", 1),
        (b"", "\ufeff".encode("utf-16"), 1),
    ],
)
def test_an_edited_line_is_named(tmp_path: Path, old: bytes, new: bytes, line: int) -> None:
    checks = started(tmp_path).checks
    path = tmp_path / "history.jsonl"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    edited = path.read_bytes()
    with pytest.raises(ValueError, match=rf"history\.jsonl, line {line} is damaged: .*put the file back"):
        History.resume(("step", "loss"), tmp_path, checks)
    assert path.read_bytes() == edited


def test_rows_that_are_gone_are_missed(tmp_path: Path) -> None:
    checks = started(tmp_path).checks
    path = tmp_path / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"the rows of steps 1 to 3 in .*history\.jsonl, .*got 2"):
        History.resume(("step", "loss"), tmp_path, checks)
    path.unlink()
    with pytest.raises(ValueError, match=r"the rows of steps 1 to 3 in .*got no file"):
        History.resume(("step", "loss"), tmp_path, checks)
    path.mkdir()
    with pytest.raises(ValueError, match=r"the rows of steps 1 to 3 in .*got no file"):
        History.resume(("step", "loss"), tmp_path, checks)


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "lo', b'{"step": 3}garbage\n{"step": 4}\n'])
def test_a_torn_history_is_cut_back(tmp_path: Path, torn: bytes) -> None:
    history = History.resume(("step",), tmp_path)
    history.append({"step": 1})
    history.append({"step": 2})
    for name in ("history.jsonl", "history.csv"):
        with open(tmp_path / name, "ab") as file:
            file.write(torn)
    again = History.resume(("step",), tmp_path, history.checks[:1])
    again.append({"step": 2})
    assert (tmp_path / "history.csv").read_text() == "step\n1\n2\n"
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == again.rows
    with pytest.raises(
        ValueError, match=r"the rows of steps 1 to 3 in .*history\.jsonl, as the checkpoint says, got 2"
    ):
        History.resume(("step",), tmp_path, [*again.checks, 3])


def test_tensorboard_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            written.append(("flush", 0.0, 0))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", module)
    TensorBoard(tmp_path)({"step": 7, "loss": 0.5, "dice": None})
    assert written == [("loss", 0.5, 7), ("flush", 0.0, 0)]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'selflabel\[tensorboard\]'"):
        TensorBoard(tmp_path)


def cut_csv(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def edit_csv(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"2,0.2", b"2,0.1"))


def add_rows(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"4,0.4\n5,0.")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Path.unlink, "is gone"),
        (cut_csv, "is not as it was written"),
        (edit_csv, "is not as it was written"),
        (add_rows, None),
    ],
)
def test_a_table_that_is_written_again_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, edit: Callable[[Path], None], said: str | None
) -> None:
    """Rows beyond the checkpoint are those of a run that was killed: they are cut without a word."""
    path = tmp_path / "history.csv"
    checks = started(tmp_path).checks
    whole = path.read_bytes()
    assert caplog.messages == []
    edit(path)
    History.resume(("step", "loss"), tmp_path, checks)
    assert path.read_bytes() == whole
    assert caplog.messages == (
        [] if said is None else [f"{path} {said}: it is written again from history.jsonl"]
    )
