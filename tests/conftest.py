"""What all tests share: one thread, the data packs, random numbers."""

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `cuda` are skipped where there is no device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the data packs; the test is skipped if SELFLABEL_DATA is not set."""
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
    """Without run-time type checks, as users have it: the library's own errors come to light."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(params=["compiled", "torch"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense filters and mean field as they are with Numba, and as they are without."""
    if request.param == "torch":
        monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)


@pytest.fixture
def several(threads: int) -> Iterator[int]:
    """Some threads for torch and the kernels."""
    torch.set_num_threads(threads)
    yield threads
    torch.set_num_threads(1)
