"""The GPU benchmark, on the CPU: its checks pass, see a wrong answer, and its jobs run."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

gpu, gpu_checks = import_module("gpu"), import_module("gpu_checks")
CPU = torch.device("cpu")


def test_the_checks_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.failures(16, CPU) == []
    assert capsys.readouterr().out.count("| solver: ") == 10


def test_a_check_sees_a_wrong_answer() -> None:
    def doubtful(scene: gpu_checks.Scene) -> tuple[torch.Tensor, ...]:  # type: ignore[name-defined]
        wrong = 1.001 if scene.probs.dtype == torch.float32 else 1.0
        return scene.probs, wrong * scene.probs

    assert gpu_checks.Check("doubtful", doubtful, 1e-4).error(16, CPU) == pytest.approx(1e-3, rel=0.01)


def test_every_job_runs_and_moves_something() -> None:
    families = (gpu.descent, gpu.mean_field, gpu.filters, gpu.losses)
    jobs = [job for family in families for job in family(gpu.SMALL, CPU)]
    assert len({job.name for job in jobs}) == len(jobs) == 9
    for job in jobs:
        job.work()
        assert job.bytes > 0


def test_the_count_of_a_lattice_is_that_of_its_arrays() -> None:
    """Two points far apart, three values: every matrix has weights, places and row beginnings."""
    lattice = gpu_checks.LatticeInTorch().build(torch.tensor([[[0.0, 0.0], [50.0, 50.0]]]))
    matrices = (lattice.splat, *lattice.blurs, lattice.slice)
    arrays = sum(x.nbytes for m in matrices for x in (m.index, m.offsets, m.weight))
    tables = sum(len(m.offsets) for m in matrices[:-1])
    assert gpu.bytes_of_lattice(lattice, 3) == arrays + 4 * 3 * 2 * (2 + tables)


def test_without_the_device_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err
