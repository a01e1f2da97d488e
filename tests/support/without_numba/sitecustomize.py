"""Processes with this folder on their PYTHONPATH cannot import Numba: for `pytest --without-numba`."""

import sys

sys.modules["numba"] = None  # type: ignore[assignment]
