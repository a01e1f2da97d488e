"""Is a confidence of 0.9 right nine times in ten? The confidence of every solver against the masks of the packs.

    SELFLABEL_DATA=... python tests/benchmarks/calibration.py --images 20

Labels images of each pack from their scribbles with every solver's preset, all from the same prediction, and prints a
Markdown table. Counted are the pixels without a seed and with a class in the mask. "graph-cut, conditional" has the
same labels, with the distribution of a pixel given its neighbors' labels; the row "graph-cut" is `GraphCut.marginals`.

- ECE: the expected calibration error, ``Σ_bins share · |right - mean confidence|`` of 15 bins of equal width.
- AUROC: how often a right pixel is surer than a wrong one.
- wrong of the surest 80 %: what `--min-confidence` at that share would leave.

Exit code 1 if graph cut's confidence is further from right than the conditional one, in any pack.
"""

import argparse
from dataclasses import dataclass, field

import numpy as np
import torch
from pictures import Picture, spaced
from scipy.stats import rankdata

from selflabel.affinity.image import Image
from selflabel.affinity.protocol import SparseAffinity
from selflabel.driver import solve
from selflabel.labeling.presets import PRESETS
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import GraphCut

BINS = 15
PREDICTION, CONDITIONAL = "prediction", "graph-cut, conditional"


@dataclass
class Row:
    """Confidence of pixels, and which of them are right."""

    confidence: list[np.ndarray] = field(default_factory=list)
    right: list[np.ndarray] = field(default_factory=list)

    def add(self, picture: Picture, marginals: torch.Tensor, index: torch.Tensor) -> None:
        """Count an image: marginals ``[1 k h w]`` and the labels ``[1 h w]`` whose probability is the confidence."""
        counted = (picture.seeds == UNLABELED) & (picture.mask != UNLABELED)
        confidence = marginals.gather(1, index[:, None])[:, 0]
        self.confidence.append(confidence[counted].double().numpy())
        self.right.append((index == picture.mask)[counted].numpy())

    def figures(self) -> tuple[float, float, float, float, float]:
        """Share of right pixels, mean confidence, ECE, AUROC, wrong share of the surest 80 %."""
        confidence, right = np.concatenate(self.confidence), np.concatenate(self.right)
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bins, right, BINS) - np.bincount(bins, confidence, BINS)
        ranks, hits = rankdata(confidence), int(right.sum())
        misses = len(right) - hits
        auroc = (ranks[right].sum() - hits * (hits + 1) / 2) / max(hits * misses, 1)
        surest = np.argsort(confidence, kind="stable")[len(right) // 5 :]
        return (
            float(right.mean()),
            float(confidence.mean()),
            float(np.abs(gaps).sum() / len(right)),
            float(auroc),
            float(1 - right[surest].mean()),
        )


def conditional(problem: Problem, labels: torch.Tensor) -> torch.Tensor:
    """``exp(-(u_k + Σ_j w_ij [y_j ≠ k]) / η)``, normalized; seeds keep theirs."""
    energy, affinity, costs = problem.energy, problem.affinity, problem.vertex_costs
    assert isinstance(affinity, SparseAffinity)
    assert costs is not None
    agreeing = energy.pairwise_weight * affinity.apply(labels)
    return problem.feasible(((agreeing - energy.coupling_weight * costs) / energy.coupling_weight).softmax(1))


def measure(picture: Picture, rows: dict[str, Row]) -> None:
    """Label a picture with every preset."""
    annotator = PRESETS[0].annotator
    assert annotator is not None
    probs = picture.predict(annotator)
    rows.setdefault(PREDICTION, Row()).add(picture, probs, probs.argmax(1))
    for preset in PRESETS:
        problem = Problem(preset.energy, probs, picture.seeds, preset.affinity(Image(picture.image)))
        solution = solve(problem, preset.solver, max_steps=preset.max_steps, marginals=True)
        assert solution.marginals is not None
        index = solution.labels.argmax(1)
        rows.setdefault(preset.solver.name, Row()).add(picture, solution.marginals, index)
        if isinstance(preset.solver, GraphCut):
            given = conditional(problem, solution.labels)
            rows.setdefault(CONDITIONAL, Row()).add(picture, given, index)


def main() -> int:
    """Print the table; 1 if the conditional distribution is the better calibrated one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="of each pack, evenly spaced")
    parser.add_argument("--packs", nargs="+", default=["acdc", "camvid", "bsds"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    print("| pack | confidence of | right | mean confidence | ECE | AUROC | wrong of the surest 80 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for pack in options.packs:
        rows: dict[str, Row] = {}
        for picture in spaced(pack, options.images):
            if picture.classes > 1:
                measure(picture, rows)
        found = {name: row.figures() for name, row in rows.items()}
        for name, (right, mean, error, auroc, left) in found.items():
            print(
                f"| {pack} | {name} | {right:.3f} | {mean:.3f} | {error:.4f} | {auroc:.3f} | {left:.4f} |",
                flush=True,
            )
        failed |= found[GraphCut.name][2] > found[CONDITIONAL][2]
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
