"""Worker processes. Imports nothing heavy: a worker limits its threads before numpy and torch are imported."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from selflabel.kernels import child_processes
from selflabel.kernels.malloc import keep_freed_memory

J = TypeVar("J")
R = TypeVar("R")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

ENDING = frozenset(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals by which users and machines end a command."""

THREADS = Path("/proc/self/task")
"""On Linux: one folder for each thread of this process, threads of libraries included."""


@dataclass(frozen=True)
class Crash:
    """A process died on a job; the reason says how."""

    reason: str


@dataclass(frozen=True)
class Finished(Generic[R]):
    """The message of a worker about a job: a result, or the exception that the work raised."""

    result: R | None
    error: str | None


class Worker:
    """One process, its pipe, and the job it has."""

    def __init__(self, others: Iterable["Worker"] = ()) -> None:
        """A fork of this process where it can be forked, else a new process, which imports what it needs.

        others: existing workers. A fork inherits our ends of all pipes and closes them, or it would never see that
        we died.
        """
        forks = can_fork()
        context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.pipe, child = context.Pipe()
        ours = [self.pipe, *(other.pipe for other in others)] if forks else []
        self.process: BaseProcess = context.Process(target=_serve, args=(child, ours), daemon=True)
        with child_processes.signals_held(ENDING), one_thread():
            self.process.start()
        child.close()
        self.job: object = None

    def learn(self, work: bytes) -> None:
        """Send the pickled work, before the first job."""
        with contextlib.suppress(ConnectionError):  # it is dead: `collect` finds that
            self.pipe.send_bytes(work)

    def give(self, job: object) -> None:
        """Send a job."""
        self.job = job
        with contextlib.suppress(ConnectionError):
            self.pipe.send(job)

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def can_fork() -> bool:
    """True if this process has one thread: a lock held by another would stay locked in the fork."""
    return THREADS.is_dir() and len(list(THREADS.iterdir())) == 1


@contextlib.contextmanager
def forked(count: int) -> Iterator[list[Worker]]:
    """`count` workers that wait for work, or none where this process cannot be forked; killed at the end.

    They share what this process has imported and compiled so far.
    """
    workers: list[Worker] = []
    try:
        while can_fork() and len(workers) < count:
            workers.append(Worker(workers))
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def run_jobs(
    jobs: Iterable[J], work: Callable[[J], R], workers: int, ready: Iterable[Worker] = ()
) -> Generator[tuple[J, R | Crash], None, None]:
    """Run `work` on every job in `workers` processes (1: in this process); yields results as they are done.

    Workers that are `ready` (`forked`) come first. A job is taken from the iterable when a process is free for it. A
    process that dies costs its job, reported as a `Crash`, and is replaced. Processes are killed when the iterator is
    closed or raises, Ctrl-C included. They ignore Ctrl-C and SIGTERM, end with this process, and use one thread each;
    `work`, jobs and results must pickle.

    Raises `RuntimeError` if `work` raises.
    """
    if workers <= 1:
        yield from ((job, work(job)) for job in jobs)
        return
    payload = pickle.dumps(work)
    todo: Iterator[J] = iter(jobs)
    idle, team = list(ready), list[Worker]()
    try:
        while True:
            _assign(todo, idle, team, workers, payload)
            busy = [worker for worker in team if worker.job is not None]
            if not busy:
                return
            wait([worker.pipe for worker in busy] + [worker.process.sentinel for worker in busy])
            for worker in busy:
                outcome = collect(worker)
                if outcome is None:
                    continue
                job: J = worker.job  # type: ignore[assignment]
                worker.job = None
                if isinstance(outcome, Crash):
                    team.remove(worker)
                    worker.stop()
                    yield job, outcome
                elif outcome.error is not None:
                    raise RuntimeError(outcome.error)
                else:
                    yield job, outcome.result  # type: ignore[misc]
    finally:
        for worker in team:
            worker.stop()


def _assign(todo: Iterator[J], ready: list[Worker], team: list[Worker], workers: int, payload: bytes) -> None:
    """Give a job to every idle worker, and take on workers while there are jobs."""
    idle = [worker for worker in team if worker.job is None]
    while idle or len(team) < workers:
        job = next(todo, None)
        if job is None:
            return
        if not idle:
            idle.append(ready.pop() if ready else Worker(team))
            idle[0].learn(payload)
            team.append(idle[0])
        idle.pop().give(job)


def collect(worker: Worker) -> "Finished[Any] | Crash | None":
    """The message of a busy worker, or its crash; None while it works."""
    dead = not worker.process.is_alive()
    if worker.pipe.poll():
        with contextlib.suppress(EOFError, OSError):
            finished: Finished[object] = worker.pipe.recv()
            return finished
        dead = True
    return Crash(_cause_of_death(worker.process)) if dead else None


def _cause_of_death(process: BaseProcess) -> str:
    process.join(5)
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process that labeled it was killed by {name}{hint}"
    return f"the process that labeled it ended with exit code {code}"


def one_thread() -> AbstractContextManager[None]:
    """Limit processes that start meanwhile to one thread, by variables that numpy and torch read at import."""
    return child_processes.variables(dict.fromkeys(THREAD_VARIABLES, "1"))


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """No garbage collection, for imports: it takes a quarter of their time, and what they make stays."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _end_with_parent() -> None:
    """Wait for the process that started this one to end, and end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _serve(pipe: Connection, others: Iterable[Connection]) -> None:
    """The loop of a worker process; it ends when all copies of the other end of its pipe are closed.

    Signals that end a command, which reach all processes of a group, are for the process that feeds it: that one stops
    its workers. If it dies, they do, at once: a worker that went on would write files of a run that is over.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    for other in others:
        other.close()
    try:
        work = pickle.loads(pipe.recv_bytes())
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        while True:
            job = pipe.recv()
            try:
                finished: Finished[object] = Finished(work(job), None)
            except Exception as error:
                finished = Finished(None, f"{type(error).__name__}: {error}")
            pipe.send(finished)
    except (EOFError, ConnectionError):  # nobody waits for the result
        return
