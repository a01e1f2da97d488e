"""Label twelve images of each data pack with every solver, and compare what two checkouts write.

    SELFLABEL_DATA=… PYTHONPATH=before python tests/benchmarks/same_labels.py --out /tmp/before
    SELFLABEL_DATA=… python tests/benchmarks/same_labels.py --out /tmp/after --against /tmp/before

Files of labels, soft labels and overlays are compared byte by byte; of the manifest the energies, to 1e-6.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 12
PACKS = ("acdc", "camvid", "bsds")
SOLVERS = ("gradient-descent", "graph-cut", "mean-field", "random-walker")
TOLERANCE = 1e-6


def stems(pack: Path) -> list[str]:
    """`COUNT` stems, evenly spaced in the pack."""
    every = (pack / "train.txt").read_text().split()
    return every[:: len(every) // COUNT][:COUNT]


def write(data: Path, out: Path) -> None:
    """`selflabel label` on each pack with each solver."""
    for pack in PACKS:
        out.mkdir(parents=True, exist_ok=True)
        chosen = out / f"{pack}.txt"
        chosen.write_text("\n".join(stems(data / pack)))
        for solver in SOLVERS:
            command = (
                f"-m selflabel label {data / pack}/images --seeds {data / pack}/scribbles --stems {chosen} "
                f"--out {out / pack / solver} --solver {solver} --soft uint8 --overlay --workers 2"
            )
            subprocess.run([sys.executable, *command.split()], check=True, stdout=subprocess.DEVNULL)


def records(manifest: Path) -> dict[str, dict[str, object]]:
    """The record of each image."""
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    return {line["stem"]: line for line in lines if "stem" in line}


def compare(folder: Path, other: Path) -> list[str]:
    """What differs in the output of one run: one line a file."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".jsonl", ".lock")):
        twin = other / path.relative_to(folder)
        if not twin.exists():
            found.append(f"{path.relative_to(folder)}: not there before")
        elif path.read_bytes() != twin.read_bytes():
            found.append(f"{path.relative_to(folder)}: {_difference(path, twin)}")
    ours, theirs = records(folder / "manifest.jsonl"), records(other / "manifest.jsonl")
    for stem in sorted(ours.keys() | theirs.keys()):
        pair = [side.get(stem, {}).get("energy_after") for side in (ours, theirs)]
        if not np.allclose(*np.array(pair, float), rtol=TOLERANCE, atol=TOLERANCE):
            found.append(f"{stem}: energies {pair[0]} and {pair[1]}")
    return found


def _difference(path: Path, twin: Path) -> str:
    if path.suffix != ".png":
        return "other bytes"
    a, b = (np.array(Image.open(p)) for p in (path, twin))
    return (
        "other bytes of the same values" if np.array_equal(a, b) else f"{np.mean(a != b):.2e} of the values"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path, help="the --out of the other checkout")
    arguments = parser.parse_args()
    write(Path(os.environ["SELFLABEL_DATA"]), arguments.out)
    if arguments.against is None:
        return
    failed = False
    for pack in PACKS:
        for solver in SOLVERS:
            found = compare(arguments.out / pack / solver, arguments.against / pack / solver)
            print(f"{pack:8} {solver:18} {'same' if not found else f'{len(found)} differences'}")
            for line in found[:8]:
                print(f"    {line}")
            failed |= bool(found)
    sys.exit(failed)


if __name__ == "__main__":
    main()
