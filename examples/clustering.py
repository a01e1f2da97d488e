"""Networks trained to cluster, and to cut where that helps (Tang et al., CVPR 2018, Sec. 5.1, in small: ten minutes).

    pip install '.[pretrained]'
    python examples/clustering.py DATA/camvid --out runs/clustering

Two classes, the ground and all else, which are of like size as normalized cut prefers them. A pretrained network fits
the scribbles; from there one network is trained with the K-means loss of the colors alone and one with the normalized
cut alone, without any supervision. The first table compares the losses before and after with those of the algorithms:
scikit-learn's K-means of each image, and kernel cut (bound optimization) of the normalized cut from the scribbles.
In the second, scribbles and normalized cut are lowered together, for several weights: the mean IoU of both classes, on
training images kept aside (to choose the weight) and on the validation images. Writes both to OUT/clustering.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from camvid import regularized
from camvid_runs import network_parser, plain, split, trimmed
from run_options import claim
from short_runs import ShortRuns
from sklearn.cluster import KMeans

from selflabel import Energy, Problem, solve
from selflabel.affinity import Dense, Grid
from selflabel.datasets.samples import Sample
from selflabel.labels import UNLABELED, one_hot
from selflabel.losses import KMeansLoss, NormalizedCutLoss
from selflabel.losses.modules import Loss
from selflabel.solvers import KernelCut
from selflabel.terms import BILINEAR, STANDARD, NormalizedCut
from selflabel.training import Regularized, SeedsOnly, WeightedLoss

SIZE, BATCH = 160, 4
GROUND = [3, 4]
"""Road and pavement."""

DENSE = Dense(sigma=15.0, sigma_xy=20.0)
"""The paper's 40 pixels are of images twice as large."""

CERTAIN = 100.0
"""A logit whose softmax is 1."""


@dataclass(frozen=True)
class Clustering:
    """A loss without supervision, and its weight in training."""

    loss: Loss
    weight: float


CLUSTERINGS: Mapping[str, Clustering] = {
    "K-means": Clustering(KMeansLoss(), 1e-3),
    "normalized cut": Clustering(NormalizedCutLoss(DENSE), 3.0),
}


def two_classes(index: torch.Tensor, ground: list[int]) -> torch.Tensor:
    """1 for the ground, 0 for all else, 255 where nothing is known."""
    inside = torch.isin(index, torch.tensor(ground)).long()
    return torch.where(index == UNLABELED, UNLABELED, inside)


def samples_of(root: Path, stems: tuple[str, ...], size: int, ground: list[int]) -> list[Sample]:
    """Images with seeds and masks of two classes."""
    found = []
    for one in trimmed(root, stems, size):
        mask = None if one.mask is None else two_classes(one.mask, ground)
        found.append(replace(one, seeds=two_classes(one.seeds, ground), mask=mask))
    return found


@torch.no_grad()
def mean_loss(net: torch.nn.Module, loss: Loss, samples: list[Sample]) -> float:
    """Of the network's soft labels, image by image, without seeds."""
    net.eval()
    return float(np.mean([loss(net(one.image[None]), one.image[None], no_seeds(one)) for one in samples]))


def no_seeds(sample: Sample) -> torch.Tensor:
    """Of a batch of this sample."""
    return torch.full_like(sample.seeds, UNLABELED)[None]


def labels_of_kmeans(sample: Sample) -> torch.Tensor:
    """Two clusters of the colors of an image."""
    colors = sample.image.flatten(1).T.numpy() * 255
    found = KMeans(2, n_init=10, random_state=0).fit_predict(colors)
    return torch.from_numpy(found).long().view(1, *sample.seeds.shape)


def labels_of_kernel_cut(sample: Sample) -> torch.Tensor:
    """The labels of least normalized cut that bounds and moves find from the scribbles, which are kept."""
    images, seeds = sample.image[None], sample.seeds[None]
    uniform = torch.full((1, 2, *sample.seeds.shape), 0.5)
    cut = NormalizedCut(1.0, per_pixel=True)
    energy = Energy(STANDARD, BILINEAR, coupling_weight=0.0, pairwise_weight=0.0, regularizers=(cut,))
    problem = Problem(energy, uniform, seeds, Grid()(images), affinities=(DENSE(images),))
    return solve(problem, KernelCut(), max_steps=30).labels.argmax(1)


ALGORITHMS = {"K-means": labels_of_kmeans, "normalized cut": labels_of_kernel_cut}


def clusterings(runs: ShortRuns, samples: list[Sample], held_out: list[Sample]) -> list[str]:
    """A line for each loss: of the network before, after, and of the algorithm; images of training, then held out."""
    without = [replace(one, seeds=no_seeds(one)[0]) for one in samples]
    lines = [
        "| trained with | training images: before | after | algorithm | held out: before | after | algorithm |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    parts = (samples[:: max(1, len(samples) // len(held_out))], held_out)
    for name, clustering in CLUSTERINGS.items():
        before = [mean_loss(runs.loaded("scribbles"), clustering.loss, part) for part in parts]
        objective = Regularized((WeightedLoss(name, clustering.weight, clustering.loss),))
        net = runs.trained(plain(name), objective, without, "scribbles")
        figures = []
        for earlier, part in zip(before, parts, strict=True):
            best = []
            for one in part:
                logits = CERTAIN * one_hot(ALGORITHMS[name](one), 2, torch.float32)
                best.append(float(clustering.loss(logits, one.image[None], no_seeds(one))))
            figures += [earlier, mean_loss(net, clustering.loss, part), float(np.mean(best))]
        lines.append(f"| {name} | " + " | ".join(f"{figure:.4g}" for figure in figures) + " |")
    return lines


def regularizers(
    runs: ShortRuns, weights: list[float], samples: list[Sample], parts: tuple[list[Sample], list[Sample]]
) -> list[str]:
    """A line for each weight of the normalized cut beside the scribbles."""
    lines = ["| weight of the normalized cut | mean IoU aside | on val |", "| --- | --- | --- |"]
    for weight in (0.0, *weights):
        objective = regularized(weight, NormalizedCutLoss(DENSE)).objective if weight else SeedsOnly()
        net = runs.trained(f"weight-{weight:g}", objective, samples, "scribbles")
        scores = " | ".join(f"{runs.mean_iou(net, part):.3f}" for part in parts)
        lines.append(f"| {weight:g} | {scores} |")
    return lines


def main() -> None:
    parser = network_parser(__doc__, steps=200, size=SIZE)
    parser.add_argument(
        "--aside", type=int, default=12, help="images of each drive to choose the weight with"
    )
    parser.add_argument("--ground", type=int, nargs="+", default=GROUND, help="classes of the one side")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    options = parser.parse_args()
    claim(parser, options, "weights")
    torch.set_num_threads(1)
    runs = ShortRuns.of(options, 2, BATCH)
    training, aside = split(options.data, options.aside)
    _, val = split(options.data, 0)
    samples, kept, held_out = (
        samples_of(options.data, stems, options.size, options.ground) for stems in (training, aside, val)
    )
    runs.trained("scribbles", SeedsOnly(), samples)
    lines = regularizers(runs, options.weights, samples, (kept, held_out))
    lines = [*clusterings(runs, samples, held_out[::4]), "", *lines]
    (options.out / "clustering.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
