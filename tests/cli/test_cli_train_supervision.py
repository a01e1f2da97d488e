"""Runs on images with scribbles, with masks and without seeds, mixed in batches."""

from pathlib import Path

import pytest
import torch
from support.runs import call, make_data, train, weights

from selflabel.cli.config import recipes
from selflabel.cli.config.options import TrainingOptions
from selflabel.training import SeedsOnly, load_checkpoint
from selflabel.training import train as train_network


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """t1 has a mask and no scribbles, t2 and t3 have neither."""
    root = make_data(tmp_path / "data")
    for stem in ("t1", "t2", "t3"):
        (root / "scribbles" / f"{stem}.png").unlink()
    for stem in ("t0", "t2", "t3"):
        (root / "masks" / f"{stem}.png").unlink()
    (root / "full.txt").write_text("t1\n")
    (root / "none.txt").write_text("t2\nt3\n")
    return root


MIXED = ("--full-stems", "full.txt", "--unlabeled-stems", "none.txt")


@pytest.mark.parametrize(
    "method",
    [
        ("pce",),
        ("gd", "--loss", "potts"),
        ("gd", "--loss", "gated-crf"),
        ("adm",),
        ("adm", "--present-only", "--relabel-every", "2", "--no-augment"),
        ("adm", "--solver", "graph-cut"),
        ("trust-region",),
    ],
    ids=" ".join,
)
def test_methods_train_on_mixed_batches(root: Path, tmp_path: Path, method: tuple[str, ...]) -> None:
    out = tmp_path / "run"
    result = train(root, out, "--method", *method, *MIXED)
    assert result.exit_code == 0, result.output
    assert "1 with full masks, 2 without seeds" in " ".join(result.output.split())
    assert all(bool(weight.isfinite().all()) for weight in weights(out / "last.pt"))


def test_unlabeled_images_teach_by_self_labeling_alone(root: Path, tmp_path: Path) -> None:
    """Their pixels change the network where labels are solved for; not where seeds alone count."""

    def run(name: str, method: str) -> list[torch.Tensor]:
        options = (
            "--method",
            method,
            *MIXED,
            "--pretrain-steps",
            0,
            "--warmup-steps",
            0,
            "--network",
            "unet:4",
        )
        result = train(root, tmp_path / name, *options, "--size", 16, "--no-augment", "--batch", 1)
        assert result.exit_code == 0, result.output
        found = load_checkpoint(tmp_path / name / "last.pt").network
        return [value for key, value in found.items() if "running" not in key]  # statistics are of all images

    first = {method: run(method, method) for method in ("pce", "adm")}
    for stem in ("t2", "t3"):
        (root / "images" / f"{stem}.png").write_bytes((root / "images" / "v0.png").read_bytes())
    for method, before in first.items():
        after = run(f"{method}-other", method)
        moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert moved is (method == "adm")


def test_masks_of_all_images_are_full_supervision(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    (root / "all.txt").write_text((root / "train.txt").read_text())
    seeds = train(root, tmp_path / "seeds", "--method", "pce", "--full-stems", "all.txt")
    masks = train(root, tmp_path / "masks", "--method", "full")
    assert (seeds.exit_code, masks.exit_code) == (0, 0), seeds.output + masks.output
    for one, other in zip(
        weights(tmp_path / "seeds" / "last.pt"), weights(tmp_path / "masks" / "last.pt"), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", ["pce", "gd", "adm"])
def test_images_count_alike_beside_full_masks(method: str) -> None:
    """Seeds of the objective, of the steps before and of the objective that is monitored."""
    for stems, by_image in ((None, False), ("full.txt", True)):
        options = TrainingOptions(method=method, full_stems=stems)
        objective, monitor = recipes.objective(options), recipes.monitor(options)
        term = objective if isinstance(objective, SeedsOnly) else objective.seeds  # type: ignore[attr-defined]
        assert term == recipes.seeds(options) == SeedsOnly(by_image=by_image)
        assert monitor is None or monitor.objective.seeds == term


def test_the_first_steps_count_images_alike_beside_full_masks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def watched(*given: object, **named: object) -> object:
        asked.append(named["pretraining"])
        return train_network(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("selflabel.cli.running.train", watched)
    for name, options in (("mixed", MIXED), ("plain", ())):
        if name == "plain":  # every image needs scribbles
            (root / "train.txt").write_text("t0\n")
        assert train(root, tmp_path / name, "--method", "pce", *options).exit_code == 0
    assert asked == [SeedsOnly(by_image=True), SeedsOnly()]


def test_curated_scribbles_are_a_run_of_their_own(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    assert train(root, tmp_path / "run", "--method", "pce", "--curated").exit_code == 0
    options = load_checkpoint(tmp_path / "run" / "last.pt").about["options"]
    assert options["curated"] is True
    result = train(root, tmp_path / "run", "--method", "pce")
    assert result.exit_code == 2
    assert "curated" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--full-stems", "no.txt"), "no.txt: no such file"),
        (("--full-stems", "val.txt"), "val.txt, line 1: there is no training image"),
        (("--full-stems", "full.txt", "--unlabeled-stems", "full.txt"), "got both for t1"),
        (("--unlabeled-stems", "none.txt"), "no scribbles of t1"),
        (("--method", "full", "--curated"), "the method full has no --curated: leave it out"),
        (("--masks", "nowhere", "--curated"), "--curated needs masks, and there is no"),
        (("--masks", "nowhere", *MIXED), "--full-stems needs masks, and there is no"),
    ],
)
def test_what_does_not_fit_is_said(
    root: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = train(root, tmp_path / "run", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_runs_of_one_comparison(tmp_path: Path) -> None:
    """Options of seeds are for those methods that look at seeds."""
    pytest.importorskip("matplotlib")
    root = make_data(tmp_path / "data")
    shared = ("steps=3", "size=16", "batch=2", "pretrain-steps=1", "warmup-steps=1", "network=unet:4")
    runs = [word for name in ("pce", "full") for word in ("--runs", name)]
    options = [word for entry in (*shared, "curated=true") for word in ("--set", entry)]
    result = call("compare", root, *runs, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
