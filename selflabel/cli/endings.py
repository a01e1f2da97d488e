"""How commands end: by a signal, or with nobody who reads what they print. Imports nothing heavy."""

import _thread
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 and the number of the signal."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a command as Ctrl-C does: work is stopped and put in order."""

AGAIN_SECONDS = 0.05
"""After which a signal that was lost is sent again."""


class Sink(io.RawIOBase):
    """A stream that takes whatever is written. After the first error nothing reaches `below`; `error` keeps it.

    above: a stream on `below` that would close it, if it were collected.
    """

    def __init__(self, below: io.RawIOBase, above: object = None) -> None:
        super().__init__()
        self.below, self.above = below, above
        self.error: OSError | None = None

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """True for a terminal."""
        return self.below.isatty()

    def fileno(self) -> int:
        """The descriptor below."""
        return self.below.fileno()

    def write(self, data: "memoryview | bytes") -> int:  # type: ignore[override]
        """Write a part of the data, or drop them."""
        if self.error is None:
            try:
                return self.below.write(data) or 0
            except OSError as error:
                self.error = error
        return len(data)


@contextlib.contextmanager
def outputs_may_fail() -> Iterator[None]:
    """Let work go on when nobody reads what it prints (``| head -1``), or when that cannot be written.

    A reader that is gone has what it wanted: the exit code is that of the work. Output that could not be written (a
    full disk) is an error: it is told, and the exit code is 1 where it would be 0.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: or the next file would take its descriptor
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    out = _guarded(sys.stdout)
    _guarded(sys.stderr)
    code: object = 0
    try:
        yield
    except SystemExit as end:
        code = end.code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if out is not None and out.error is not None and not isinstance(out.error, BrokenPipeError):
        sys.stderr.write(f"error: the standard output cannot be written: {out.error.strerror}\n")
        code = code or 1
    sys.exit(code)  # type: ignore[arg-type]


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Have SIGTERM and SIGHUP stop the work as Ctrl-C does; the exit code then tells which signal it was.

    Signals that this process was told to ignore (``nohup``) stay ignored; one whose exception is lost is sent again.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, interrupt)
    try:
        with _lost_interrupts_come_again(received):
            yield
    except SystemExit as end:
        if end.code == INTERRUPTED and received:
            sys.exit(128 + received[0])
        raise
    except KeyboardInterrupt:  # between two commands' lines: nothing to say
        sys.exit(128 + received[0] if received else INTERRUPTED)


@contextlib.contextmanager
def _lost_interrupts_come_again(received: list[int]) -> Iterator[None]:
    """Send a signal again whose `KeyboardInterrupt` was raised where Python drops exceptions.

    That is in callbacks of C and in finalizers. LLVM calls back after each function that it compiles, and signals wait
    for this while it compiles: those that come then would be lost.
    """
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)
            return
        timer = threading.Timer(
            AGAIN_SECONDS, _interrupt_main, (received[-1] if received else signal.SIGINT,)
        )
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt_main(number: int) -> None:
    """Give the main thread a signal, from another one."""
    if hasattr(signal, "pthread_kill"):  # it also wakes the thread
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _guarded(stream: object) -> Sink | None:
    """Put a `Sink` below the standard stream; None where there is no file below it."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # there is no buffer with PYTHONUNBUFFERED
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.RawIOBase):
        return None
    sink = Sink(raw, stream)
    wrapped = io.TextIOWrapper(
        io.BufferedWriter(sink),  # type: ignore[type-var]
        encoding=stream.encoding,
        errors="backslashreplace",  # a letter that the terminal does not have is no reason to fail
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    with contextlib.suppress(OSError):
        stream.flush()
    if stream is sys.stdout:
        sys.stdout = wrapped
    else:
        sys.stderr = wrapped
    return sink
