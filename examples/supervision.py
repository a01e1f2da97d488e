"""Masks, scribbles and nothing, mixed (Tang et al., ECCV 2018, Table 5 and Sec. 4.5, in small: an hour on two cores).

    python examples/supervision.py DATA/camvid --out runs/camvid --seeds 1

The data, network and protocol of camvid.py, whose options these are; full masks are taken over from the same OUT.
Does a regularizer help full supervision (it should not), does it help where only every third image has its mask, and
what do scribbles on the others add, if all labeled pixels count alike, and if all images do? Nothing is fitted before;
all take the steps of full masks.
"""

from dataclasses import replace

from camvid import DENSE, METHODS
from camvid_runs import FULL, Method, parsed, run_all

from selflabel.losses import DenseCRFLoss
from selflabel.training import Regularized, SeedsOnly, WeightedLoss

BY_IMAGE = SeedsOnly(by_image=True)
CRF = Regularized((WeightedLoss("regularizer", 0.2, DenseCRFLoss(DENSE)),))

MIXTURES = {
    FULL: METHODS[FULL],
    "full masks, dense CRF": Method(CRF, masked=1),
    "every third mask": Method(SeedsOnly(), masked=3, alone=True),
    "every third mask, dense CRF": Method(CRF, masked=3, alone=True),
    "every third mask, scribbles": Method(SeedsOnly(), masked=3),
    "every third mask, scribbles, dense CRF": Method(CRF, masked=3),
    "every third mask, scribbles, by image": Method(BY_IMAGE, masked=3),
    "every third mask, scribbles, by image, dense CRF": Method(replace(CRF, seeds=BY_IMAGE), masked=3),
}

if __name__ == "__main__":
    run_all(parsed(__doc__, MIXTURES), MIXTURES)
