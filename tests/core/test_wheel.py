"""The wheel holds what the folders hold, with and without the link, and works away from the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from selflabel.solvers import SOLVERS

ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "selflabel", "solvers")

pytestmark = pytest.mark.slow

ELSEWHERE = """
import pathlib, sys
import selflabel, selflabel.solvers, selflabel.datasets
target = pathlib.Path(sys.argv[1]).resolve()
for module in (selflabel, selflabel.solvers, selflabel.datasets):
    assert target in pathlib.Path(module.__file__).resolve().parents, module.__file__
assert len(list((target / "selflabel" / "datasets").glob("*.json"))) >= 1
import torch
from selflabel import Energy, GridAffinity, Problem, solve
image = torch.rand(1, 3, 5, 6)
seeds = torch.full((1, 5, 6), 255)
problem = Problem.from_seeds(Energy(), seeds, 3, GridAffinity.from_image(image))
print(len(selflabel.solvers.SOLVERS), solve(problem, selflabel.solvers.GraphCut()).results[0].name)
try:
    import solvers
except ImportError:
    print("no package of the name solvers")
"""


def copy(to: Path, *, link: bool) -> Path:
    """Copy what a build needs, so that it writes nothing into the checkout."""
    to.mkdir()
    skip = shutil.ignore_patterns("__pycache__", *([] if link else ["solvers"]))
    for name in BUILT_FROM:
        source = ROOT / name
        if not source.is_dir():
            shutil.copy(source, to / name)
        elif name == "selflabel":
            shutil.copytree(source, to / name, symlinks=True, ignore=skip)
        else:
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert (to / "selflabel" / "solvers").exists() == link
    return to


def run(*command: str, cwd: Path, **options: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return str(done.stdout)


def build(tree: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", ".", cwd=tree)
    (wheel,) = (tree / "dist").glob("*.whl")
    return wheel


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def expected() -> set[str]:
    link = ROOT / "selflabel" / "solvers"
    files = [path for path in (ROOT / "selflabel").rglob("*") if link not in path.parents]
    names = {str(path.relative_to(ROOT)) for path in files if path.suffix in {".py", ".json", ".typed"}}
    return names | {f"selflabel/solvers/{path.name}" for path in (ROOT / "solvers").glob("*.py")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / "selflabel" / "solvers").exists():
        pytest.skip("a checkout without links")
    return build(copy(tmp_path_factory.mktemp("with") / "tree", link=True))


def test_the_wheel_holds_what_the_folders_hold(wheel: Path) -> None:
    assert contents(wheel) == expected()
    assert {"selflabel/py.typed", "selflabel/datasets/demo_scribbles.json"} <= contents(wheel)
    with zipfile.ZipFile(wheel) as archive:
        same = (
            archive.read("selflabel/solvers/graph_cut.py") == (ROOT / "solvers" / "graph_cut.py").read_bytes()
        )
    assert same


def test_a_checkout_without_links_builds_the_same(tmp_path: Path) -> None:
    assert contents(build(copy(tmp_path / "tree", link=False))) == expected()


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    run(*pip, "--target", str(target), str(wheel), cwd=tmp_path)
    away = tmp_path / "away"
    away.mkdir()
    # -I: neither the working directory nor the environment leads back to the checkout
    code = f"import sys; sys.path.insert(0, {str(target)!r}); sys.argv[1:] = [{str(target)!r}]\n{ELSEWHERE}"
    said = run(sys.executable, "-I", "-c", code, cwd=away)
    assert said.splitlines() == [f"{len(SOLVERS)} CONVERGED", "no package of the name solvers"]
