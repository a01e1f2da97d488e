"""`pytest --without-numba`: neither the tests nor the processes that they start find Numba."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import WITHOUT_NUMBA
from support.processes import environment

from selflabel.kernels.backend import has_numba

SCRIPT = "from importlib.util import find_spec; print(find_spec('numba') is None)"


def found_none(environment: dict[str, str]) -> str:
    """Whether a process finds no Numba, as it prints it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True)
    return done.stdout.decode().strip()


def test_processes_can_be_kept_from_it() -> None:
    assert found_none(environment(WITHOUT_NUMBA)) == "True"


def test_the_option_keeps_tests_and_their_processes_from_it(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--without-numba"):
        pytest.skip("not asked for")
    assert not has_numba()
    assert find_spec("numba") is None
    assert found_none(environment()) == "True"
