"""Stored labels: fitted for an epoch, starts of the next solve, in memory and on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cases import alternator, batch, network, sample

from selflabel.datasets.samples import collate
from selflabel.energy import Energy
from selflabel.labels import one_hot
from selflabel.solvers import GraphCut
from selflabel.terms import (
    BILINEAR,
    STANDARD,
)
from selflabel.training import DiskStore, LabelStore, MemoryStore, SelfLabeling


@pytest.fixture(params=["memory", "disk"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], LabelStore]:
    return MemoryStore if request.param == "memory" else lambda: DiskStore(tmp_path / "labels")


def test_an_epoch_on_stored_labels(make_store: Callable[[], LabelStore]) -> None:
    net, data, store = network(norm=True), batch(3), make_store()
    made = alternator(net, store)
    with pytest.raises(ValueError, match="got none of im0, im1, im2: relabel first"):
        made.fit(data)
    made.relabel([batch(3)])
    assert net.training
    net.eval()
    labels = made.objective.label(net(data.images).detach(), data, None).labels
    net.train()
    for _ in range(2):
        report = made.fit(data, measure=True)
        assert report.pseudo_labels is not None
        assert float((report.pseudo_labels.labels - labels).abs().max()) < 1e-3
        assert report.gain == 0
        assert report.measured is not None
        assert report.measured["joint"] == pytest.approx(report.loss, rel=1e-3)


def test_hard_labels_are_kept_exactly(make_store: Callable[[], LabelStore]) -> None:
    net, store, data = network(), make_store(), batch(2)
    objective = SelfLabeling(Energy(STANDARD, BILINEAR, 1.0, 2.0), GraphCut())
    made = replace(alternator(net, store), objective=objective)
    made.relabel([data])
    fresh = made.objective.label(net(data.images).detach(), data, None)
    report = made.fit(data)
    assert report.pseudo_labels is not None
    assert torch.equal(report.pseudo_labels.labels, fresh.labels)
    stored = store.get("im0")
    assert stored is not None
    assert stored.labels.dtype == torch.uint8


def test_a_warm_start_starts_from_the_last_labels(make_store: Callable[[], LabelStore]) -> None:
    net, store, data = network(), make_store(), batch(2)
    made = alternator(net, store)
    first = made.step(data)
    assert first.pseudo_labels is not None
    stored = store.get("im1")
    assert stored is not None
    soft = stored.labels.float() / stored.labels.float().sum(0)
    assert float((soft - first.pseudo_labels.labels[1]).abs().max()) < 1e-3
    warm, cold = (
        made.objective.label(net(data.images).detach(), data, start)
        for start in (first.pseudo_labels.labels, None)
    )
    second = made.step(data)
    assert second.gain == pytest.approx(float(warm.gain.sum()) / 512, rel=0.05)
    assert second.gain < 0.75 * float(cold.gain.sum()) / 512


def test_images_without_stored_labels_start_as_if_alone() -> None:
    """They start at the starter's labels, even if other images of the batch have stored ones."""
    net, store, data = network(), MemoryStore(), batch(2)
    made = alternator(net, store)
    seen = replace(data, stems=data.stems[:1], images=data.images[:1], seeds=data.seeds[:1], masks=None)
    made.step(seen)
    logits = net(data.images).detach()
    expected = made.objective.label(logits, data, None).labels[1]
    report = made.step(data)
    assert report.pseudo_labels is not None
    torch.testing.assert_close(report.pseudo_labels.labels[1], expected)
    from_prediction = replace(made.objective, starter=None).label(logits, data, None).labels[1]
    assert not torch.allclose(expected, from_prediction, atol=1e-3)


def test_labels_made_from_a_start_are_stored() -> None:
    store, data = MemoryStore(), batch(2)
    made = alternator(network(), store)
    start = one_hot(torch.ones(2, 16, 16, dtype=torch.int64), 3)
    report = made.step(data, start=start)
    assert set(store.kept) == set(data.stems)
    expected = made.objective.label(network()(data.images).detach(), data, start)
    assert report.pseudo_labels is not None
    torch.testing.assert_close(report.pseudo_labels.labels, expected.labels)


def test_labels_of_another_size_are_an_error() -> None:
    net, store = network(), MemoryStore()
    made = alternator(net, store)
    made.step(collate([sample(0)]))
    with pytest.raises(ValueError, match=r"stored labels of im0 of \(20, 20\) pixels, got \(16, 16\)"):
        made.step(collate([sample(0, size=20)]))


def test_a_disk_store_returns_to_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    store = DiskStore(folder)
    made = alternator(network(), store)
    made.step(collate([sample(0), replace(sample(1), stem="a/b.c")]))
    state, old = store.state(), store.get("a/b.c")
    store.saved()
    made.step(collate([replace(sample(1), stem="a/b.c")]))
    assert len(list(folder.iterdir())) == 3  # both versions
    again = DiskStore(folder)
    again.load(state)
    returned = again.get("a/b.c")
    assert returned is not None
    assert old is not None
    assert torch.equal(returned.labels, old.labels)
    again.saved()
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(ValueError, match="which the checkpoint names"):
        again.load({"im0": 9})


def test_without_a_store_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match=r"store=MemoryStore\(\)"):
        alternator(network()).fit(batch(1))
