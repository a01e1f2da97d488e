"""The table solver x data set: `selflabel label` on whole packs, against scikit-image's random walker.

    SELFLABEL_DATA=… python tests/benchmarks/datasets.py --out runs

Writes to OUT: probs/PACK (the predictions that all solvers start from, made once), labels/PACK/SOLVER (by the
command line, `--probs`), rows like "prediction" and "forest" (argmax of a prediction, no solver), and
baseline/PACK/BETA (scikit-image on the classes that have seeds, every `--every`-th image). Prints a Markdown
table for all images and one for those that the baseline ran on. Interrupted, it goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pictures import data_folder, load, stems
from PIL import Image
from skimage.segmentation import random_walker

from selflabel.annotators import Annotator, ForestAnnotator, ProductAnnotator, WalkerAnnotator
from selflabel.labels import UNLABELED

BETAS = (30, 130, 400, 1000, 3000)
OPTIONS = {
    "random-walker": ("--coupling-weight", "0.05"),
    "graph-cut": ("--pairwise-weight", "2", "--sigma", "9"),
    "gradient-descent": ("--pairwise-weight", "2", "--sigma", "9"),
    "mean-field": ("--pairwise-weight", "1", "--sigma", "8"),
    "frank-wolfe": ("--pairwise-weight", "1", "--sigma", "8"),
}
"""The settings for scribbles: with --probs the command has those for predictions of networks."""
HEADLINE = {"acdc": "mean_dice", "camvid": "mean_iou", "bsds": "image_iou"}
PARTS: dict[str, Annotator] = {"forest alone": ForestAnnotator(), "walker alone": WalkerAnnotator()}


@dataclass(frozen=True)
class Job:
    """One image: its prediction and, for some, the baseline."""

    pack: str
    stem: str
    out: str
    baseline: bool


def write_index(path: Path, index: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    Image.fromarray(index.astype(np.uint8)).save(temporary, format="PNG")
    temporary.replace(path)


def run(job: Job) -> str:
    """Prediction, its argmax, and the baseline for each β of one image."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out = Path(job.out)
    picture = load(job.pack, job.stem)
    folder = data_folder() / job.pack / "scribbles" / f"{job.stem}.png"
    seeds = np.asarray(Image.open(folder))
    classes = np.unique(seeds[seeds != UNLABELED])

    def named(index: np.ndarray) -> np.ndarray:
        return np.where(seeds != UNLABELED, seeds, classes[index])

    probs_path = out / "probs" / job.pack / f"{job.stem}.npy"
    if not probs_path.exists():
        probs = picture.predict(ProductAnnotator())[0].numpy()
        full = np.zeros((int(classes.max()) + 1, *seeds.shape), np.float16)
        full[classes] = probs
        probs_path.parent.mkdir(parents=True, exist_ok=True)
        temporary = probs_path.with_suffix(".part")
        with temporary.open("wb") as file:
            np.save(file, full)
        temporary.replace(probs_path)
    prediction = out / "labels" / job.pack / "prediction" / "labels" / f"{job.stem}.png"
    if not prediction.exists():
        write_index(prediction, named(np.load(probs_path)[classes].argmax(0)))
    if not job.baseline:
        return job.stem
    for name, annotator in PARTS.items():
        path = out / "baseline" / job.pack / name / f"{job.stem}.png"
        if not path.exists():
            write_index(path, named(picture.predict(annotator)[0].argmax(0).numpy()))
    compact = picture.seeds[0].numpy()
    for beta in BETAS:
        path = out / "baseline" / job.pack / f"scikit-image β={beta}" / f"{job.stem}.png"
        if path.exists():
            continue
        if len(classes) == 1:
            write_index(path, np.full(seeds.shape, classes[0]))
            continue
        markers = np.where(compact == UNLABELED, 0, compact + 1)
        image = picture.image[0].permute(1, 2, 0).numpy()
        found = random_walker(image, markers, beta=beta, mode="bf", channel_axis=2)
        write_index(path, named(np.clip(found, 1, None) - 1))
    return job.stem


def score(pack: str, folder: Path, subset: Path | None) -> float:
    """Mean Dice over the three structures (acdc), mean IoU (camvid), mean over images of mean IoU (bsds)."""
    truth, report = data_folder() / pack, folder.parent / f"{folder.name}.json"
    command = [sys.executable, "-m", "selflabel", "score", str(folder), str(truth / "masks"), "--no-hd95"]
    command += ["--json", str(report)]
    command += ["--classes", str(truth / "classes.txt")] if (truth / "classes.txt").exists() else []
    command += ["--stems", str(subset)] if subset is not None else []
    command += ["--no-background"] if pack == "acdc" else []
    subprocess.run(command, check=True, capture_output=True)
    return float(json.loads(report.read_text())[HEADLINE[pack]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packs", nargs="+", default=["acdc", "camvid", "bsds"])
    parser.add_argument("--solvers", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    parser.add_argument("--every", type=int, default=4, help="the baseline's share of acdc and camvid")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    tables: dict[str, dict[str, tuple[float | None, float]]] = {}
    for pack in options.packs:
        names = stems(pack)
        chosen = names if pack == "bsds" else names[:: options.every]
        subset = options.out / f"{pack}.txt"
        subset.parent.mkdir(parents=True, exist_ok=True)
        subset.write_text("\n".join(chosen) + "\n")
        some = set(chosen)
        jobs = [Job(pack, stem, str(options.out), stem in some) for stem in names]
        with ProcessPoolExecutor(options.workers) as pool:
            for number, _ in enumerate(pool.map(run, jobs), start=1):
                print(f"\r{pack} {number}/{len(jobs)}", end="", file=sys.stderr, flush=True)
        for solver in options.solvers:
            command = [sys.executable, "-m", "selflabel", "label", str(data_folder() / pack / "images")]
            command += [
                "--seeds",
                str(data_folder() / pack / "scribbles"),
                "--solver",
                solver,
                *OPTIONS[solver],
            ]
            command += ["--probs", str(options.out / "probs" / pack)]
            command += ["--out", str(options.out / "labels" / pack / solver)]
            subprocess.run([*command, "--workers", str(options.workers)], check=True)
        for name in ("prediction", *options.solvers):
            folder = options.out / "labels" / pack / name / "labels"
            whole, part = score(pack, folder, None), score(pack, folder, subset)
            tables.setdefault(name, {})[pack] = (whole, part)
        for name in (*PARTS, *(f"scikit-image β={beta}" for beta in BETAS)):
            folder = options.out / "baseline" / pack / name
            tables.setdefault(name, {})[pack] = (None, score(pack, folder, subset))
    header = " | ".join(f"{pack} (all / part)" for pack in options.packs)
    print(f"| | {header} |\n|{' --- |' * (len(options.packs) + 1)}")
    for name, row in tables.items():
        cells = [
            f"{'–' if row[pack][0] is None else format(row[pack][0], '.3f')} / {row[pack][1]:.3f}"
            for pack in options.packs
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
