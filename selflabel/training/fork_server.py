"""The process that forks workers which load: it imports what they need, once for all of them."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

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
    with _same_path(), _interrupt_held():
        forkserver.ensure_running()
    return context


@contextmanager
def _same_path() -> Iterator[None]:
    """A process that starts meanwhile imports from where this one does; its own way, the current folder comes first."""
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    instead = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in instead}
    os.environ.update(instead)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Ctrl-C, which reaches all processes of a terminal, is for this one: the server and its workers never see it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
