"""Inner loops compiled by Numba for the CPU: the optional extra `fast`.

Nothing needs them: whatever they compute has a torch path, which is the reference in the tests and what runs on
CUDA. Callers ask `available` and import a kernel where they use it, so that Numba is loaded only then.

The functions that Numba compiles have no annotations (it infers types from the arguments); those around them do.
"""

from functools import cache
from importlib.util import find_spec


@cache
def available() -> bool:
    """Whether Numba is installed."""
    return find_spec("numba") is not None
