"""Two processes train as one: the same losses, gradients, labels and scores, to rounding."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from support.cases import CLASSES, network, samples
from torch import distributed
from torch.multiprocessing.spawn import spawn

from selflabel.datasets.samples import Batch
from selflabel.losses.gated_crf import GatedCRFLoss
from selflabel.losses.modules import PottsLoss
from selflabel.solvers import GradientDescent, GraphCut
from selflabel.training import (
    SGD,
    Batches,
    FullMasks,
    Objective,
    Process,
    Regularized,
    SeedsOnly,
    SelfLabeling,
    TrainingSettings,
    WeightedLoss,
    current_process,
    load_checkpoint,
    process_group,
    read_history,
    train,
)

PROCESSES = 2
SETTINGS = TrainingSettings(
    steps=4,
    pretrain_steps=1,
    warmup_steps=2,
    learning_rate=0.05,
    optimizer=SGD(),
    validate_every=2,
    measure_every=2,
    checkpoint_every=2,
)
GATED = GatedCRFLoss(2, unlabeled_only=True)
SOFT = SelfLabeling(GradientDescent.default_energy, GradientDescent(), max_steps=20, weight=0.7)
CASES: dict[str, tuple[Objective, TrainingSettings]] = {
    "weighted seeds": (SeedsOnly((1.0, 3.0, 0.5)), SETTINGS),
    "masks": (FullMasks(), SETTINGS),
    "direct": (
        Regularized((WeightedLoss("potts", 0.4, PottsLoss()), WeightedLoss("gated", 0.3, GATED))),
        SETTINGS,
    ),
    "online": (SOFT, replace(SETTINGS, network_steps=2)),
    "warm start": (SOFT, replace(SETTINGS, warm_start=True)),
    "by epoch": (
        SelfLabeling(GraphCut.default_energy, GraphCut(), weight=0.1),
        replace(SETTINGS, relabel_every=2),
    ),
}


@dataclass(frozen=True)
class Uneven:
    """Batches in double precision, five images a step: one process has two of them, the other three."""

    whole: Batches
    classes: int = CLASSES
    fixed: bool = True

    def training(self, step: int, process: Process) -> Batch:
        """As `whole`, in double precision."""
        return doubled(self.whole.training(step, process))

    def images(self, process: Process) -> Iterator[Batch]:
        """As `whole`, in double precision."""
        return map(doubled, self.whole.images(process))

    def validation(self, process: Process) -> Iterator[Batch]:
        """As `whole`, in double precision."""
        return map(doubled, self.whole.validation(process))


def doubled(batch: Batch) -> Batch:
    return replace(batch, images=batch.images.double())


def train_all(folder: Path) -> None:
    for name, (objective, settings) in CASES.items():
        data = Uneven(Batches(samples(7), CLASSES, 5, seed=5, held_out=samples(3), held_out_batch=1))
        history = train(network(double=True), objective, data, settings, folder / name)
        assert len(history.rows) == settings.steps


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    init = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=PROCESSES)
    try:
        assert current_process() == Process(rank, PROCESSES)
        train_all(folder / "together")
        distributed.barrier()  # wait for the other process
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    spawn(work, (folder,), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    train_all(folder / "alone")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_as_one(runs: Path, name: str) -> None:
    alone, together = (read_history(runs / kind / name / "history.jsonl") for kind in ("alone", "together"))
    assert len(alone) == len(together) == 4
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        for column, value in one.items():
            if "seconds" not in column:
                expected = None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)
                assert other[column] == expected, column
    a, b = (load_checkpoint(runs / kind / name / "last.pt") for kind in ("alone", "together"))
    for key, weights in a.network.items():
        torch.testing.assert_close(b.network[key], weights, rtol=1e-9, atol=1e-11)
    start = network(double=True).state_dict()
    assert all(not torch.equal(start[key], weights) for key, weights in a.network.items())


def test_without_torchrun_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group() as (process, device):
        assert process == current_process() == Process(0, 1)
        assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not distributed.is_initialized()


@pytest.mark.parametrize("cuda", [False, True])
def test_torchrun_variables_make_a_group(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    """The variables of `torchrun` reach the process group, which is destroyed at the end."""
    seen: list[str] = []

    def init(backend: str, **options: object) -> None:
        seen.append(backend)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(distributed, "init_process_group", init)
    monkeypatch.setattr(distributed, "barrier", lambda: seen.append("met"))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: seen.append("left"))
    with process_group(on_cpu=cuda) as (_, device):
        assert device == torch.device("cpu")
        assert seen == ["gloo"]
    assert seen == ["gloo", "met", "left"]
