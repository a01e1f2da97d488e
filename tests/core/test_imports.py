"""The rules of the house, from the source itself: one test a rule, whose failure lists all offenders."""

from collections.abc import Callable

import pytest
from support.house import (
    FILE_LINES,
    FUNCTION_LINES,
    ROOT,
    Module,
    circles,
    imported_siblings,
    long_files,
    long_functions,
    misplaced,
    missing_names,
    modules,
    open_signatures,
    postponed_annotations,
    prints,
    relative_imports,
    repeated_classes,
    room_of,
    rooms_without,
    wrong_arrows,
)

pytestmark = pytest.mark.quick

CORE = {"kinds", "inputs", "labels", "affinity", "terms", "energy", "problem", "driver"}
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "files": {"kinds"},
    "kinds": set(),
    "inputs": set(),
    "labels": {"inputs", "kernels", "files"},  # of files the value of pixels without a label
    "affinity": {"kinds", "inputs", "labels", "kernels"},
    "terms": {"kinds", "inputs", "kernels", "labels", "affinity"},
    "energy": {"kinds", "inputs", "affinity", "terms"},
    "problem": {"kinds", "inputs", "labels", "affinity", "terms", "energy"},
    "driver": {"kinds", "inputs", "kernels", "labels", "affinity", "terms", "energy", "problem"},
    "numerics": set(),
    "numerics.cuts": {"labels", "affinity", "kernels"},
    "numerics.linear": {"kinds", "labels", "affinity", "kernels"},
    "numerics.hard_labels": {"labels", "affinity", "energy", "problem", "numerics.cuts"},
    "numerics.descent": {"kinds", "inputs", "labels", "affinity", "terms", "energy", "problem", "kernels"},
    "solvers": CORE | {"numerics", "kernels"},
    "compat": {"kinds", "affinity", "numerics"},
    "annotators": CORE | {"solvers", "networks"},  # the walker is one; features of a network's first layers
    "losses": {"kinds", "inputs", "kernels", "labels", "affinity", "terms"},
    "networks": {"kinds", "inputs", "affinity"},
    "datasets": {"kinds", "inputs", "labels", "files"},
    "metrics": {"kinds", "labels", "files"},
    "training": CORE
    | {"solvers", "losses", "files", "datasets", "metrics", "kernels"},  # the walker makes starts
    "labeling": CORE | {"solvers", "annotators", "files", "kernels"},
    "reports": CORE | {"files", "datasets", "training", "labeling"},
    "cli": CORE
    | {"solvers", "annotators", "files", "datasets", "losses", "networks", "metrics", "training", "labeling"}
    | {"reports", "numerics", "kernels", "selflabel"},
    "__main__": {"cli"},
    "selflabel": CORE | {"labeling"},  # the package itself: public names, imported when first used
}
"""The rooms that each room may import, with the rooms in them. A room is a module or a folder."""

HOMES = {"numba": "kernels.cpu", "llvmlite": "kernels.cpu", "triton": "kernels.gpu"}
"""Packages that one room alone imports."""

OPEN_SIGNATURES = {
    "selflabel/cli/flags.py",  # a signature made at run time
    "selflabel/kernels/tracing.py",  # a decorator, which passes on what it gets
}

LIBRARY = modules("selflabel", "solvers")
SOURCE = [*LIBRARY, *modules("tests", "examples", "tools")]


def test_all_rooms_are_seen() -> None:
    rooms = [room_of(module.name, ALLOWED) for module in LIBRARY]
    assert set(ALLOWED) == set(rooms)
    assert rooms.count("solvers") >= 5
    assert set().union(*ALLOWED.values()) <= {*ALLOWED, "selflabel"}


def test_arrows_go_one_way() -> None:
    assert wrong_arrows(LIBRARY, ALLOWED) == []


def test_no_solver_imports_a_solver() -> None:
    assert imported_siblings(LIBRARY) == []


def test_no_modules_import_in_a_circle() -> None:
    assert circles(LIBRARY) == []


def test_compilers_are_imported_in_their_rooms() -> None:
    assert misplaced(LIBRARY, HOMES) == []


def test_no_class_name_is_given_twice() -> None:
    """But for names that other packages gave."""
    ours = [module for module in LIBRARY if room_of(module.name, ALLOWED) != "compat"]
    assert repeated_classes(ours) == []


def test_no_file_is_long() -> None:
    assert long_files(SOURCE) == []


def test_no_function_is_long() -> None:
    assert long_functions(SOURCE) == []


def test_imports_are_absolute() -> None:
    assert relative_imports(SOURCE) == []


def test_the_library_does_not_print() -> None:
    assert prints(LIBRARY) == []


def test_run_time_checks_see_the_annotations() -> None:
    assert postponed_annotations(LIBRARY) == []


def test_signatures_name_their_arguments() -> None:
    assert [line for line in open_signatures(LIBRARY) if line.split(":")[0] not in OPEN_SIGNATURES] == []


def test_scripts_import_what_there_is() -> None:
    """No other test imports most of them."""
    assert missing_names(modules("tests/benchmarks", "examples", "tools"), LIBRARY) == []


def test_every_room_has_quick_tests() -> None:
    assert rooms_without("quick", modules("tests")) == []


Rule = Callable[[list[Module]], list[str]]


def arrows(library: list[Module]) -> list[str]:
    return wrong_arrows(library, ALLOWED)


def homes(library: list[Module]) -> list[str]:
    return misplaced(library, HOMES)


LOCAL = "def f():\n    from selflabel.solvers import SOLVERS"
TYPES = "if TYPE_CHECKING:\n    from selflabel.problem import Problem"


def marked(tests: list[Module]) -> list[str]:
    return rooms_without("quick", tests)


def missing(scripts: list[Module]) -> list[str]:
    return missing_names(scripts, LIBRARY)


LINE = "        pass\n"
METHOD = "class A:\n    def f(self):\n" + (FUNCTION_LINES + 1) * LINE


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (arrows, "selflabel/labels.py", "import selflabel.problem"),
        (arrows, "selflabel/terms/potts.py", TYPES),
        (arrows, "selflabel/driver.py", LOCAL),
        (arrows, "selflabel/driver.py", "from selflabel import solvers"),
        (arrows, "selflabel/files/images.py", "from selflabel.driver import solve"),
        (arrows, "selflabel/affinity/grid.py", "import selflabel"),
        (arrows, "selflabel/numerics/cuts/moves.py", "from selflabel.problem import Problem"),
        (arrows, "selflabel/numerics/linear/system.py", "from selflabel.terms import potts"),
        (arrows, "selflabel/numerics/descent/coarse.py", "from selflabel.numerics.linear import system"),
        (arrows, "solvers/graph_cut.py", "import selflabel.cli"),
        (imported_siblings, "solvers/graph_cut.py", "from selflabel.solvers.mean_field import MeanField"),
        (imported_siblings, "solvers/graph_cut.py", "from selflabel.solvers import MeanField"),
        (imported_siblings, "solvers/graph_cut.py", "import solvers.mean_field"),
        (imported_siblings, "selflabel/cli/label.py", "from solvers import SOLVERS"),
        (circles, "selflabel/labels.py", "import selflabel.labels"),
        (homes, "selflabel/kernels/threads.py", "from numba import njit"),
        (homes, "selflabel/kernels/cpu/rows.py", "def f():\n    import triton.language"),
        (homes, "solvers/graph_cut.py", "from llvmlite.ir import Type"),
        (repeated_classes, "selflabel/labels.py", "class A: ...\ndef f():\n    class A: ..."),
        (long_files, "tests/core/test_labels.py", (FILE_LINES + 1) * "\n"),
        (long_functions, "selflabel/labels.py", METHOD),
        (relative_imports, "selflabel/affinity/grid.py", "from .stencil import Stencil"),
        (prints, "selflabel/labels.py", "def f():\n    print(1)"),
        (postponed_annotations, "selflabel/labels.py", "from __future__ import annotations"),
        (open_signatures, "selflabel/labels.py", "class A:\n    def f(self, **options): ..."),
        (open_signatures, "selflabel/labels.py", "f = lambda **options: options"),
        (missing, "examples/acdc.py", "from selflabel.labels import LABELED"),
        (missing, "examples/acdc.py", "def f():\n    import selflabel.problems"),
        (marked, "tests/files/test_files.py", "@pytest.mark.slow\ndef test_it(): ..."),
    ],
)
def test_an_offender_is_seen(rule: Rule, path: str, source: str) -> None:
    assert len(rule([Module(path, source)])) == 1


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (arrows, "selflabel/affinity/grid.py", "from selflabel.affinity.stencil import Stencil"),
        (arrows, "selflabel/cli/label.py", "from selflabel.solvers import SOLVERS"),
        (arrows, "solvers/graph_cut.py", "from selflabel.numerics.cuts.moves import MoveSearch"),
        (arrows, "selflabel/labels.py", "import torch"),
        (imported_siblings, "solvers/__init__.py", "from selflabel.solvers.mean_field import MeanField"),
        (homes, "selflabel/kernels/cpu/compile.py", "import numba"),
        (long_files, "tests/core/test_labels.py", FILE_LINES * "\n"),
        (long_functions, "selflabel/labels.py", METHOD.removesuffix(LINE)),
        (prints, "selflabel/labels.py", "screen.print(1)"),
        (open_signatures, "selflabel/labels.py", "def f(*values): ...\nf(**options)"),
        (missing, "examples/acdc.py", "from selflabel.labels import UNLABELED"),
        (missing, "examples/acdc.py", "from selflabel import Energy, labels"),
        (marked, "tests/files/test_files.py", "pytestmark = pytest.mark.quick"),
        (marked, "tests/support/house.py", ""),
    ],
)
def test_what_is_right_is_not(rule: Rule, path: str, source: str) -> None:
    assert rule([Module(path, source)]) == []


def test_a_circle_over_several_modules_is_seen() -> None:
    """Also over an import in a function and one for type checks; who only leads into it is not in it."""
    circle = [
        Module("selflabel/labels.py", "def f():\n    from selflabel.terms import potts"),
        Module("selflabel/terms/__init__.py", "if TYPE_CHECKING:\n    from selflabel.affinity import grid"),
        Module("selflabel/affinity/grid.py", "import selflabel.labels"),
        Module("selflabel/problem.py", "from selflabel.labels import UNLABELED"),
    ]
    assert circles(circle) == ["selflabel.affinity.grid <-> selflabel.labels <-> selflabel.terms"]
    assert circles(circle[1:]) == []


def test_a_class_of_two_files_is_seen_with_both() -> None:
    twice = [Module("selflabel/labels.py", "class A: ..."), Module("solvers/mean_field.py", "\nclass A: ...")]
    assert repeated_classes(twice) == ["A: selflabel/labels.py:1, solvers/mean_field.py:2"]


def test_the_folder_of_solvers_is_imported_by_its_name_only() -> None:
    source = (ROOT / "solvers" / "__init__.py").read_text()
    with pytest.raises(ImportError, match=r"import selflabel\.solvers"):
        exec(compile(source, "solvers", "exec"), {"__name__": "solvers"})


def test_the_link_is_to_the_folder() -> None:
    link = ROOT / "selflabel" / "solvers"
    if not link.exists():
        pytest.skip("a checkout without links")
    assert link.resolve() == (ROOT / "solvers").resolve()
