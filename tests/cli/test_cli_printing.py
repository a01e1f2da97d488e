"""How much commands say: notes, failures by cause, files left out, the standard logging."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.folders import make_folders, picture
from typer.testing import CliRunner, Result

from selflabel.cli import app, screen
from selflabel.files.causes import by_cause
from selflabel.files.label_files import write_index

LIBRARY = logging.getLogger("selflabel")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The level and the handlers of the library are those of before."""
    level, handlers = LIBRARY.level, list(LIBRARY.handlers)
    yield
    LIBRARY.setLevel(level)
    LIBRARY.handlers[:] = handlers


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def label(root: Path, *more: object) -> Result:
    common = (root / "images", "--seeds", root / "seeds", "--out", root / "out", "--annotator", "none")
    return call("label", *common, "--workers", 1, *more)


# --- failures ---


def test_failures_of_one_cause_are_one() -> None:
    failures = [(f"a{n}", f"no seeds: seeds has no file named a{n}.png") for n in range(1000)]
    failures.insert(3, ("b", "image b.png cannot be read: empty"))
    failures += [
        (name, f"seeds {name}.png: value {n} is no class") for name, n in (("c", 7), ("d", 12), ("e", 7))
    ]
    failures += [(f"f{n}", f"seeds f{n}.png: class {n}, but there are 2 classes") for n in range(9)]
    assert [str(cause) for cause in by_cause(failures)] == [
        "a0, a1, a2, a3 and 996 others (1000 in all): no seeds: seeds has no file named a0.png",
        "b: image b.png cannot be read: empty",
        "c, e: seeds c.png: value 7 is no class",
        "d: seeds d.png: value 12 is no class",
        "f0, f1, f2, f3 and 5 others (9 in all): seeds f0.png: class 0, but there are 2 classes",
    ]
    assert by_cause([]) == ()
    names = [(name, f"data.txt: {name}.png and x_{name}.png") for name in ("a", "b", "ta")]
    assert [cause.names for cause in by_cause(names)] == [("a",), ("b",), ("ta",)]  # x_a is another file
    many = [(f"n{n}", f"image n{n}.png: no") for n in range(50_000)]
    assert len(by_cause(many)) == 1


def test_a_thousand_failures_are_few_lines(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    for number in range(1, 1001):
        os.link(images / "a0.png", images / f"a{number}.png")
    (images / "bad.png").write_bytes(b"")
    os.link(seeds / "a0.png", seeds / "bad.png")
    result = label(tmp_path)
    assert result.exit_code == 1
    assert "1001 failed:" in result.output
    assert "a1, a10, a100, a1000 and 996 others (1000 in all): no seeds: " in result.output
    assert "bad: image bad.png" in result.output
    assert len(result.output.splitlines()) < 25
    detailed = label(tmp_path, "--verbose")
    assert detailed.output.count("a777: no seeds: ") == 1
    assert "in all)" not in detailed.output


# --- images of one class ---

WHOLE = "whole of one class, the only one with seeds there"


def one_class(root: Path, *numbers: int) -> Path:
    """Two images; those with these numbers lose the seeds of class 2."""
    _, seeds, _ = make_folders(root, 2)
    for number in numbers:
        _, index, _ = picture(6143 + number)
        write_index(seeds / f"a{number}.png", np.where(index == 2, np.uint8(255), index))
    return root


@pytest.mark.parametrize(
    ("alone", "options", "told"),
    [
        ((1,), (), f"1 image is {WHOLE} (a1): draw seeds of what else is in them, or give predictions"),
        ((0, 1), ("--num-classes", 3), f"2 images are {WHOLE} (a0, a1)"),
        ((0, 1), (), None),  # the folder has one class: no surprise
        ((), (), None),
    ],
    ids=["one of two", "more are announced", "a folder of one class", "two classes each"],
)
def test_images_of_one_class_are_told(
    alone: tuple[int, ...], options: tuple[object, ...], told: str | None, tmp_path: Path
) -> None:
    result = label(one_class(tmp_path, *alone), *options)
    assert result.exit_code == 0
    assert (WHOLE in result.output) == (told is not None)
    assert told is None or told in " ".join(result.output.split())


def test_predictions_of_more_classes_may_win_where_one_has_seeds(tmp_path: Path) -> None:
    one_class(tmp_path, 0, 1)
    (tmp_path / "probs").mkdir()
    for number in range(2):
        np.save(tmp_path / "probs" / f"a{number}.npy", np.full((3, 12, 16), 1 / 3, np.float32))
    common = ("label", tmp_path / "images", "--seeds", tmp_path / "seeds", "--probs", tmp_path / "probs")
    told = call(*common, "--out", tmp_path / "out", "--workers", 1)
    assert f"2 images are {WHOLE} (a0, a1)" in " ".join(told.output.split())
    assert "say --all-classes" in told.output
    everything = call(*common, "--out", tmp_path / "all", "--workers", 1, "--all-classes")
    assert everything.exit_code == 0
    assert WHOLE not in everything.output


# --- what is left out ---


def test_files_left_out_are_counted_in_one_line(tmp_path: Path) -> None:
    images, seeds, truth = make_folders(tmp_path, 3)
    for name in ("notes.txt", "more.txt", "a.json"):
        for folder in (images, truth):
            (folder / name).touch()
    (images / "a2.png").unlink()
    result = label(tmp_path)
    assert result.exit_code == 0, result.output
    expected = "left out: 3 files are no images (.txt, .json); 1 of the seeds have no image (a2)"
    assert expected in result.stderr.splitlines()
    scored = call("score", tmp_path / "out" / "labels", truth)
    assert scored.exit_code == 0, scored.output
    assert f"left out: 3 files are no label files (.txt, .json) in {truth}" in scored.stderr.splitlines()
    assert "1 images of TRUTH have no labels" in scored.output
    (tmp_path / "val.txt").write_text("a0\n")
    scored = call("score", tmp_path / "out" / "labels", truth, "--stems", tmp_path / "val.txt")
    assert "left out: 1 label files are not among the stems asked for; 3 files" in scored.stderr
    assert seeds.is_dir()


# --- quiet and verbose ---


def test_quiet_commands_say_errors_and_what_was_asked_for(tmp_path: Path) -> None:
    images, _, truth = make_folders(tmp_path, 2)
    (images / "notes.txt").touch()
    assert "notes" not in label(tmp_path, "--quiet").output
    assert label(tmp_path, "-q", "--overwrite").output == ""
    (images / "a1.png").write_bytes(b"")
    failed = label(tmp_path, "-q", "--overwrite")
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert "1 failed:" in failed.stderr
    scored = call("score", tmp_path / "out" / "labels", truth, "--quiet")
    assert "mean" in scored.stdout
    assert scored.stderr == ""


def test_verbose_commands_say_details_of_each_image(tmp_path: Path) -> None:
    make_folders(tmp_path, 2)
    assert "a1: " not in label(tmp_path).output
    detailed = label(tmp_path, "-v", "--overwrite")
    assert "a1: converged after" in detailed.stderr
    scored = call("score", tmp_path / "out" / "labels", tmp_path / "truth", "-v")
    assert "a1: 100.00 % of the pixels right" in scored.stderr


def test_records_of_the_library_are_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        screen.configure(quiet=False, verbose=False)
    logging.getLogger("selflabel.files.lists").warning("a list of %d lines", 3)
    logging.getLogger("selflabel.files.lists").debug("a detail")
    screen.note("a note [bold]as it is[/]")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["a list of 3 lines", "a note [bold]as it is[/]"]
    assert captured.out == ""
    screen.configure(quiet=True, verbose=False)
    screen.warn("hidden")
    LIBRARY.error("shown")
    assert capsys.readouterr().err == "shown\n"


# --- completion ---


def test_shells_can_complete_commands_and_options() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['selflabel']; import selflabel.cli as c; c.main()"],
        env={
            **os.environ,
            "_SELFLABEL_COMPLETE": "complete_bash",
            "COMP_WORDS": "selflabel pre",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "predict" in result.stdout
