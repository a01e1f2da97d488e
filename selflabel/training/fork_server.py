"""The process that forks workers which load: it imports what they need, once for all of them."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.context import BaseContext

from selflabel.kernels import child_processes

DEFAULT = "__main__"
"""What Python itself lets the server import."""


def context_of_workers(module: str) -> BaseContext:
    """The way to start workers that need this module: by a fork server that has imported it, else each a new process.

    A copy of a process that uses a GPU, or threads, may hang: the server uses neither. It is that of all of Python's
    multiprocessing; one that runs already stays as it is, and workers then import the module themselves, which takes
    four of them four times as long.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # not on Windows

    context = multiprocessing.get_context("forkserver")
    others = getattr(forkserver._forkserver, "_preload_modules", [DEFAULT])
    context.set_forkserver_preload([*others, *({module} - set(others))])
    # Ctrl-C, which reaches all processes of a terminal, is for this one
    with child_processes.variables(_same_path()), child_processes.signals_held([signal.SIGINT]):
        forkserver.ensure_running()
    return context


def _same_path() -> dict[str, str]:
    """With these variables a process imports from where this one does; its own way, the current folder comes first."""
    return {
        "PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path),
        "PYTHONSAFEPATH": "1",
    }
