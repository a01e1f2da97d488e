"""What the documents show works: Python runs, commands parse, and files that are named exist."""

import functools
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from selflabel.cli import app
from selflabel.datasets.samples import Batch

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "examples/results/README.md"),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
)
EVERY = pytest.mark.parametrize("document", DOCUMENTS)


def test_the_picture_of_the_first_command_is_no_change_of_the_clone() -> None:
    assert "/demo.png" in (ROOT / ".gitignore").read_text().splitlines()


@dataclass(frozen=True)
class Block:
    """Code of a document: between fences in some language, or indented and in none."""

    language: str
    lines: tuple[str, ...]


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a document in Markdown, in order."""
    for found in re.finditer(r"^```(\w*)\n([\s\S]*?)^```$|((?:^    .*\n)+)", text, re.MULTILINE):
        yield Block(found[1] or "", tuple((found[2] or found[3]).splitlines()))


def commands(text: str) -> list[list[str]]:
    """The words of the commands in all blocks that name no language, without variables in front of them."""
    lines = [line for block in blocks(text) if not block.language for line in block.lines]
    found = []
    for command in (command for line in lines for command in line.split(" && ")):
        words = [word for word in shlex.split(command, comments=True) if not re.match("[A-Z_]+=", word)]
        found += [words] if words else []
    return found


def problem_of(words: list[str]) -> str | None:
    """What is wrong with a command, if anything."""
    match words:
        case ["selflabel", *arguments]:
            return wrong_arguments(arguments)
        case ["pip", "install", *arguments]:
            return wrong_requirements(arguments)
        case ["pytest", "-m", marker]:
            markers = [line.split(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
            return None if marker in markers else f"no marker {marker}"
        case ["python" | "bash", script, *arguments] if not (ROOT / script).is_file():
            return f"no file {script}"
        case ["python", script, *arguments]:
            source = "".join(path.read_text() for path in with_helpers(ROOT / script))
            unknown = [word for word in arguments if word.startswith("--") and f'"{word}"' not in source]
            return f"{script} has no {unknown}" if unknown else None
    return None


def with_helpers(script: Path) -> set[Path]:
    """A script and the modules of the examples that it imports, at any remove."""
    found, waiting = set[Path](), {script}
    while waiting:
        found |= waiting
        names = {
            name for path in waiting for name in re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.M)
        }
        waiting = {path for name in names if (path := ROOT / f"examples/{name}.py").is_file()} - found
    return found


def idle(callback: Callable[..., object]) -> Callable[..., None]:
    """A function of the same signature that does nothing."""

    @functools.wraps(callback)
    def nothing(**arguments: object) -> None:
        pass

    return nothing


def idle_commands(group: typer.Typer) -> typer.Typer:
    """The commands of a group, which do nothing."""
    parser = typer.Typer()
    for command in group.registered_commands:
        assert command.callback is not None
        parser.command(command.name)(idle(command.callback))
    return parser


def wrong_arguments(arguments: list[str]) -> str | None:
    """The message of the command line for these arguments of `selflabel`, whose commands do nothing here."""
    parser = idle_commands(app)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        parser.add_typer(idle_commands(group.typer_instance), name=group.name)
    result = CliRunner().invoke(parser, arguments)
    return result.output if result.exit_code else None


def wrong_requirements(arguments: list[str]) -> str | None:
    """Extras of this project that there are not, and files that do not exist."""
    extras = {extra for word in arguments for extra in re.findall(r"^\.\[(.*)\]$", word)}
    unknown = extras - set(PROJECT["project"]["optional-dependencies"])
    files = [word for flag, word in pairwise(arguments) if flag in ("-c", "-r")]
    missing = [file for file in files if not (ROOT / file).is_file()]
    return f"unknown extras {unknown}, missing files {missing}" if unknown or missing else None


def stand_ins() -> dict[str, object]:
    """The names that the documents take as given."""
    generator = torch.Generator().manual_seed(83_492)
    images = torch.rand(2, 3, 12, 14, generator=generator)
    seeds = torch.full((2, 12, 14), 255)
    seeds[:, 2, 2:9], seeds[:, 9, 3:12] = 0, 1
    network = nn.Conv2d(3, 2, 3, padding=1)
    return {
        "images": images,
        "seeds": seeds,
        "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.01),
        "batches": 102 * [Batch(("a", "b"), images, seeds, None)],
        "image": (255 * images[0].movedim(0, -1)).numpy().astype(np.uint8),
        "scribbles": seeds[0].numpy().astype(np.uint8),
    }


@EVERY
def test_python_runs(document: str) -> None:
    given = stand_ins()
    for block in blocks((ROOT / document).read_text()):
        if block.language == "python":
            exec(compile("\n".join(block.lines), document, "exec"), given)


@EVERY
def test_commands_parse(document: str) -> None:
    every = commands((ROOT / document).read_text())
    wrong = {shlex.join(words): problem for words in every if (problem := problem_of(words))}
    assert wrong == {}


@EVERY
def test_files_exist(document: str) -> None:
    """Those of links, and those named by a path from the root."""
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [link for link in links if not ((ROOT / document).parent / link).exists()]
    paths = re.findall(r"`((?:tests|examples|selflabel|solvers|docs)/[\w/.]+)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


def test_the_readme_has_all_of_it() -> None:
    """Or the tests above would see nothing."""
    text = (ROOT / "README.md").read_text()
    assert sum(block.language == "python" for block in blocks(text)) >= 2
    assert {words[0] for words in commands(text)} >= {"selflabel", "pip", "pytest"}
    assert {words[1] for words in commands(text) if words[0] == "selflabel"} >= {"label", "train", "score"}


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("selflabel label photos/ --seeds scribbles/ --solver mean-field", "out"),
        ("selflabel label photos/ --seeds s --out o --sover mean-field", "--sover"),
        ("selflabel lable photos/", "lable"),
        ("selflabel train data/ --out run --steps many", "--steps"),
        ("pip install '.[quick]'", "quick"),
        ("pip install -c pinned.txt .", "pinned.txt"),
        ("pytest -m swift", "swift"),
        ("python tests/speed.py", "tests/speed.py"),
        ("python tests/benchmarks/speed.py --image 3", "--image"),
        ("python examples/crf.py DATA/camvid --seed 3", "--seed"),
        ("bash run", "no file run"),
    ],
)
def test_a_wrong_command_is_seen(command: str, problem: str) -> None:
    (words,) = commands(f"Text.\n\n```\nVARIABLE=1 {command}  # why\n```\n")
    assert problem in (problem_of(words) or "")


def test_blocks_are_told_apart() -> None:
    text = "A\n\n    selflabel demo && pytest\n\n```python\nx = 1\n```\nB `selflabel`\n```\npytest\n```\n"
    assert [block.language for block in blocks(text)] == ["", "python", ""]
    assert commands(text) == [["selflabel", "demo"], ["pytest"], ["pytest"]]
