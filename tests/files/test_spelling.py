"""Errors name the arguments that their reader can give: of Python, or the options of the command and of the folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import make_folders, picture
from support.runs import call, make_data, train

import selflabel
from selflabel.cli.config.label_formats import MASKS, OPTIONS, PREDICTED, PROBABILITIES, SEEDS, TRUTH
from selflabel.files.label_files import VOC_FORMAT, LabelFormat
from selflabel.files.probabilities import PLAIN_FORMAT, ProbabilityFormat
from selflabel.files.spelling import PYTHON, Spelling
from selflabel.labeling.settings import describe

IMAGE, SEEDS_OF, TRUE = picture(4_401)


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        (PYTHON, "values=(255,), unlabeled=0 | values=(0, 7, ...) | logits=True | channels_last=False | key"),
        (SEEDS, "--values 255 --unlabeled 0 | --values 0,7,... | logits=True | channels_last=False | key"),
        (
            PROBABILITIES,
            "values=(255,), unlabeled=0 | values=(0, 7, ...) | --probs-values logits | --probs-layout khw | "
            "--probs-key",
        ),
    ],
)
def test_arguments_as_python_and_as_commands_name_them(spelling: Spelling, text: str) -> None:
    say = spelling.say
    said = [
        say(("values", (255,)), ("unlabeled", 0)),
        say(("values", (0, 7, ...))),
        say(("logits", True)),
        say(("channels_last", False)),
        spelling.name("key"),
    ]
    assert " | ".join(said) == text


def test_a_spelling_changes_no_label_and_no_run() -> None:
    assert LabelFormat(spelling=MASKS) == VOC_FORMAT
    assert describe(LabelFormat(spelling=MASKS)) == describe(VOC_FORMAT)
    assert "spelling" not in str(describe(ProbabilityFormat(spelling=PROBABILITIES)))
    assert ProbabilityFormat(spelling=PROBABILITIES) == PLAIN_FORMAT


def test_the_options_that_are_named_exist() -> None:
    helps = {name: call(name, "--help").output for name in ("label", "train", "score")}
    for command, spelling in (
        ("label", SEEDS),
        ("train", SEEDS),
        ("train", MASKS),
        ("score", TRUTH),
        ("label", PROBABILITIES),
    ):
        for option in spelling.options.values():
            assert option.split()[0] in helps[command], (command, option)
    for name in ("values", "colors"):
        assert PREDICTED.options[name] in helps["score"]
    assert SEEDS.options == OPTIONS


@pytest.mark.parametrize(
    ("seeds", "more", "message"),
    [
        (
            np.where(TRUE == 2, 255, 0).astype(np.uint8),
            {},
            r"say so \(seeds_format=LabelFormat\(values=\(0, 255\)\)\)",
        ),
        (SEEDS_OF, {"num_classes": 2}, r"say so \(seeds_format=LabelFormat\(unlabeled=2\)\)"),
        (
            np.where(SEEDS_OF == 2, 90, SEEDS_OF).astype(np.uint8),
            {},
            r"say so \(seeds_format=LabelFormat\(values=\(0, 90\)\)\).*\(num_classes\)",
        ),
        (
            np.where(SEEDS_OF == 2, 300, SEEDS_OF.astype(int)),
            {},
            r"name these \(seeds_format=LabelFormat\(values=…",
        ),
    ],
)
def test_python_is_told_in_python(seeds: np.ndarray, more: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        selflabel.label(IMAGE, seeds, num_classes=more.get("num_classes"))
    assert "--" not in str(caught.value)


def test_python_is_told_of_logits_in_python() -> None:
    with pytest.raises(ValueError, match=r"logits need a softmax first$"):
        selflabel.label(IMAGE, probs=np.log(np.full((2, *TRUE.shape), 0.01)))


@pytest.mark.parametrize(("folder", "prefix"), [("scribbles", ""), ("masks", "masks-")])
def test_train_names_the_options_of_the_folder(tmp_path: Path, folder: str, prefix: str) -> None:
    data = make_data(tmp_path / "data")
    stem = "t0" if folder == "scribbles" else "v0"
    path = data / folder / f"{stem}.png"
    index = np.array(Image.open(path))
    index[3, 3] = 7
    Image.fromarray(index).save(path)
    result = train(data, tmp_path / "run")
    assert f"say what the values mean (--{prefix}values); if 7 means unlabeled" in result.output
    assert f"that it does (--{prefix}unlabeled 7)" in result.output
    Image.fromarray(np.dstack([index] * 3)).save(path)
    assert f"list the colors of the classes (--{prefix}colors)" in train(data, tmp_path / "run").output


def test_score_names_the_options_of_the_folder(tmp_path: Path) -> None:
    _, _, truth = make_folders(tmp_path, 2)
    colored = tmp_path / "colored"
    colored.mkdir()
    Image.fromarray(IMAGE).save(colored / "a0.png")
    assert "colors of the classes (--pred-colors)" in call("score", colored, truth).output
    assert "colors of the classes (--colors)" in call("score", truth / "a0.png", colored / "a0.png").output
