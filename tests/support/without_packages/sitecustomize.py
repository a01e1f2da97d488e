"""Processes with this folder on their PYTHONPATH cannot import what WITHOUT_PACKAGES names, such as "numba,maxflow"."""

import os
import sys

for package in filter(None, os.environ.get("WITHOUT_PACKAGES", "").split(",")):
    sys.modules[package] = None  # type: ignore[assignment]
