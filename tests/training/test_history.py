"""The history of a run: two files that survive any end of the process, and TensorBoard."""

import csv
import json
from pathlib import Path
from types import ModuleType

import pytest

from selflabel.training import (
    History,
    TensorBoard,
    read_history,
)


def test_a_history_is_two_files(tmp_path: Path) -> None:
    history = History.resume(("step", "loss"), tmp_path, 0)
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


def test_a_history_of_other_steps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 1}\n{"step": 3}\n')
    with pytest.raises(ValueError, match="the rows of steps 1 to 2"):
        History.resume(("step",), tmp_path, 2)


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "lo', b'{"step": 3}garbage\n{"step": 4}\n'])
def test_a_torn_history_is_cut_back(tmp_path: Path, torn: bytes) -> None:
    history = History.resume(("step",), tmp_path, 0)
    history.append({"step": 1})
    history.append({"step": 2})
    for name in ("history.jsonl", "history.csv"):
        with open(tmp_path / name, "ab") as file:
            file.write(torn)
    again = History.resume(("step",), tmp_path, 1)
    again.append({"step": 2})
    assert (tmp_path / "history.csv").read_text() == "step\n1\n2\n"
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == again.rows
    with pytest.raises(
        ValueError, match=r"the rows of steps 1 to 3 in .*history\.jsonl, as the checkpoint says, got 2"
    ):
        History.resume(("step",), tmp_path, 3)


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
