"""What all tests share: one thread, markers, `--without-…`, the data packs, random numbers.

Without a GPU, kernels in Triton run in its interpreter, which is asked for before they are imported.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from selflabel.kernels.backend import has_numba, has_triton

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
torch.set_num_threads(1)

WITHOUT_PACKAGES = Path(__file__).parent / "support" / "without_packages"
OPTIONAL = ("numba", "maxflow")
"""Packages that tests can do without: `--without-numba`, `--without-maxflow`."""

USES_KERNELS = re.compile(
    r"^(from|import) (numba|selflabel\.kernels\.cpu|selflabel\.numerics\.descent\.compiled_search)\b",
    re.MULTILINE,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--without-numba` and `--without-maxflow` run the tests as if the package were not installed."""
    for package in OPTIONAL:
        parser.addoption(
            f"--without-{package}", action="store_true", help=f"as if {package} were not installed"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Make imports of the packages fail here and in the processes that tests start."""
    left_out = [package for package in OPTIONAL if config.getoption(f"--without-{package}")]
    if left_out:
        patch = pytest.MonkeyPatch()
        config.add_cleanup(patch.undo)
        for package in left_out:
            patch.setitem(sys.modules, package, None)
        patch.setenv("WITHOUT_PACKAGES", ",".join(left_out))
        patch.setenv("PYTHONPATH", str(WITHOUT_PACKAGES), prepend=os.pathsep)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the files that test compiled kernels where Numba or Triton is missing: they cannot be imported."""
    if collection_path.match("kernels/test_gpu_*.py"):
        return None if has_triton() else True
    if collection_path.suffix != ".py" or has_numba():
        return None
    return USES_KERNELS.search(collection_path.read_text()) is not None or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `cuda` without a device, those marked `needs_numba` without Numba.

    With a device, those of kernels in Triton are among the former: they run there natively.
    """
    for item in items:
        if torch.cuda.is_available() and "needs_triton" in item.keywords:
            item.add_marker(pytest.mark.cuda)
    missing = {"cuda": not torch.cuda.is_available(), "needs_numba": not has_numba()}
    for item in items:
        for marker in (marker for marker in missing if missing[marker] and marker in item.keywords):
            item.add_marker(pytest.mark.skip(reason=f"marked {marker}"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the data packs, from SELFLABEL_DATA; the test is skipped where it is not set."""
    folder = os.environ.get("SELFLABEL_DATA")
    if not folder:
        pytest.skip("SELFLABEL_DATA is not set")
    return Path(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(718_293)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers for torch, the same in every run."""
    return torch.Generator().manual_seed(52_961)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run-time type checks, as for users: the library's own errors are raised."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def kernel_device() -> torch.device:
    """Where kernels in Triton run: natively on a GPU, in the interpreter on the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=[pytest.param("compiled", marks=pytest.mark.needs_numba), "torch"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense filters and mean field as they are with Numba, and as they are without."""
    if request.param == "torch":
        monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)


@pytest.fixture
def several(threads: int) -> Iterator[int]:
    """The number of threads of torch and the kernels, which a test parametrizes as `threads`."""
    torch.set_num_threads(threads)
    yield threads
    torch.set_num_threads(1)
