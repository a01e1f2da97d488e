"""Options of `selflabel label`: names become objects, and wrong ones are explained before the run."""

from pathlib import Path

import pytest
from support.folders import make_folders
from typer.testing import CliRunner, Result

from selflabel.affinity.builders import Contrast, Dense, Grid, Window
from selflabel.cli import app
from selflabel.cli.config import registry
from selflabel.cli.config.losses import LOSSES
from selflabel.cli.config.options import LabelerOptions
from selflabel.labeling.settings import describe
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.multigrid import Multigrid
from selflabel.solvers import FrankWolfe, RandomWalker
from selflabel.solvers.frank_wolfe import Entropic, Euclidean


def label(folders: tuple[Path, ...], out: Path, *more: str) -> Result:
    arguments = ["label", str(folders[0]), "--seeds", str(folders[1]), "--out", str(out), "--workers", "1"]
    return CliRunner().invoke(app, [*arguments, *more])


def test_options_of_annotators_and_of_their_parts() -> None:
    options = (
        "annotator.forest.trees=7",
        "annotator.walker-floor=0.25",
        "moves=swap",
        "affinity.by-distance=true",
    )
    labeler = registry.labeler(LabelerOptions(set=options, annotator="product"))
    described = describe(labeler)
    assert isinstance(described, dict)
    assert described["annotator"]["forest"]["trees"] == 7
    assert described["annotator"]["walker_floor"] == 0.25
    assert described["affinity"]["by_distance"] is True
    assert described["solver"]["moves"] == "SWAP"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--solver", "graphcut"], "no solver 'graphcut' (did you mean graph-cut?)"),
        (["--annotator", "oracle"], "no annotator 'oracle'"),
        (["--coupling", "collison"], "did you mean collision?"),
        (["--relaxation", "x"], "no relaxation 'x'"),
        (["--affinity", "x"], "no affinity 'x': there are grid, contrast, window, dense"),
        (["--affinity", "grid", "--radius", "3"], "the grid affinity has no --radius"),
        (["--set", "moves"], "expected --set key=value"),
        (["--entropy-weight", "0.5"], "graph-cut: expected entropy_weight 0"),
        (["--set", "speed=3"], "graph-cut has no option 'speed': it has moves"),
        (["--set", "moves=swop"], "expected moves as expansion or swap, got 'swop'"),
        (["--set", "explore=yes"], "expected explore as true or false, got 'yes'"),
        (["--set", "annotator.trees=x"], "has no option 'trees'"),
        (["--annotator", "forest", "--set", "annotator.trees=x"], "expected trees as int, got 'x'"),
        (["--annotator", "none", "--set", "annotator.trees=3"], "there is no annotator to set trees=3 of"),
        (["--affinity", "dense", "--set", "affinity.radius=2"], "dense has no option 'radius'"),
        (["--soft", "float64"], "no soft format 'float64'"),
        (["--probs-layout", "whk"], "no layout 'whk'"),
        (["--part-id", "2", "--num-parts", "2"], "parts count from 0 to 1"),
        (["--probs", "nowhere"], "nowhere: no such file or folder"),
        (["--probs", "nowhere", "--annotator", "oracle"], "no annotator 'oracle'"),
        (["--probs", "nowhere", "--set", "annotator.trees=3"], "there is no annotator to set trees=3 of"),
        (["--stems", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--pairwise-weight", "-1"], "Invalid value for '--pairwise-weight'"),
        (["--pairwise-weight", "inf"], "expected a finite pairwise_weight >= 0, got inf"),
        (["--entropy-weight", "inf"], "expected a finite entropy_weight >= 0, got inf"),
        (["--entropy-weight", "nan"], "Invalid value for '--entropy-weight'"),
        (["--set", "moves.x=1"], "moves of graph-cut has no options of its own"),
        (
            ["--solver", "random-walker", "--set", "method=lu"],
            "no linear solver 'lu': there are direct, conj",
        ),
        (["--solver", "random-walker", "--set", "method.rtol=1e-6"], "no options of its own"),
        (["--all-classes"], "--all-classes needs --probs"),
        (["--probs-layout", "hwk"], "--probs-layout needs --probs: without, it changes nothing"),
        (["--probs-key", "scores"], "--probs-key needs --probs"),
        (["--probs-values", "logits"], "--probs-values needs --probs"),
        (["--set", "moves=swap", "--set", "explore=false"], "explore is for expansions"),
        (
            ["--solver", "gradient-descent", "--set", "rate=0.1", "--set", "coarse_steps=3"],
            "coarse_steps 3 would change nothing",
        ),
        (["--unlabeled", "65536"], "Invalid value for '--unlabeled'"),
        (["--sigma", "0"], "expected a finite sigma > 0, got 0"),
        (["--neighbors", "6"], "neighbors for 2 axes, got 6"),
        (["--affinity", "dense"], "graph-cut: expected an affinity that lists its pairs"),
        (["--solver", "random-walker", "--relaxation", "bilinear"], "expected the relaxation 'quadratic'"),
    ],
)
def test_wrong_options_are_explained(tmp_path: Path, options: list[str], message: str) -> None:
    folders = make_folders(tmp_path, 1)
    result = label(folders, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option",
    [
        ("--unlabeled", "0"),
        ("--seeds-offset", "-1"),
        ("--values", "0,255"),
        ("--num-classes", "3"),
        ("--all-classes",),
    ],
)
def test_options_of_seeds_need_seeds(tmp_path: Path, option: tuple[str, ...]) -> None:
    images, _, _ = make_folders(tmp_path, 1)
    arguments = ["label", str(images), "--probs", str(images), "--out", str(tmp_path / "out"), *option]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, f"{option[0]} needs --seeds" in result.output) == (2, True)


def test_an_annotator_needs_seeds(tmp_path: Path) -> None:
    images, _, _ = make_folders(tmp_path, 1)
    given = ("--probs", str(images), "--out", str(tmp_path / "out"), "--annotator", "forest")
    result = CliRunner().invoke(app, ["label", str(images), *given])
    assert (result.exit_code, "--annotator forest needs --seeds, which it learns from" in result.output) == (
        2,
        True,
    )


def test_linear_solvers_have_names() -> None:
    def solver(*options: str) -> object:
        return registry.labeler(LabelerOptions(solver="random-walker", set=options)).solver

    assert solver("method=direct") == RandomWalker(method=Elimination())
    chosen = ("method=conjugate-gradients", "method.rtol=1e-6")
    assert solver(*chosen) == RandomWalker(method=ConjugateGradients(rtol=1e-6))
    assert solver("method=multigrid") == RandomWalker(method=Multigrid())
    assert solver("method=none") == RandomWalker()
    assert registry.spelled(Elimination()) == "direct"


def test_smoothings_have_names() -> None:
    def solver(*options: str) -> object:
        return registry.labeler(LabelerOptions(solver="frank-wolfe", set=options)).solver

    assert solver("smoothing=entropic") == FrankWolfe(Entropic())
    chosen = ("smoothing=euclidean", "smoothing.share=0.5", "decay=0.8", "step=0.5")
    assert solver(*chosen) == FrankWolfe(Euclidean(share=0.5), decay=0.8, step=0.5)
    assert registry.spelled(Entropic()) == "entropic"
    with pytest.raises(ValueError, match="there is no smoothing 'l2': there are euclidean, entropic"):
        solver("smoothing=l2")


def test_weights_of_the_entropy() -> None:
    labeler = registry.labeler(LabelerOptions(solver="mean-field", entropy_weight=0.5))
    assert labeler.energy.entropy_weight == 0.5


@pytest.mark.parametrize("solver", list(registry.SOLVERS))
def test_every_default_labeler_passes_its_check(solver: str) -> None:
    registry.labeler(LabelerOptions(solver=solver)).check()


def test_the_check_leaves_other_errors_to_the_images() -> None:
    registry.labeler(LabelerOptions(affinity="window", radius=2**40)).check()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Grid, {"sigma": -1.0}),
        (Grid, {"neighbors": 5}),
        (Window, {"sigma_xy": 0.0}),
        (Window, {"radius": 0}),
        (Contrast, {"strength": float("nan")}),
        (Contrast, {"blur": -0.5}),
        (Contrast, {"neighbors": 7}),
        (Dense, {"sigma": float("inf")}),
        (Dense, {"smoothness": -1.0}),
        (Dense, {"smoothness_xy": 0.0}),
    ],
)
def test_affinities_that_can_never_work_are_not_made(kind: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"expected .*, got {next(iter(options.values()))}"):
        kind(**options)


def test_listed_options_can_be_set_as_they_are_listed() -> None:
    for table in (registry.SOLVERS, registry.ANNOTATORS, registry.AFFINITIES, LOSSES):
        for kind in table.values():
            for option in registry.settings_of(kind()):
                assert registry.configured(kind(), [option]) == kind(), option


def test_solvers_lists_what_can_be_set() -> None:
    listed = " ".join(CliRunner().invoke(app, ["solvers"]).output.split())
    for option in ("walker.strength=7", "affinity.sigma=9", "mixture.places=true", "windows.share=2"):
        assert f" {option} " in listed
    for no_option in ("walker=walker", " affinity=grid", "windows=Windows", "sizes="):
        assert no_option not in listed
    assert "What `selflabel label` takes by default with each solver" in listed


def test_the_scale_of_kmeans_is_told_and_so_are_all_networks() -> None:
    listed = " ".join(CliRunner().invoke(app, ["solvers"]).output.replace("│", " ").split())
    assert "factor is 1e-4 where none is given" in listed
    told = " ".join(CliRunner().invoke(app, ["train", "--help"]).output.replace("│", " ").split())
    for words in ("of kmeans, which is in squared 0..255 units, 1e-4", "crf:NETWORK: any of these"):
        assert words in told
