"""The source as a list of modules, and the rules of the house: each gives its offenders as `path:line what`."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = ROOT / "selflabel" / "solvers"
"""A link to `solvers/` for type checkers: its files count once."""

FILE_LINES = 400
FUNCTION_LINES = 60


@dataclass(frozen=True)
class Module:
    """One source file; `path` is relative to the root of the repository."""

    path: str
    source: str

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the parsed source."""
        return tuple(ast.walk(ast.parse(self.source)))

    @cached_property
    def name(self) -> str:
        """The name under which it is imported: `selflabel.solvers.graph_cut` for solvers/graph_cut.py."""
        name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return f"selflabel.{name}" if name.split(".")[0] == "solvers" else name

    @cached_property
    def imports(self) -> tuple[tuple[int, str], ...]:
        """Line and full name of all imports, also those in functions and under TYPE_CHECKING."""
        found: list[tuple[int, str]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        return tuple(found)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """All functions, methods and functions inside functions."""
        for node in self.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def modules(*folders: str) -> list[Module]:
    """The source files below some folders of the repository."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [
        Module(str(path.relative_to(ROOT)), path.read_text()) for path in paths if LINK not in path.parents
    ]


def room_of(name: str, rooms: Mapping[str, object]) -> str:
    """The room of an imported name: the longest that matches, `selflabel` for the package itself."""
    parts = name.split(".")[1:]
    tried = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((room for room in tried if room in rooms), "selflabel")


def wrong_arrows(library: Sequence[Module], allowed: Mapping[str, set[str]]) -> list[str]:
    """Imports of rooms that are not allowed in this one. A room that is allowed comes with the rooms in it."""
    wrong = []
    for module in library:
        own = room_of(module.name, allowed)
        for line, name in module.imports:
            other = room_of(name, allowed)
            inside = name.split(".")[0] == "selflabel" and other != own
            if inside and not any(f"{other}.".startswith(f"{room}.") for room in allowed[own]):
                wrong.append(f"{module.path}:{line} {name}")
    return wrong


def imported_siblings(library: Sequence[Module]) -> list[str]:
    """Solvers that import a solver, and imports of `solvers` under another name than `selflabel.solvers`."""
    return [
        f"{module.path}:{line} {name}"
        for module in library
        for line, name in module.imports
        if name.split(".")[0] == "solvers"
        or (module.name.startswith("selflabel.solvers.") and name.startswith("selflabel.solvers"))
    ]


def circles(library: Sequence[Module]) -> list[str]:
    """Modules that import each other, over any number of others (strongly connected components)."""
    known = {module.name for module in library}
    graph: dict[str, set[str]] = {}
    for module in library:
        targets = {name if name in known else name.rpartition(".")[0] for _, name in module.imports}
        graph[module.name] = targets & known
    reached = {name: _reachable(graph, name) for name in graph}
    found = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [" <-> ".join(circle) for circle in sorted(found)]


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """The modules that one imports, directly or not."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead.extend(new)
    return found


def misplaced(library: Sequence[Module], homes: Mapping[str, str]) -> list[str]:
    """Imports of packages outside of the room that is their home."""
    return [
        f"{module.path}:{line} {name}"
        for module in library
        for line, name in module.imports
        if (home := homes.get(name.split(".")[0])) and not module.name.startswith(f"selflabel.{home}")
    ]


def repeated_classes(library: Sequence[Module]) -> list[str]:
    """Class names that are defined more than once."""
    places: dict[str, list[str]] = {}
    for module in library:
        for node in module.nodes:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{module.path}:{node.lineno}")
    return [f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1]


def long_files(source: Sequence[Module]) -> list[str]:
    """Files over `FILE_LINES` lines."""
    lengths = {module.path: len(module.source.splitlines()) for module in source}
    return [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > FILE_LINES]


def long_functions(source: Sequence[Module]) -> list[str]:
    """Functions over `FUNCTION_LINES` lines, without decorators, with their docstrings."""
    return [
        f"{module.path} {node.name}"
        for module in source
        for node in module.functions()
        if (node.end_lineno or node.lineno) - node.lineno > FUNCTION_LINES
    ]


def relative_imports(source: Sequence[Module]) -> list[str]:
    """Imports that begin with a dot."""
    return [
        f"{module.path}:{node.lineno}"
        for module in source
        for node in module.nodes
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def prints(library: Sequence[Module]) -> list[str]:
    """Calls of `print`. The command line writes to its own screen, with rich."""
    return [
        f"{module.path}:{node.lineno}"
        for module in library
        for node in module.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def postponed_annotations(library: Sequence[Module]) -> list[str]:
    """Modules whose annotations are strings, which the run-time checks of shapes do not see."""
    return [
        f"{module.path}:{line}"
        for module in library
        for line, name in module.imports
        if name == "__future__.annotations"
    ]


def open_signatures(library: Sequence[Module]) -> list[str]:
    """Signatures with `**options`: a misspelled argument would vanish there."""
    return [
        f"{module.path}:{node.kwarg.lineno}"
        for module in library
        for node in module.nodes
        if isinstance(node, ast.arguments) and node.kwarg
    ]


def rooms_without(marker: str, tests: Sequence[Module]) -> list[str]:
    """Rooms of tests in which no test has a marker."""
    rooms: dict[str, bool] = {}
    for module in tests:
        room, file = module.path.split("/")[-2:]
        if file.startswith("test_"):
            rooms[room] = rooms.get(room, False) or f"pytest.mark.{marker}" in module.source
    return [room for room, marked in rooms.items() if not marked]


def missing_names(source: Sequence[Module], library: Sequence[Module]) -> list[str]:
    """Imports of names that the library does not define."""
    known = {module.name for module in library}
    for module in library:
        for node in module.nodes:
            match node:
                case (
                    ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store())
                ):
                    known.add(f"{module.name}.{name}")
        known |= {f"{module.name}.{name.split('.')[-1]}" for _, name in module.imports}
    return [
        f"{module.path}:{line} {name}"
        for module in source
        for line, name in module.imports
        if name.split(".")[0] == "selflabel" and name not in known
    ]
