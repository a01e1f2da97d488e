"""`pytest --without-numba` and `--without-maxflow`: neither the tests nor the processes that they start find it."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import OPTIONAL, WITHOUT_PACKAGES
from support.processes import environment

from selflabel.kernels.backend import has_numba
from selflabel.numerics.cuts.maximum_flow import PushRelabel, maximum_flow

EVERY_PACKAGE = pytest.mark.parametrize("package", OPTIONAL)


def found_none(package: str, environment: dict[str, str]) -> str:
    """Whether a process finds no such package, as it prints it."""
    script = f"from importlib.util import find_spec; print(find_spec({package!r}) is None)"
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    return done.stdout.decode().strip()


@EVERY_PACKAGE
def test_processes_can_be_kept_from_it(package: str) -> None:
    every = environment(WITHOUT_PACKAGES) | {"WITHOUT_PACKAGES": ",".join(OPTIONAL)}
    assert found_none(package, every) == "True"


@EVERY_PACKAGE
def test_the_option_keeps_tests_and_their_processes_from_it(
    request: pytest.FixtureRequest, package: str
) -> None:
    if not request.config.getoption(f"--without-{package}"):
        pytest.skip("not asked for")
    assert find_spec(package) is None
    assert found_none(package, environment()) == "True"
    if package == "numba":
        assert not has_numba()
    else:
        assert maximum_flow() == PushRelabel()
