"""The arrows between modules, and other rules of the house, from the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = 400

CORE = {"labels", "affinity", "terms", "problem", "driver"}
ALLOWED: dict[str, set[str]] = {
    "kernels": {"terms", "numerics"},  # to be cut: formulas and constants of gradient descent
    "files": {"labels"},
    "labels": {"kernels"},
    "affinity": {"labels", "kernels"},
    "terms": {"labels", "affinity"},
    "problem": {"labels", "affinity", "terms"},
    "driver": {"labels", "affinity", "terms", "problem", "kernels"},
    "numerics": {"labels", "affinity", "terms", "problem", "kernels"},
    "solvers": CORE | {"numerics", "kernels"},
    "annotators": CORE | {"solvers"},  # the walker is one
    "losses": {"labels", "affinity", "terms"},
    "networks": set(),
    "datasets": {"labels", "files"},
    "metrics": {"labels", "files"},
    "training": CORE | {"solvers", "losses", "files", "datasets", "metrics"},  # the walker makes starts
    "labeling": CORE | {"solvers", "annotators", "files"},
    "reports": CORE | {"files", "datasets", "training", "labeling"},
    "cli": CORE
    | {"solvers", "annotators", "files", "datasets", "losses", "networks", "metrics", "training", "labeling"}
    | {"reports", "numerics", "selflabel"},
    "__main__": {"cli"},
    "selflabel": CORE,  # the package itself: public names
}
"""Which parts of the library each part may import; a part is a module or a folder."""


def sources() -> list[Path]:
    link = ROOT / "selflabel" / "solvers"
    found = [path for path in (ROOT / "selflabel").rglob("*.py") if path.parent != link]
    return sorted([*found, *(ROOT / "solvers").glob("*.py")])


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "solvers":
        return "solvers"
    name = relative.parts[1].removesuffix(".py")
    return "selflabel" if name == "__init__" else name


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, at any depth: inside functions and type checks, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def part_imported(name: str) -> str | None:
    """The part of the library that an imported name belongs to."""
    parts = name.split(".")
    if parts[0] != "selflabel":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else "selflabel"


def wrong_arrows(path: Path, source: str) -> list[str]:
    own, wrong = part_of(path), []
    for line, name in imported(ast.parse(source)):
        other = part_imported(name)
        sibling = own == "solvers" and path.name != "__init__.py"
        if other is not None and (other not in ALLOWED[own]) and (other != own or sibling):
            wrong.append(f"{path.relative_to(ROOT)}:{line} {name}")
        if name.split(".")[0] == "solvers":
            wrong.append(f"{path.relative_to(ROOT)}:{line} {name}: import it as selflabel.solvers")
    return wrong


SOURCES = sources()
EVERY = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def test_all_parts_are_seen() -> None:
    assert {part_of(path) for path in SOURCES} <= set(ALLOWED)
    assert {"labels", "affinity", "terms", "problem", "driver", "solvers", "cli"} <= {
        part_of(p) for p in SOURCES
    }
    assert len([path for path in SOURCES if part_of(path) == "solvers"]) >= 5


@EVERY
def test_arrows_go_one_way(path: Path) -> None:
    assert wrong_arrows(path, path.read_text()) == []


@EVERY
def test_imports_are_absolute(path: Path) -> None:
    relative = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level]
    assert relative == []


@EVERY
def test_the_library_does_not_print(path: Path) -> None:
    """The command line writes to its own screen, with rich."""
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


@EVERY
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES


@EVERY
def test_run_time_checks_see_the_annotations(path: Path) -> None:
    assert "from __future__ import annotations" not in path.read_text()


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("selflabel/labels.py", "import selflabel.problem"),
        ("selflabel/terms.py", "from selflabel.problem import Problem"),
        ("selflabel/driver.py", "def f():\n    from selflabel.solvers import SOLVERS"),
        ("selflabel/driver.py", "from selflabel import solvers"),
        ("selflabel/files/images.py", "from selflabel.driver import solve"),
        ("solvers/graph_cut.py", "from selflabel.solvers.mean_field import MeanField"),
        ("solvers/graph_cut.py", "from selflabel.solvers import MeanField"),
        ("solvers/graph_cut.py", "import solvers.mean_field"),
        ("solvers/graph_cut.py", "import selflabel.cli"),
        ("selflabel/affinity/grid.py", "import selflabel"),
    ],
)
def test_wrong_arrows_are_seen(where: str, line: str) -> None:
    assert len(wrong_arrows(ROOT / where, line)) == 1


def test_right_arrows_are_not() -> None:
    for where, line in (
        ("solvers/__init__.py", "from selflabel.solvers.mean_field import MeanField"),
        ("selflabel/affinity/grid.py", "from selflabel.affinity.stencil import Stencil"),
        ("selflabel/cli/label.py", "from selflabel.solvers import SOLVERS"),
        ("selflabel/labels.py", "import torch"),
    ):
        assert wrong_arrows(ROOT / where, line) == []


def test_the_folder_of_solvers_is_imported_by_its_name_only() -> None:
    source = (ROOT / "solvers" / "__init__.py").read_text()
    namespace = {"__name__": "solvers"}
    with pytest.raises(ImportError, match=r"import selflabel\.solvers"):
        exec(compile(source, "solvers", "exec"), namespace)


def test_the_link_is_to_the_folder() -> None:
    link = ROOT / "selflabel" / "solvers"
    if not link.exists():
        pytest.skip("a checkout without links")
    assert link.resolve() == (ROOT / "solvers").resolve()
