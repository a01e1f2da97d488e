"""Gradient descent against the alternating direction method on the same losses (Tang et al. 2018, Fig. 3).

    python examples/gd_vs_adm.py DATA/acdc --out runs/gd_vs_adm          # half an hour on two cores
    python examples/gd_vs_adm.py --sample --out runs/gd_vs_adm           # a minute, on a photograph

Two comparisons, each by `selflabel compare`: the dense CRF loss by gradient descent on the network and by mean-field
ADM; the grid Potts loss by gradient descent, hard ADM (graph cut) and soft ADM. In each, all methods start from the
same weights, see the same batches and are measured with the same energy. Writes OUT/dense-crf and OUT/potts with
comparison.png, .svg, .csv and .md. Needs matplotlib: pip install 'selflabel[plots]'.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import astronaut
from skimage.transform import resize
from training_loop import strokes

DENSE = "affinity=dense,sigma=15,sigma_xy=8,affinity.symmetric=true,pairwise_weight=2,weight=1"
GRID = "affinity=grid,sigma=9,neighbors=8,affinity.by_distance=true,pairwise_weight=1,coupling_weight=0.3,weight=3"
COMPARISONS = {
    "dense-crf": (
        f"gd:dense-crf,{DENSE},name=gradient-descent",
        f"adm:mean-field,{DENSE},max_steps=5,warm_start=true,name=mean-field-ADM",
    ),
    "potts": (
        # with the entropy: the loss (4), which the joint loss (8) is at equal labels and prediction
        f"gd:potts+entropy,{GRID},name=gradient-descent",
        f"adm:graph-cut,{GRID},warm_start=true,name=hard-ADM",
        f"adm:gradient-descent,{GRID},solver.coarse_levels=0,max_steps=8,warm_start=true,name=soft-ADM",
    ),
}


def sample(root: Path) -> Path:
    """A data set of one photograph: strokes to train with, and boxes around face and suit as the mask."""
    image = (255 * resize(astronaut(), (128, 128), anti_aliasing=True)).astype(np.uint8)
    mask = np.zeros((128, 128), np.uint8)
    mask[20:120, 25:95] = 1
    seeds = strokes(128, 128)[0].numpy().astype(np.uint8)
    for name, array in (("images", image), ("scribbles", seeds), ("masks", mask)):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / name / "astronaut.png")
    (root / "train.txt").write_text("astronaut\n")
    (root / "val.txt").write_text("astronaut\n")
    (root / "classes.txt").write_text("background\nperson\n")
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--sample", action="store_true", help="a photograph instead of DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    if options.sample == (options.data is not None):
        parser.error("give a folder of data, or --sample")
    data, steps, batch = options.data, options.steps, 12
    if options.sample:
        data, steps, batch = sample(options.out / "sample"), min(options.steps, 40), 1
    for name, runs in COMPARISONS.items():
        settings = {
            "network": "unet:8",
            "steps": steps,
            "batch": batch,
            "pretrain_steps": steps // 5,
            "warmup_steps": steps // 10,
            "learning_rate": 3e-3,
            "augment": "false",
            "measure_every": max(1, steps // 100),
            "validate_every": max(1, steps // 10),
        }
        command = [sys.executable, "-m", "selflabel", "compare", str(data), "--out", str(options.out / name)]
        command += ["--seeds", str(options.seeds), "--title", name]
        command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        subprocess.run([*command, *(word for run in runs for word in ("--runs", run))], check=True)


if __name__ == "__main__":
    main()
