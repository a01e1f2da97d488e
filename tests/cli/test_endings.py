"""Endings: signals, readers that are gone, disks that are full; and what reaches the terminal."""

import ctypes
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from support.folders import contents, make_folders
from support.processes import environment
from typer.testing import CliRunner

from selflabel.cli import app, endings, screen
from selflabel.cli.endings import Sink, outputs_may_fail, signals_interrupt

RUN = [sys.executable, "-m", "selflabel"]


def run(arguments: Sequence[object], **streams: object) -> "subprocess.CompletedProcess[str]":
    command = [*RUN, *map(str, arguments)]
    return subprocess.run(command, env=environment(), text=True, timeout=120, **streams)  # type: ignore[call-overload,no-any-return]


# --- signals ---


@pytest.mark.skipif(os.name == "nt", reason="about signals")
@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_ends_a_run_in_order(tmp_path: Path, whole_group: bool) -> None:
    folders = make_folders(tmp_path, 200)
    out = tmp_path / "out"
    manifest = out / "manifest.jsonl"
    command = [*RUN, "label", folders[0], "--seeds", folders[1], "--out", out, "--workers", "2"]
    process = subprocess.Popen(
        [*map(str, command)],
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (not manifest.is_file() or manifest.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    if whole_group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("interrupted with ")
    assert "failed:" not in output
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_ctrl_c_before_labeling_begins_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)

    def interrupted(*files: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selflabel.labeling.plan.make_plan", interrupted)
    arguments = ["label", str(images), "--seeds", str(seeds), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 130
    assert result.output.strip() == "interrupted before labeling began: no labels were written"
    assert not (tmp_path / "out").exists()


def test_ctrl_c_in_any_command_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(screen, "progress", interrupted)
    result = CliRunner().invoke(app, ["score", str(tmp_path), str(tmp_path)])
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def terminated() -> None:
    """A command that SIGTERM interrupts."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except KeyboardInterrupt:
        sys.exit(endings.INTERRUPTED)


def test_a_signal_gives_its_own_exit_code() -> None:
    before = {number: signal.getsignal(number) for number in endings.SIGNALS}
    try:
        for number in endings.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        with pytest.raises(SystemExit) as end, signals_interrupt():
            terminated()
        assert end.value.code == 143
        with pytest.raises(SystemExit) as end, signals_interrupt():
            raise KeyboardInterrupt
        assert end.value.code == 130
        with pytest.raises(SystemExit) as end, signals_interrupt():
            sys.exit(1)
        assert end.value.code == 1
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with signals_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)  # ignored before, ignored now
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(os.name == "nt", reason="about signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_callback_of_c_is_not_lost(number: int) -> None:
    """LLVM calls back after each function that it compiles, and Python drops what callbacks raise."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    callback = ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), number))

    def work() -> None:
        callback()
        time.sleep(5)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    try:
        with pytest.raises(SystemExit) as end, signals_interrupt():
            work()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert end.value.code == 128 + number
    assert time.monotonic() - began < 2


@pytest.mark.skipif(os.name == "nt", reason="about signals")
def test_other_exceptions_of_callbacks_are_told() -> None:
    def wrong() -> None:
        raise ValueError("of a callback")

    told: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda lost: told.append(lost.exc_value)
    try:
        with signals_interrupt():
            ctypes.CFUNCTYPE(None)(wrong)()
    finally:
        sys.unraisablehook = before
    assert [str(each) for each in told] == ["of a callback"]


# --- outputs ---


class Full(io.RawIOBase):
    """A file on a full disk, or a pipe without a reader."""

    def __init__(self, error: type[OSError]) -> None:
        self.kind = error

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise self.kind(28, "No space left on device")


def test_a_sink_takes_all_and_keeps_the_first_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with open(path, "wb", buffering=0) as below:
        sink = Sink(below)
        assert sink.write(b"abc") == 3
        assert (sink.error, sink.isatty(), sink.writable(), sink.fileno()) == (
            None,
            False,
            True,
            below.fileno(),
        )
    assert path.read_bytes() == b"abc"
    broken = Sink(Full(BrokenPipeError))
    assert broken.write(b"abc") == broken.write(b"abc") == 3
    assert isinstance(broken.error, BrokenPipeError)


@pytest.mark.parametrize(
    ("error", "code", "wanted"),
    [(OSError, 0, 1), (OSError, 2, 2), (BrokenPipeError, 0, 0), (BrokenPipeError, 1, 1)],
)
def test_the_exit_code_is_that_of_the_work(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError], code: int, wanted: int
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Full(error))))
    monkeypatch.setattr(sys, "stderr", told)
    with pytest.raises(SystemExit) as end, outputs_may_fail():
        prints(code)
    assert end.value.code == wanted
    lost = "error: the standard output cannot be written: No space left on device\n"
    assert told.getvalue() == (lost if error is OSError else "")


def prints(code: int) -> None:
    """A command that prints more than a buffer holds."""
    sys.stdout.write("x" * 100_000)
    Console().print("a table")
    sys.exit(code)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="about /dev/full")
def test_commands_with_a_full_disk_or_without_a_reader(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    arguments = ["label", images, "--seeds", seeds, "--out", tmp_path / "out", "--workers", 1]
    with FULL.open("w") as full:
        result = run(arguments, stdout=full, stderr=subprocess.PIPE)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1:] == [
            "error: the standard output cannot be written: No space left on device"
        ]
        assert "Traceback" not in result.stderr
        assert len(contents(tmp_path / "out")) == 2
        assert run(arguments, stdout=subprocess.PIPE, stderr=full).returncode == 0
        helped = run(["--help"], stdout=full, stderr=subprocess.PIPE)
        assert (helped.returncode, helped.stderr.count("\n")) == (1, 1)
    there, gone = os.pipe()
    os.close(there)
    result = run(arguments, stdout=gone, stderr=subprocess.PIPE)
    os.close(gone)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)


def test_closed_outputs_are_no_error(tmp_path: Path) -> None:
    script = f"exec {sys.executable} -m selflabel --version >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], env=environment(), timeout=60).returncode == 0


# --- what reaches the terminal ---

NASTY = "a\x1b[31mred\x07\n\rb\x9bc\u202etxt\u2028\udce9[bold]x[/bold]"
TAME = r"a\x1b[31mred\x07\n\rb\x9bc\u202etxt\u2028\udce9[bold]x[/bold]"


def test_names_reach_the_terminal_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert screen.escaped(NASTY) == TAME
    assert screen.escaped("straße 写真 नमस्ते می‌خواهم 👩‍🔬") == "straße 写真 नमस्ते می‌خواهم 👩‍🔬"
    screen.tell(NASTY)
    screen.failures([(NASTY, "no")])
    screen.say(NASTY.replace("\n", ""))
    table = screen.Table("name", title=None)
    table.add_row(NASTY)
    screen.show(table)
    out, err = capsys.readouterr()
    assert err == f"{TAME}\n1 failed:\n  {TAME}: no\n"
    assert out.splitlines()[0] == TAME.replace(r"\n", "")
    assert TAME in out
    assert "\x1b" not in out + err


def test_a_file_with_a_nasty_name_is_listed_as_text(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    name = "a0\x1b[31m\nerror: [bold]"
    (images / "a0.png").rename(images / f"{name}.png")
    arguments = ["label", str(images), "--seeds", str(seeds), "--out", str(tmp_path / "o\x1b[2J")]
    result = CliRunner().invoke(app, [*arguments, "--workers", "1"])
    assert result.exit_code == 1
    assert r"  a0\x1b[31m\nerror: [bold]: no seeds" in result.output
    assert r"o\x1b[2J/labels" in result.output
    assert "\x1b" not in result.output
