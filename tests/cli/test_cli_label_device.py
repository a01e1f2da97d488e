"""`selflabel label --device`: what is refused, and a run on a device, for which the CPU stands in."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.devices import CPU
from support.folders import contents, make_folders
from support.processes import environment
from typer.testing import CliRunner, Result

from selflabel.cli import app
from selflabel.labeling.engines import stages
from selflabel.labeling.engines.processes import can_fork

RUN = (
    sys.executable,
    "-c",
    # background jobs of a script ignore Ctrl-C, and their children inherit that
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from support.devices import CPU\n"
    "from selflabel.labeling import devices\n"
    "devices.labeling_devices = lambda *asked: (CPU,)\n"
    "from selflabel.cli import main; main()",
)


def label(folders: tuple[Path, ...], out: Path, *more: object) -> Result:
    given = ["label", folders[0], "--seeds", folders[1], "--out", out, "--workers", 2, *more]
    return CliRunner().invoke(app, [str(each) for each in given])


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device, which is the CPU."""
    monkeypatch.setattr("selflabel.labeling.devices.labeling_devices", lambda *asked: (CPU,))


@pytest.mark.parametrize(
    ("device", "solver", "said"),
    [
        ("cuda", "mean-field", "there is no device 'cuda' here: torch"),
        ("cuda:1", "mean-field", "there is no device 'cuda:1' here"),
        ("gpu", "mean-field", "there are auto, cpu, cuda and cuda:N"),
        ("cuda", "graph-cut", "there is no device 'cuda' here: torch"),
    ],
)
def test_a_device_that_is_not_there_stops_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, solver: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    folders = make_folders(tmp_path, 1)
    result = label(folders, tmp_path / "out", "--device", device, "--solver", solver)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_cpu_labels_a_small_folder(tmp_path: Path, device: str) -> None:
    folders = make_folders(tmp_path, 2)
    result = label(folders, tmp_path / "out", "--device", device)
    assert result.exit_code == 0, result.output
    assert "solved on" not in result.output
    assert (tmp_path / "out" / "manifest.jsonl").read_text().count('"device": "cpu"') == 2


@pytest.mark.usefixtures("on_device")
def test_a_run_on_a_device_writes_the_same_files_and_goes_on_what_the_cpu_began(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    options = ("--solver", "gradient-descent", "--overlay")
    assert label(folders, tmp_path / "one", *options, "--limit", 4).exit_code == 0
    result = label(folders, tmp_path / "out", *options, "--limit", 2)
    assert result.exit_code == 0, result.output
    result = label(folders, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


@pytest.mark.usefixtures("on_device")
def test_labels_of_two_devices_in_a_folder_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_fork():
        pytest.skip("this process has several threads: others would not know what is replaced here")
    folders = make_folders(tmp_path, 3)
    assert label(folders, tmp_path / "out", "--limit", 1).exit_code == 0
    monkeypatch.setattr(stages.DeviceWork, "name", "Device 9000")
    result = label(folders, tmp_path / "out")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "solved on" in said
    assert (
        "images were solved 2 on Device 9000, 1 on cpu: labels of several devices differ by rounding" in said
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="about signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_ends_in_order_and_goes_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folders = make_folders(tmp_path, 120)
    out = tmp_path / "out"
    manifest = out / "manifest.jsonl"
    command = [*RUN, "label", folders[0], "--seeds", folders[1], "--out", out, "--workers", "2"]
    process = subprocess.Popen(
        [*map(str, command), "--annotator", "none"],
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (not manifest.is_file() or manifest.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, number)  # to the whole group, as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert "images left" in output
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    assert label(folders, out, "--annotator", "none").exit_code == 0
    assert label(folders, tmp_path / "whole", "--annotator", "none").exit_code == 0
    assert contents(out) == contents(tmp_path / "whole")
