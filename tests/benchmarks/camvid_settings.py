"""Settings of examples/camvid.py, each method's own tried on training images that are kept aside.

    python tests/benchmarks/camvid_settings.py DATA/camvid --out runs/camvid-settings --aside 12 --steps 200 --seeds 1

Options are those of the example. examples/results/README.md has the figures.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from camvid import DENSE, HARD, METHODS, NEAREST, NONLOCAL, SOFT, regularized
from camvid_runs import BALANCED, FULL, Method, parsed, run_all

from selflabel import Energy
from selflabel.affinity import GaussianKernel
from selflabel.losses import (
    DenseCRFLoss,
    GatedCRFLoss,
    KernelCutLoss,
    NormalizedCutLoss,
    PottsLoss,
)
from selflabel.solvers import FrankWolfe
from selflabel.terms import COLLISION, QUADRATIC_POTTS
from selflabel.training import SelfLabeling


def weighted(objective: SelfLabeling, pairwise: float, weight: float) -> SelfLabeling:
    """The objective with other weights."""
    energy = replace(objective.energy, pairwise_weight=pairwise)
    return replace(objective, energy=energy, weight=weight)


SOFT_DENSE = replace(SOFT, energy=Energy(COLLISION, QUADRATIC_POTTS, 0.3, 6.0), affinity=DENSE)
HARD_DENSE = replace(HARD, solver=FrankWolfe(), affinity=DENSE, max_steps=10)

GATE = (GaussianKernel(1.0, 6.0, 25.5),)

VARIANTS: Mapping[str, Method] = {
    FULL: METHODS[FULL],
    BALANCED: METHODS[BALANCED],
    "pCE": METHODS["pCE"],
    "soft, 6": Method(weighted(SOFT, 6.0, 10.0)),
    "soft, 6, weight 3": Method(weighted(SOFT, 6.0, 3.0)),
    "soft, 20, weight 3": Method(weighted(SOFT, 20.0, 3.0)),
    "soft, 6, weight 3, sigma 20": Method(
        replace(weighted(SOFT, 6.0, 3.0), affinity=replace(NEAREST, sigma=20.0))
    ),
    "soft, 20, weight 3, sigma 20": Method(
        replace(weighted(SOFT, 20.0, 3.0), affinity=replace(NEAREST, sigma=20.0))
    ),
    "soft, 6, weight 1": Method(weighted(SOFT, 6.0, 1.0)),
    "soft, 2, weight 1": Method(weighted(SOFT, 2.0, 1.0)),
    "soft, 2, weight 1, from predictions": Method(replace(weighted(SOFT, 2.0, 1.0), starter=None)),
    "soft, 6, weight 1, from predictions": Method(replace(weighted(SOFT, 6.0, 1.0), starter=None)),
    "hard, 2, weight 3": Method(weighted(HARD, 2.0, 3.0)),
    "hard, 2, weight 1": Method(weighted(HARD, 2.0, 1.0)),
    "hard, 2, weight 1, from predictions": Method(replace(weighted(HARD, 2.0, 1.0), starter=None)),
    "hard, 0.5, weight 1": Method(weighted(HARD, 0.5, 1.0)),
    "soft dense, 6, weight 3": Method(weighted(SOFT_DENSE, 6.0, 3.0)),
    "soft dense, 6, weight 1": Method(weighted(SOFT_DENSE, 6.0, 1.0)),
    "soft dense, 1, weight 1": Method(weighted(SOFT_DENSE, 1.0, 1.0)),
    "hard dense, 2, weight 1": Method(weighted(HARD_DENSE, 2.0, 1.0)),
    "hard dense, 0.5, weight 1": Method(weighted(HARD_DENSE, 0.5, 1.0)),
    "descent nearest, 1": regularized(1.0, PottsLoss(NEAREST)),
    "descent nearest, 0.1": regularized(0.1, PottsLoss(NEAREST)),
    "descent dense, 1": regularized(1.0, DenseCRFLoss(DENSE)),
    "descent dense, 0.2": regularized(0.2, DenseCRFLoss(DENSE)),
    "descent non-local, 1": regularized(1.0, PottsLoss(NONLOCAL)),
    "descent non-local, 3": regularized(3.0, PottsLoss(NONLOCAL)),
    "hard non-local, 2, weight 3": Method(replace(HARD, affinity=NONLOCAL)),
    "normalized cut, 0.03": regularized(0.03, NormalizedCutLoss(DENSE)),
    "normalized cut, 0.3": regularized(0.3, NormalizedCutLoss(DENSE)),
    "kernel cut, 0.2": regularized(0.2, KernelCutLoss(DENSE, gamma=0.03)),
    "gated CRF, 0.1": regularized(0.1, GatedCRFLoss(5, GATE)),
    "gated CRF, 0.5": regularized(0.5, GatedCRFLoss(5, GATE)),
    "trust region, 2, weight 1": Method(replace(weighted(HARD, 2.0, 1.0), error_probability=0.1)),
}

if __name__ == "__main__":
    run_all(parsed(__doc__, VARIANTS), VARIANTS)
