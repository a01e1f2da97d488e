"""`selflabel annotate`: nine folders of labels, each that of `selflabel label` with the papers' options."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.filters import draw_filters
from support.folders import contents, make_folders
from support.runs import call
from typer.testing import Result

from selflabel.cli.annotate import MODELS, REGULARIZERS, AnnotateOptions, preset
from selflabel.cli.config import registry
from selflabel.compat.pydensecrf import densecrf
from selflabel.driver import Result as SolveResult
from selflabel.files.label_files import read_index
from selflabel.labeling.one import label
from selflabel.labels import UNLABELED
from selflabel.networks.efficientnet import Variant

FOREST = ("--set", "annotator.trees=5", "--set", "annotator.blocks=1", "--set", "annotator.best=20")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    draw_filters(monkeypatch)
    images, seeds, _ = make_folders(tmp_path, 1)
    probs = tmp_path / "probs"
    probs.mkdir()
    drawn = np.random.default_rng(6_899).dirichlet(np.ones(3), (12, 16)).astype(np.float32)
    np.save(probs / "a0.npy", np.moveaxis(drawn, -1, 0))
    return {"images": images, "seeds": seeds, "probs": probs}


def annotate(folders: dict[str, Path], out: Path, model: str, *more: str) -> Result:
    files = [word for name in MODELS[model].needs for word in (f"--{name}", str(folders[name]))]
    own = FOREST if MODELS[model].annotator else ()
    arguments = ("--workers", "1", "--model", model, "--out", out)
    return call("annotate", folders["images"], *files, *arguments, *own, *more)


def test_models_without_a_regularizer(folders: dict[str, Path], tmp_path: Path) -> None:
    """Raw labels: the most probable class of the prediction; the combined model's of the mean; seeds keep theirs."""
    soft = {}
    for model in MODELS:
        out = tmp_path / model
        result = annotate(folders, out, model, "--regularizer", "none", "--soft", "float16")
        assert result.exit_code == 0, result.output
        with np.load(out / "soft" / "a0.npz") as file:
            name = next(key for key in file.files if key != "classes")
            soft[model] = file[name].astype(np.float64)
    seeds = read_index(folders["seeds"] / "a0.png")
    free = seeds == 255
    mean = (soft["local"][:2] + soft["global"][[0, 2]] / soft["global"][[0, 2]].sum(0)) / 2
    np.testing.assert_allclose(soft["combined"][:, free], mean[:, free], atol=2e-3)
    index = read_index(tmp_path / "combined" / "labels" / "a0.png")
    sure = free & (abs(mean[0] - mean[1]) > 0.01)
    np.testing.assert_array_equal(index[sure], np.where(mean[0] > mean[1], 0, 2)[sure])
    np.testing.assert_array_equal(index[~free], seeds[~free])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("regularizer", ["total-variation", "dense-crf"])
def test_regularized_labels_are_those_of_label(
    folders: dict[str, Path], tmp_path: Path, model: str, regularizer: str
) -> None:
    result = annotate(folders, tmp_path / "one", model, "--regularizer", regularizer)
    assert result.exit_code == 0, result.output
    files = [word for name in MODELS[model].needs for word in (f"--{name}", str(folders[name]))]
    annotator = ("--annotator", "filter-forest", *FOREST) if MODELS[model].annotator else ()
    weight = {"local": "20", "global": "100", "combined": "20"}[model]
    options = {
        "total-variation": (
            *("--solver", "total-variation", "--affinity", "edge-stop", "--pairwise-weight", weight),
            *("--relaxation", "isotropic-total-variation", "--coupling-weight", "1", "--max-steps", "200"),
        ),
        "dense-crf": (
            *("--solver", "mean-field", "--affinity", "dense", "--sigma", "5", "--sigma-xy", "30"),
            *("--set", "affinity.smoothness=1.6666666666666667", "--set", "affinity.smoothness-xy=2"),
            *("--set", "affinity.symmetric=true", "--pairwise-weight", "1.5"),
        ),
    }[regularizer]
    common = ("--workers", "1", "--out", tmp_path / "other")
    again = call("label", folders["images"], *files, *annotator, *options, *common)
    assert again.exit_code == 0, again.output
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_total_variation_is_solved_to_its_tolerance() -> None:
    """The weight of a network's predictions needs more sweeps than those of labeling."""
    here = Path()
    options = AnnotateOptions(
        images=here, out=here, seeds=here, probs=here, model="global", regularizer="total-variation"
    )
    labeler = registry.labeler(preset(options), predicted=True)
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(3, 60, 60, generator=generator)
    probs = torch.rand(4, 60, 60, generator=generator).softmax(0)
    seeds = torch.full((60, 60), UNLABELED)
    found = labeler.label(image, seeds, 4, probs)
    assert found.results == (SolveResult.CONVERGED,)
    assert int(found.steps) > 20


def test_the_dense_crf_is_that_of_pydensecrf(folders: dict[str, Path]) -> None:
    """Weights 3 and 5 as Mayer et al. give them to that package."""
    asked = AnnotateOptions(images=folders["images"], out=Path("out"), probs=folders["probs"], model="global")
    random = np.random.default_rng(9_043)
    image = np.full((24, 20, 3), 90) + random.normal(0, 3, (24, 20, 3))
    image[6:15, 4:13] += 60
    image = image.astype(np.uint8)
    probs = random.dirichlet(np.ones(3), (24, 20)).astype(np.float32)
    probs = np.ascontiguousarray(np.moveaxis(probs, -1, 0)).clip(1e-3)
    probs /= probs.sum(0)
    crf = densecrf.DenseCRF2D(20, 24, 3)
    crf.setUnaryEnergy(-np.log(probs).reshape(3, -1))
    crf.addPairwiseGaussian(sxy=2, compat=5)
    crf.addPairwiseBilateral(sxy=30, srgb=5, rgbim=image, compat=3)
    expected = np.asarray(crf.inference(50)).reshape(3, 24, 20)
    labeler = registry.labeler(preset(asked), predicted=True)
    found = label(image, None, labeler, probs=probs).labels
    assert float((found.argmax(0) == expected.argmax(0)).mean()) > 0.97


def test_a_weight_of_ones_own(folders: dict[str, Path]) -> None:
    def weight(regularizer: str, given: float | None) -> float | None:
        asked = AnnotateOptions(
            images=Path("i"),
            out=Path("o"),
            probs=Path("p"),
            model="global",
            regularizer=regularizer,
            pairwise_weight=given,
        )
        return preset(asked).pairwise_weight

    assert weight("total-variation", None) == 100
    assert weight("total-variation", 7.0) == 7
    assert weight("dense-crf", 0.25) == 0.25


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["seeds"], [], "--model combined needs --probs: a network's predictions, from `selflabel predict`"),
        (["probs"], [], "--model combined needs --seeds: the folder of scribbles"),
        (["probs"], ["--model", "local"], "--model local needs --seeds"),
        (["seeds"], ["--model", "global"], "--model global needs --probs"),
        (
            ["probs"],
            ["--model", "global", "--all-classes"],
            "--all-classes needs --seeds: without, it changes",
        ),
        (["probs"], ["--model", "global", "--num-classes", "3"], "--num-classes needs --seeds"),
        (["seeds", "probs"], ["--model", "local"], "--model local does not look at --probs: leave it out"),
        (["seeds", "probs"], ["--model", "regional"], "there is no model 'regional'"),
        (["seeds", "probs"], ["--regularizer", "crf"], "there is no regularizer 'crf'"),
        (
            ["seeds", "probs"],
            ["--regularizer", "none", "--pairwise-weight", "3"],
            "--regularizer none has no --pairwise-weight: leave it out",
        ),
        (
            ["seeds", "probs"],
            ["--regularizer", "none", "--set", "annotator.trees=5", "--set", "rtol=1"],
            "--regularizer none solves nothing: leave out --set rtol=1",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    folders: dict[str, Path], tmp_path: Path, files: list[str], options: list[str], message: str
) -> None:
    given = [word for name in files for word in (f"--{name}", str(folders[name]))]
    result = call("annotate", folders["images"], "--out", tmp_path / "out", *given, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_the_missing_package_is_named_before_images(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Variant, "is_installed", False)
    result = annotate(folders, tmp_path / "out", "local")
    assert result.exit_code == 2
    assert "filter-forest: cannot import" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_every_regularizer_fits_its_solver(folders: dict[str, Path]) -> None:
    for regularizer in REGULARIZERS:
        asked = AnnotateOptions(
            images=Path("i"), out=Path("o"), seeds=Path("s"), probs=Path("p"), regularizer=regularizer
        )
        registry.labeler(preset(asked), predicted=True).check()
