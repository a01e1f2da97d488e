"""`selflabel label` compiles kernels before it labels images: once, and not in the time of an image."""

from pathlib import Path

import pytest
from support.folders import make_folders
from torch import Tensor
from typer.testing import CliRunner, Result

from selflabel.affinity.builders import Grid
from selflabel.cli import app
from selflabel.energy import Energy
from selflabel.labeling import image
from selflabel.labeling.labeler import Labeler
from selflabel.solvers import RandomWalker


def label(root: Path, *more: object) -> Result:
    """Label the images of `make_folders`."""
    given = [
        "label",
        root / "images",
        "--seeds",
        root / "seeds",
        "--out",
        root / "out",
        "--workers",
        1,
        *more,
    ]
    return CliRunner().invoke(app, [str(each) for each in given])


@pytest.mark.needs_numba
def test_compilation_is_not_time_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of a process compiles: it is one on no image of the folder, before their time begins."""
    events: list[object] = []
    solved, begun = Labeler.label, image.label_image

    def solving(self: Labeler, pixels: Tensor, *more: object) -> object:
        events.append(tuple(pixels.shape))
        return solved(self, pixels, *more)  # type: ignore[arg-type]

    def beginning(*arguments: object) -> object:
        events.append("image")
        return begun(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Labeler, "label", solving)
    monkeypatch.setattr(image, "label_image", beginning)
    make_folders(tmp_path, 1)
    assert label(tmp_path).exit_code == 0
    assert events[:2] == [(3, 8, 8), "image"]
    assert len(events) == 3


def test_nothing_is_compiled_where_all_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(Labeler, "compile", lambda self, **asked: calls.append(asked))
    make_folders(tmp_path, 1)
    for expected, more in [(1, ()), (1, ()), (2, ("--overwrite",))]:
        assert label(tmp_path, *more).exit_code == 0
        assert len(calls) == expected
    assert calls[0] == {"predicted": False, "solved": True}


def test_an_interrupted_compilation_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Labeler, **asked: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Labeler, "compile", interrupted)
    make_folders(tmp_path, 1)
    result = label(tmp_path)
    assert result.exit_code == 130
    assert result.output == "interrupted before labeling began: no labels were written\n"


@pytest.mark.needs_numba
@pytest.mark.parametrize(
    ("predicted", "solved"), [(False, True), (True, True), (False, False), (True, False)]
)
def test_what_cannot_label_small_images_is_left_to_the_images(predicted: bool, solved: bool) -> None:
    """An annotator and a solver that fail, and what is asked of them."""
    asked: list[str] = []

    class Failing:
        name = "failing"

        def check(self) -> None:
            pass

        def predict(self, *arguments: object) -> None:
            asked.append("predict")
            raise ValueError("no small images")

    labeler = Labeler(RandomWalker(large_pixels=1), Energy(), Grid(), Failing())  # type: ignore[arg-type]
    labeler.compile(predicted=predicted, solved=solved)
    assert asked == ([] if predicted else ["predict"])
