"""Options are declared once: flags, help, files and their checks are made from the declarations."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner, Result

from selflabel.cli.config.declarations import Argument, Option, checked, declared, parsed
from selflabel.cli.config.options import Layered
from selflabel.cli.config.toml import read_config
from selflabel.cli.flags import command


@dataclass(frozen=True, kw_only=True)
class Places:
    folder: Annotated[Path, Argument("Where to look.")]
    out: Annotated[Path, Option("Where to write.")]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    PANEL: ClassVar[str] = "Numbers"
    share: Annotated[float, Option("A part of all.", min=0, max=1)] = 0.5
    count: Annotated[int | None, Option("How many.", min=1, shown="all")] = None
    fast: Annotated[bool, Option("Hurry.", flags=("--fast/--slow",))] = False
    check: Annotated[bool, Option("Look first.")] = True
    tag: Annotated[tuple[str, ...], Option("Words.")] = ()


@dataclass(frozen=True, kw_only=True)
class Both(Numbers, Places, Layered):
    pass


def run(*arguments: object) -> tuple[Both | None, Result]:
    """The options that a command is called with, and what it shows."""
    found: list[Both] = []

    def body(options: Both) -> None:
        """Do it."""
        found.append(options)

    app = typer.Typer()
    app.command()(command(body))
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "100"})
    return (found[0] if found else None), result


def test_fields_of_the_last_base_come_first_each_in_its_panel() -> None:
    assert list(declared(Both)) == ["folder", "out", "share", "count", "fast", "check", "tag"]
    assert [one.panel for one in declared(Both).values()] == [None] * 2 + ["Numbers"] * 5


def test_what_is_not_given_has_its_default() -> None:
    options, _ = run("here", "--out", "there")
    assert options == Both(folder=Path("here"), out=Path("there"), given=frozenset({"folder", "out"}))


def test_what_is_given_is_known_even_where_it_is_the_default() -> None:
    given = ("--share", 0.5, "--slow", "--no-check", "--tag", "a", "--tag", "b", "--count", 2)
    options, _ = run("here", "--out", "there", *given)
    assert options is not None
    assert options.given == frozenset(declared(Both))
    assert (options.share, options.fast, options.check) == (0.5, False, False)
    assert (options.tag, options.count) == (("a", "b"), 2)


def test_help_has_the_words_of_the_declarations() -> None:
    _, result = run("--help")
    for words in ("Do it.", "Where to look.", "Numbers", "A part of all.", "(all)", "--slow", "--no-check"):
        assert words in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["here"], "Missing option '--out'"),
        (["here", "--out", "there", "--share", 2], "Invalid value for '--share'"),
        (["here", "--out", "there", "--count", 0], "Invalid value for '--count'"),
    ],
)
def test_flags_have_bounds(arguments: list[object], message: str) -> None:
    _, result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def _value(text: str) -> object:
    name, _, value = text.partition("=")
    return parsed(name, value, Numbers)


@pytest.mark.parametrize("read", [_value, lambda text: checked(_pair(text), Numbers)])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share=2", "expected share <= 1, got 2.0"),
        ("share=-0.5", "expected share >= 0, got -0.5"),
        ("count=0", "expected count >= 1, got 0"),
        ("count=1.5", "expected count as a whole number, got 1.5"),
        ("cuont=3", r"there is no option 'cuont' \(did you mean count\?\)"),
    ],
)
def test_values_are_checked_wherever_they_are_from(
    read: Callable[[str], object], text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(text)


def _pair(text: str) -> dict[str, object]:
    name, _, value = text.partition("=")
    return {name: int(value) if value.isdigit() else float(value)}


def test_a_file_is_checked_by_the_declarations(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text('share = 1\ntag = ["x"]\n')
    found = read_config(path, Numbers)
    assert found == {"share": 1.0, "tag": ("x",)}
    assert isinstance(found["share"], float)
    path.write_text("share = 1.5\n")
    with pytest.raises(ValueError, match=r"options.toml, line 1: expected share <= 1, got 1.5"):
        read_config(path, Numbers)


@pytest.mark.parametrize(
    "text",
    [
        "x." * 50_000 + "share = 1\n",
        "share = 1\n[" + "x." * 50_000 + "x]\n",
        "share = {" + "x." * 50_000 + "x = 1}\n",
        "share = [{y = 1, " + "x . " * 50_000 + "x = 1}]\n",
    ],
)
def test_keys_of_thousands_of_parts_are_refused_before_they_take_gigabytes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "options.toml"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"options.toml: line \d: expected keys .* 32 parts, .* got one of 50001"
    ):
        read_config(path, Numbers)


def test_dots_in_values_and_comments_are_no_parts_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(f'# {"." * 99}\ntag = ["{"../" * 99}"]\nshare = 0.5 # {"a." * 9}\n')
    assert read_config(path, Numbers)["share"] == 0.5


def test_a_configuration_is_no_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text("# " + "x" * (1 << 20))
    with pytest.raises(ValueError, match=r"options.toml: expected at most 1048576 bytes"):
        read_config(path, Numbers)
