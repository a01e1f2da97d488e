"""Weakly supervised heart segmentation: every method, the same network, the same budget (hours on two cores).

    python examples/acdc.py DATA/acdc --out runs/acdc --seeds 3

DATA/acdc: a folder with images/, scribbles/, masks/, train.txt and val.txt. Whole slices, padded to a square and
resized to 128x128. All methods train a small U-Net from the same initial weights on the same batches for the same
number of steps. Those that alternate fit the random walker's labels of the scribbles first (a tenth of the steps), or,
as published, the scribbles alone ("scribbles first", a fifth); so do the losses on the prediction. Prints, and writes
to OUT, a Markdown table of mean Dice (all validation images together) and HD95 (pixels of 128x128) over the three
structures. Interrupted, it goes on where it stopped.
"""

import csv
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from run_options import add_methods, claim, parser_of

from selflabel import Energy
from selflabel.affinity import Contrast, Dense, GaussianKernel, Grid
from selflabel.datasets.samples import Folder, read_split
from selflabel.losses import DenseCRFLoss, GatedCRFLoss, KernelCutLoss, NormalizedCutLoss, PottsLoss
from selflabel.networks import network
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    STANDARD,
)
from selflabel.training import (
    Batches,
    FullMasks,
    Objective,
    Regularized,
    SeedsOnly,
    SelfLabeling,
    TrainingSettings,
    WeightedLoss,
    evaluate,
    load_weights,
    train,
)

CLASSES, SIZE, BATCH = 4, 128, 12
WIDE = Dense(sigma=15.0, sigma_xy=30.0, symmetric=True)
NARROW = Dense(sigma=15.0, sigma_xy=8.0, symmetric=True)

# solves start at good labels, of the seeds or the last solve, which coarse levels would not improve
SOFT = SelfLabeling(
    Energy(COLLISION, COLLISION_DIVERGENCE, 0.1, 6.0), GradientDescent(coarse_levels=0), max_steps=8
)
WALK = SelfLabeling(
    Energy(QUADRATIC, QUADRATIC_POTTS, 1e-3, 1.0), RandomWalker(), Contrast(), 200, weight=1e4, starter=None
)
"""The walker's labels of the seeds: the prediction has next to no weight."""

HARD = SelfLabeling(Energy(STANDARD, BILINEAR, 0.3, 2.0), GraphCut())
TRUST = replace(HARD, error_probability=0.1)

FIELD = SelfLabeling(
    Energy(STANDARD, BILINEAR, 1.0, 5.0, entropy_weight=1.0), MeanField(), NARROW, max_steps=5
)


def regularized(name: str, weight: float, loss: torch.nn.Module) -> Regularized:
    """Seeds and one loss on the prediction."""
    return Regularized((WeightedLoss(name, weight, loss),))


METHODS: Mapping[str, Objective] = {
    # without the weight, the structures (3 % of the pixels) take most of the budget to appear
    "full masks": FullMasks(class_weights=(0.1, 1.0, 1.0, 1.0)),
    "pCE": SeedsOnly(),
    "pCE + grid Potts, GD": regularized(
        "potts", 1.0, PottsLoss(Grid(sigma=30.0, neighbors=8, by_distance=True))
    ),
    "pCE + dense CRF, GD": regularized("dense-crf", 1.0, DenseCRFLoss(WIDE)),
    "pCE + normalized cut": regularized("normalized-cut", 0.03, NormalizedCutLoss(WIDE)),
    "pCE + kernel cut": regularized("kernel-cut", 1.0, KernelCutLoss(WIDE, gamma=0.03)),
    "pCE + gated CRF": regularized("gated-crf", 0.1, GatedCRFLoss(5, (GaussianKernel(1.0, 6.0, 25.5),))),
    "random-walker labels": WALK,
    "hard ADM (graph cut)": HARD,
    "robust trust region": TRUST,
    "mean-field ADM": FIELD,
    "soft ADM": SOFT,
    "hard ADM, scribbles first": HARD,
    "robust trust region, scribbles first": TRUST,
    "mean-field ADM, scribbles first": FIELD,
    "soft ADM, scribbles first": SOFT,
    "soft ADM, scribbles first, from predictions": replace(SOFT, starter=None),
}


@dataclass(frozen=True)
class Score:
    """The scores at the end of a run."""

    method: str
    seed: int
    dice: float
    hd95: float


def folders(root: Path, size: int, masked: bool) -> tuple[Folder, Folder]:
    """Training and validation images."""
    training = Folder(
        root, read_split(root, "train"), CLASSES, size, channels=1, masks="masks" if masked else None
    )
    return training, Folder(root, read_split(root, "val"), CLASSES, size, channels=1, masks="masks")


def run(method: str, seed: int, root: Path, out: Path, steps: int, size: int) -> Score:
    """Train, unless it is done, and score the weights after the last step."""
    objective = METHODS[method]
    training, held_out = folders(root, size, masked=isinstance(objective, FullMasks))
    batches = Batches(training, CLASSES, BATCH, seed=seed, held_out=held_out, held_out_batch=24)
    scribbles_first = not isinstance(objective, SelfLabeling) or "scribbles first" in method
    pretrain_steps = steps // 5 if scribbles_first else steps // 10
    settings = TrainingSettings(
        steps=steps,
        pretrain_steps=0 if isinstance(objective, FullMasks) or objective is WALK else pretrain_steps,
        warmup_steps=0 if objective is WALK else steps // 10,
        learning_rate=3e-3,
        # solves go on from the last labels of an image; labels of the seeds alone are made only once
        warm_start=isinstance(objective, SelfLabeling) and objective.starter is not None,
        relabel_every=steps if objective is WALK else None,
        validate_every=steps // 5,
        measure_every=0,
        first_scored=1,
        seed=seed,
    )
    torch.manual_seed(seed)
    net = network("unet:8", channels=1, classes=CLASSES, size=size)
    folder = out / method.replace(" ", "-") / str(seed)
    train(
        net,
        objective,
        batches,
        settings,
        folder,
        pretraining=SeedsOnly() if scribbles_first else WALK,
        resume=True,
    )
    load_weights(folder / "last.pt", net)
    scores = evaluate(net, batches.validation(), CLASSES, first=1, distances=True)
    assert scores is not None
    assert scores.mean_hd95 is not None
    return Score(method, seed, scores.mean_dice, scores.mean_hd95)


def table(scores: list[Score]) -> str:
    """Mean over the seeds and spread, one line a method."""
    lines = ["| method | Dice | HD95 | runs |", "| --- | --- | --- | --- |"]
    for method in METHODS:
        mine = [score for score in scores if score.method == method]
        if mine:
            dice, hd95 = [s.dice for s in mine], [s.hd95 for s in mine]
            spread = f" ± {statistics.stdev(dice):.3f}" if len(mine) > 1 else ""
            lines.append(
                f"| {method} | {statistics.mean(dice):.3f}{spread} | {statistics.mean(hd95):.1f} | {len(mine)} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, steps=500, size=SIZE)
    add_methods(parser, METHODS, seeds=3)
    options = parser.parse_args()
    claim(parser, options, "methods", "seeds")
    torch.set_num_threads(1)
    scores: list[Score] = []
    for seed in range(1, options.seeds + 1):
        for method in options.methods:
            scores.append(run(method, seed, options.data, options.out, options.steps, options.size))
            print(scores[-1], flush=True)
            with (options.out / "scores.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["method", "seed", "dice", "hd95"])
                writer.writerows((s.method, s.seed, f"{s.dice:.4f}", f"{s.hd95:.2f}") for s in scores)
            (options.out / "table.md").write_text(table(scores), encoding="utf-8")
    print(table(scores))


if __name__ == "__main__":
    main()
