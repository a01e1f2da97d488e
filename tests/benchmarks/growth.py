"""How time and memory of each solver grow with pixels and with classes; each measurement in a process of its own.

    SELFLABEL_DATA=… python tests/benchmarks/growth.py --out docs/growth

Writes OUT.md (seconds, peak memory beyond that of the imports, per megapixel and class) and, with matplotlib, OUT.png.
A photograph is resized to 0.1 to 10 megapixels (5 classes), and labeled with 2 to 100 classes (0.1 megapixels);
predictions are smooth noise. Growth is judged between neighbors: seconds may grow 1.2 times as fast as what is labeled;
graph cut is not judged. Exit code 1 if some solver's do.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from pictures import spaced

from selflabel import DenseAffinity, Energy, GridAffinity, Problem, solve
from selflabel.affinity import GaussianKernel
from selflabel.affinity.protocol import Affinity
from selflabel.driver import Solver
from selflabel.labels import UNLABELED
from selflabel.solvers import GradientDescent, GraphCut, MeanField, RandomWalker

SOLVERS: dict[str, tuple[Solver, int]] = {
    "gradient-descent": (GradientDescent(), 10),
    "mean-field": (MeanField(), 5),
    "random-walker": (RandomWalker(), 200),
    "graph-cut": (GraphCut(), 200),
}
MEGAPIXELS = (0.1, 0.3, 1.0, 3.0, 10.0)
CLASSES = (2, 5, 10, 30, 100)


def affinity_of(image: torch.Tensor, name: str) -> Affinity:
    if name == "mean-field":
        return DenseAffinity.from_image(image, (GaussianKernel(1.0, 80.0, 13.0),), symmetric=True)
    return GridAffinity.from_image(image, 9.0)


def measure(name: str, megapixels: float, classes: int) -> dict[str, float]:
    """Seconds with the affinity, and the most memory beyond what the inputs and imports take."""
    torch.set_num_threads(2)
    photograph = next(spaced("bsds", 1)).image
    scale = (megapixels * 1e6 / photograph[0, 0].numel()) ** 0.5
    size = tuple(round(scale * n) for n in photograph.shape[2:])
    resize = torch.nn.functional.interpolate
    image = resize(photograph, size, mode="bilinear").clamp(0, 1)
    draw = torch.Generator().manual_seed(3_417)
    coarse = torch.randn(1, classes, *(n // 20 + 2 for n in size), generator=draw)
    probs = (3 * resize(coarse, size, mode="bilinear")).softmax(1)
    solver, steps = SOLVERS[name]
    energy: Energy = solver.default_energy
    seeds = torch.full((1, *size), UNLABELED)
    seeds[:, ::7, ::7] = probs.argmax(1)[:, ::7, ::7]
    small = Problem(energy, probs[..., :40, :40], seeds[:, :40, :40], affinity_of(image[..., :40, :40], name))
    solve(small, solver, max_steps=2)  # compiles, and imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    solve(Problem(energy, probs, seeds, affinity_of(image, name)), solver, max_steps=steps)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "megabytes": peak / 1024, "megapixels": probs[0, 0].numel() / 1e6}


def in_process(name: str, megapixels: float, classes: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", name, str(megapixels), str(classes)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def figure(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    sheet, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, rows in found.items():
        axes[0].loglog(MEGAPIXELS[: len(rows["pixels"])], rows["pixels"], "o-", label=name)
        axes[1].loglog(CLASSES[: len(rows["classes"])], rows["classes"], "o-", label=name)
    axes[0].set(xlabel="megapixels (5 classes)", ylabel="seconds")
    axes[1].set(xlabel="classes (0.1 megapixels)", ylabel="seconds")
    axes[0].legend()
    sheet.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--most", type=float, default=10.0, help="megapixels")
    parser.add_argument("--one", nargs=3, metavar=("SOLVER", "MEGAPIXELS", "CLASSES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, megapixels, classes = options.one
        print(json.dumps(measure(name, float(megapixels), int(classes))))
        return
    lines = [
        "| solver | megapixels, K = 5 | seconds | classes, 0.1 MP | seconds | MB per megapixel and class |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    found: dict[str, dict[str, list[float]]] = {}
    bad = []
    for name in SOLVERS:
        sizes = [m for m in MEGAPIXELS if m <= options.most]
        pixels = [in_process(name, m, 5) for m in sizes]
        classes = [in_process(name, 0.1, k) for k in CLASSES]
        found[name] = {
            "pixels": [row["seconds"] for row in pixels],
            "classes": [row["seconds"] for row in classes],
        }
        for amounts, seconds in (
            ([row["megapixels"] for row in pixels], found[name]["pixels"]),
            (list(CLASSES), found[name]["classes"]),
        ):
            for (a, b), (s, t) in zip(itertools.pairwise(amounts), itertools.pairwise(seconds), strict=False):
                if name != "graph-cut" and t / s > 1.2 * b / a:
                    bad.append(f"{name}: from {a:g} to {b:g}, {t / s:.1f} times the seconds")
        memory = max(row["megabytes"] / row["megapixels"] / 5 for row in pixels[1:])
        values = [
            " / ".join(f"{x:g}" for x in sizes),
            " / ".join(f"{x:.2f}" for x in found[name]["pixels"]),
            " / ".join(map(str, CLASSES)),
            " / ".join(f"{x:.2f}" for x in found[name]["classes"]),
            f"{memory:.0f}",
        ]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
        print(lines[-1], flush=True)
    if options.out:
        options.out.with_suffix(".md").write_text("\n".join([*lines, "", *bad]) + "\n", encoding="utf-8")
        figure(found, options.out.with_suffix(".png"))
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
