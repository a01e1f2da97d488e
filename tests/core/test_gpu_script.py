"""The GPU benchmark, on the CPU: its checks pass, see a wrong answer, and its jobs run; what fails does not end it."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

gpu, gpu_checks, gpu_jobs, gpu_training = (
    import_module(name) for name in ("gpu", "gpu_checks", "gpu_jobs", "gpu_training")
)
CPU = torch.device("cpu")


def test_the_checks_pass(capsys: pytest.CaptureFixture[str]) -> None:
    report = gpu.Report([], [])
    gpu.check(report, 16, CPU)
    assert report.failures == []
    assert capsys.readouterr().out.count("| solver: ") == 11


def test_a_check_sees_a_wrong_answer() -> None:
    def doubtful(scene: gpu_checks.Scene) -> tuple[torch.Tensor, ...]:  # type: ignore[name-defined]
        wrong = 1.001 if scene.probs.dtype == torch.float32 else 1.0
        return scene.probs, wrong * scene.probs

    assert gpu_checks.Check("doubtful", doubtful, 1e-4).error(16, CPU) == pytest.approx(1e-3, rel=0.01)


def test_every_job_runs_and_says_something() -> None:
    jobs = [job for family in gpu.FAMILIES.values() for job in family.jobs(gpu.SMALL, CPU)]
    assert len({(job.name, job.counted) for job in jobs}) == len(jobs) > 20
    clock = gpu.Clock(CPU, 2)
    for job in jobs:
        line = gpu.row(job, clock, 1e9, "torch")
        assert line.count("|") == gpu.HEADER.splitlines()[0].count("|")
        assert job.name in line


def test_a_training_step_is_split() -> None:
    rows = [
        {"loading_seconds": 0.001, "network_seconds": 0.02, "solver_seconds": 0.01},
        {"loading_seconds": 0.003, "network_seconds": 0.03, "solver_seconds": 0.02},
    ]
    found = gpu_training.split(rows, 0.1)
    assert found == pytest.approx({"loading": 2.0, "network": 25.0, "solver": 15.0, "waiting": 10.0})
    assert gpu_training.split(rows, 0.07)["waiting"] == 0


def test_the_published_recipe_descends_on_the_energy_of_a_problem() -> None:
    job = next(gpu_jobs.recipe(gpu.SMALL, CPU))
    problem = gpu_jobs._smooth_problem(gpu.SMALL.descent, CPU)
    logits, energy = job.work()
    torch.testing.assert_close(problem.value(logits.softmax(1)), energy.double(), rtol=1e-5, atol=1e-5)
    assert bool((energy < problem.value(problem.probs)).all())


def test_what_fails_is_told_at_the_end_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(sizes: object, device: torch.device) -> Iterator[object]:
        yield from ()
        raise RuntimeError("out of order")

    wrong = gpu_checks.Check("doubtful", lambda scene: (scene.probs * float(scene.probs.itemsize),), 1e-4)
    monkeypatch.setattr(gpu, "checks", lambda: iter([wrong]))
    monkeypatch.setitem(gpu.FAMILIES, "descent", gpu.Family(broken))
    chosen = ["--device", "cpu", "--small", "--jobs", "checks,descent,recipe"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *chosen])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert str(ended.value.code).startswith("2 failed:\ndoubtful: 5.0e-01")
    assert "RuntimeError: out of order" in str(ended.value.code)
    assert capsys.readouterr().out.count("published recipe") == 2


def test_an_unknown_job_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--jobs", "descent,decent"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "expected --jobs from checks, descent" in capsys.readouterr().err


def test_the_count_of_a_lattice_is_that_of_its_arrays() -> None:
    """Two points far apart, three values: every matrix has weights, places and row beginnings."""
    lattice = gpu_checks.LatticeOnGPU().build(torch.tensor([[[0.0, 0.0], [50.0, 50.0]]]))
    matrices = (lattice.splat, *lattice.blurs, lattice.slice)
    arrays = sum(x.nbytes for m in matrices for x in (m.index, m.offsets, m.weight))
    tables = sum(len(m.offsets) for m in matrices[:-1])
    assert gpu_jobs.bytes_of_lattice(lattice, 3) == arrays + 4 * 3 * 2 * (2 + tables)


def test_without_the_device_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err
