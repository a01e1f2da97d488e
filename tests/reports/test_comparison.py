"""Comparisons of runs: curves over seeds, the table, the CSV file and the figure."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from selflabel.reports.comparison import Final, RunHistory, curve, markdown, smoothed, write_csv
from selflabel.reports.figure import draw
from selflabel.training import History
from selflabel.training.history import Row


def run(label: str, seed: int, values: Sequence[float | None], final: Final | None = None) -> RunHistory:
    """A reading at each step; seconds are the step times the seed."""
    rows: list[Row] = [
        {
            "step": float(number),
            "seconds": float(number * seed),
            "direct": value,
            "joint": None,
            "dice": None if value is None else value / 10,
            "network_seconds": 0.25,
            "solver_seconds": 0.5,
        }
        for number, value in enumerate(values, start=1)
    ]
    return RunHistory(label, seed, rows, final)


@pytest.mark.quick
def test_a_curve_is_over_seeds() -> None:
    found = curve([run("a", 1, [4.0, None, 2.0]), run("a", 3, [6.0, 5.0, 3.0])], "direct")
    assert found is not None
    assert found.steps.tolist() == [1, 3]  # those that both have read
    assert found.seconds.tolist() == [2, 6]
    assert found.mean.tolist() == [5, 2.5]
    assert found.low.tolist() == [4, 2]
    assert found.high.tolist() == [6, 3]
    assert curve([run("a", 1, [4.0])], "joint") is None
    with pytest.raises(ValueError, match="runs of one label, got 2: a, b"):
        curve([run("a", 1, [4.0]), run("b", 1, [4.0])], "direct")


@pytest.mark.parametrize("window", [1, 2, 3, 5, 20])
def test_smoothing_is_a_mean_of_neighbors(window: int, rng: np.random.Generator) -> None:
    values = rng.normal(size=9)
    for place, found in enumerate(smoothed(values, window)):
        near = values[max(0, place - window // 2) : place + (window - 1) // 2 + 1]
        assert found == pytest.approx(near.mean())


def test_a_window_has_a_reading() -> None:
    with pytest.raises(ValueError, match="at least one reading, got 0"):
        smoothed(np.ones(3), 0)


def test_the_table_has_means_and_deviations() -> None:
    finals = Final(0.8, 0.7, 2.0), Final(0.9, 0.75, None)
    runs = [
        run("a|b", 1, [9.0] * 18 + [2.0, 4.0], finals[0]),
        run("a|b", 3, [5.0] * 20, finals[1]),
        run("c", 1, [1.0]),
    ]
    head, _, first, second = markdown(runs).splitlines()
    names = [cell.strip() for cell in head.split("|")[1:-1]]
    cells = dict(
        zip(names, (cell.strip() for cell in first.replace("\\|", "/").split("|")[1:-1]), strict=True)
    )
    assert cells["run"] == "a/b"
    assert cells["Dice"] == "0.850 ± 0.071"
    assert cells["best Dice"] == "0.700 ± 0.283"
    assert cells["HD95 (px)"] == "2.0"
    assert cells["direct loss (4)"] == "4.0000 ± 1.4142"  # the last tenth of each
    assert cells["joint loss (8)"] == "-"
    assert cells["solver s/step"] == "0.500 ± 0.000"
    assert cells["total s"] == "40 ± 28"
    assert cells["seeds"] == "2"
    assert "| c | - | 0.100 |" in second


def test_the_csv_has_what_was_read(tmp_path: Path) -> None:
    write_csv(tmp_path / "c.csv", [run("a, b", 5, [1.5, None])])
    with open(tmp_path / "c.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    assert (rows[0]["run"], rows[0]["seed"], rows[0]["direct"], rows[0]["joint"]) == ("a, b", "5", "1.5", "")


def test_the_figure_is_the_same_for_the_same_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [run("a", 1, [4.0, 3.0, 2.0]), run("a", 3, [6.0, 5.0, 3.0]), run("b", 1, [4.0, 3.0, 2.5])]
    for name in ("one", "two"):
        draw(runs, [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"], window=2, title="Title")
    for suffix in ("png", "svg"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    svg = (tmp_path / "one.svg").read_text()
    assert (
        svg.count('id="axes_') == 4
    )  # direct and Dice, by steps and by seconds; nothing read of the joint loss
    draw([run("a", 1, [1.0])], [tmp_path / "flat.png"])
    with pytest.raises(ValueError, match="got none to draw"):
        draw([run("a", 1, [None])], [tmp_path / "none.png"])


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'selflabel\[plots\]'"):
        draw([run("a", 1, [1.0])], [tmp_path / "x.png"])


def test_histories_are_rows() -> None:
    """Curves read the rows that `train` returns."""
    history = History(("step", "seconds", "direct"))
    history.append({"step": 1.0, "seconds": 0.5, "direct": 3.0})
    found = curve([RunHistory("a", 1, history.rows)], "direct")
    assert found is not None
    assert found.mean.tolist() == [3.0]
