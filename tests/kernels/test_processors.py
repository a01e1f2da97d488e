"""How many processors there are for a process, and how its threads wait."""

import os
from pathlib import Path

import pytest

from selflabel.kernels import processors
from selflabel.kernels.processors import share_processors, usable_processors

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 processors without a limit, and its folder of groups."""
    monkeypatch.setattr(processors, "CGROUPS", tmp_path)
    monkeypatch.setattr(processors, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_without_a_limit_all_processors_that_it_is_bound_to(machine: Path) -> None:
    assert usable_processors() == 16
    (machine / "cpu.max").write_text("max 100000\n")
    assert usable_processors() == 16
    (machine / "cpu.max").write_text("no number\n")
    assert usable_processors() == 16


@pytest.mark.parametrize(("quota", "wanted"), [(200_000, 2), (250_000, 3), (1_000, 1), (10**9, 16)])
def test_a_container_pays_for_some(machine: Path, quota: int, wanted: int) -> None:
    (machine / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_processors() == wanted
    (machine / "cpu.max").unlink()
    (machine / "cpu").mkdir()
    (machine / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (machine / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    assert usable_processors() == wanted
    (machine / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_processors() == 16


def test_the_tightest_group_counts(machine: Path) -> None:
    inner = machine / "user" / "job"
    inner.mkdir(parents=True)
    (machine / "own").write_text("0::/user/job\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("300000 100000\n")
    assert usable_processors() == 3


def test_threads_sleep_soon_unless_the_user_says_how_they_wait(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_by_user = dict(os.environ)
    monkeypatch.setattr(os, "environ", dict(set_by_user))
    share_processors()
    changed = {name: os.environ.get(name) for name in VARIABLES if name in os.environ}
    assert changed == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
    monkeypatch.setattr(os, "environ", {**set_by_user, "OMP_WAIT_POLICY": "active"})
    share_processors()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_threads_are_no_more_than_the_quota_pays(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "cpu.max").write_text("200000 100000\n")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    share_processors()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    os.environ["OMP_NUM_THREADS"] = "5"
    share_processors()
    assert os.environ["OMP_NUM_THREADS"] == "5"
