"""Machine code that Numba keeps on disk, from one process and one version of the library to the next."""

import subprocess
import sys
from pathlib import Path

SOURCE = """
from typing import Any, NamedTuple
import numpy as np
from selflabel.kernels.cpu.compile import kernel

class {record}(NamedTuple):
    row: Any

@kernel
def first(record):
    return record.row[0]

print(first({record}(np.ones(3))), sum(first.stats.cache_hits.values()))
"""


def run(folder: Path, record: str) -> str:
    (folder / "kernels.py").write_text(SOURCE.format(record=record))
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); import kernels"]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip()


def test_records_may_be_renamed_from_one_version_to_the_next(tmp_path: Path) -> None:
    assert run(tmp_path, "One") == "1.0 0"
    assert run(tmp_path, "Another") == "1.0 0"
    assert run(tmp_path, "Another") == "1.0 1"
