"""A few kills of the command; `tests/benchmarks/kills_label.py` does a thousand."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import ROOT, environment

SCRIPT = ROOT / "tests" / "benchmarks" / "kills_label.py"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
@pytest.mark.parametrize("engine", [(), ("--pipeline",)], ids=["processes", "pipeline"])
def test_a_few_kills_lose_nothing(engine: tuple[str, ...]) -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "12", "--seed", "57", *engine]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(": 0 faults")
