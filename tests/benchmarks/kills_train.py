"""SIGKILLs of `selflabel train`, each run resumed by the same command: the end is that of a run that was left alone.

    python tests/benchmarks/kills_train.py               # 100 kills, about a quarter of an hour on two cores
    python tests/benchmarks/kills_train.py --kills 5     # a try

Small data sets are generated. Runs of four kinds take turns. Each is killed at moments that a seeded generator draws:
some time after one of its next steps, or while it starts. Once it ends by itself, weights, optimizer, history and
scores must be bit for bit those of the run that was not killed, seconds apart, and no temporary file may be left.
After each kill the files must be whole, and the last checkpoint no earlier than before. Exit code 1 if anything was
not so.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from selflabel.training import load_checkpoint, read_history

COMMON = (
    *("--network", "unet:2", "--size", "32", "--batch", "3", "--steps", "60", "--device", "cpu"),
    *("--pretrain-steps", "5", "--warmup-steps", "5", "--checkpoint-every", "2", "--validate-every", "3"),
    *("--measure-every", "7"),
)
KINDS = {
    "soft labels": ("--solver", "gradient-descent", "--max-steps", "4"),
    "stored labels": ("--solver", "graph-cut", "--no-augment", "--warm-start", "--relabel-every", "8"),
    "a loss": ("--method", "gd", "--loss", "potts", "--average", "0.9"),
    "trust region": ("--method", "trust-region", "--optimizer", "sgd"),
}
LONGEST = 600.0
"""Seconds that a run may take."""


NEXT_STEPS, BETWEEN = 16, 0.25
"""A kill comes at most so many steps after the last one, and so many seconds after that step."""
STARTING, START = 0.15, 6.0
"""Share of the kills that come while the command starts, and how long after its first moment they may, in seconds."""
POLL = 0.002


@dataclass(frozen=True)
class Moment:
    """When to kill: some seconds after the history has a row of this step; step 0: after the start."""

    step: int
    seconds: float


def make_data(root: Path) -> Path:
    """Eight noisy disks of 40 x 36 pixels with scribbles, two more to validate with."""
    draw = np.random.default_rng(91)
    for folder in ("images", "scribbles", "masks"):
        (root / folder).mkdir(parents=True)
    stems = [f"x{number}" for number in range(10)]
    for stem in stems:
        y, x = np.indices((40, 36))
        center = draw.uniform(14, 22, 2)
        mask = (np.hypot(y - center[0], x - center[1]) < 9).astype(np.uint8)
        image = np.array([[60, 80, 120], [180, 150, 90]])[mask] + draw.normal(0, 25, (40, 36, 3))
        seeds = np.full(mask.shape, 255, np.uint8)
        seeds[2, 3:30] = 0
        seeds[int(center[0]), int(center[1]) - 4 : int(center[1]) + 5] = 1
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{stem}.png")
        Image.fromarray(seeds).save(root / "scribbles" / f"{stem}.png")
        Image.fromarray(mask).save(root / "masks" / f"{stem}.png")
    (root / "train.txt").write_text("\n".join(stems[:8]))
    (root / "val.txt").write_text("\n".join(stems[8:]))
    (root / "classes.txt").write_text("ground\ndisk\n")
    return root


def start(data: Path, out: Path, kind: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, what it says in a file beside the folder."""
    command = [
        sys.executable,
        "-m",
        "selflabel",
        "train",
        str(data),
        "--out",
        str(out),
        *COMMON,
        *KINDS[kind],
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(out.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def reference(data: Path, out: Path, kind: str) -> None:
    """A run that is left alone. Raises `RuntimeError` if it fails."""
    code = start(data, out, kind).wait(LONGEST)
    if code:
        raise RuntimeError(f"{kind}: exit code {code}: {out.with_suffix('.log').read_text()}")


def killed_at(data: Path, out: Path, kind: str, moment: Moment | None) -> int | None:
    """Start or resume a run, and kill it and its children at a moment; the exit code if it ended before."""
    process = start(data, out, kind)
    try:
        if moment is None:
            return process.wait(LONGEST)
        until = time.monotonic() + LONGEST
        while moment.step and rows(out) < moment.step and time.monotonic() < until:
            code = process.poll()
            if code is not None:
                return code
            time.sleep(POLL)
        return process.wait(moment.seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def rows(out: Path) -> int:
    """Lines of the history, whole or not."""
    path = out / "history.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def draw_moment(draw: random.Random, step: int) -> Moment:
    """The next moment to kill a run whose last checkpoint is of this step."""
    if draw.random() < STARTING:
        return Moment(0, START * draw.random())
    return Moment(max(0, step) + draw.randint(1, NEXT_STEPS), BETWEEN * draw.random())


def faults_of_parts(out: Path, before: int) -> Iterator[str]:
    """What is wrong with the files that a killed run left; `before`: the step of its checkpoint at the last kill."""
    if not (out / "last.pt").exists():
        if before >= 0:
            yield "the checkpoint is gone"
        return
    try:
        step = load_checkpoint(out / "last.pt").step
        if (out / "best.pt").exists():
            load_checkpoint(out / "best.pt")
    except ValueError as error:
        yield f"a checkpoint is damaged: {error}"
        return
    if step < before:
        yield f"the checkpoint went back from step {before} to {step}"
    if len(read_history(out / "history.jsonl")) < step:
        yield f"rows of the history are lost, before step {step}"


def faults_of_whole(out: Path, other: Path) -> Iterator[str]:
    """What differs between a run that was killed and one that was not."""
    for name in ("last.pt", "best.pt"):
        one, two = load_checkpoint(out / name), load_checkpoint(other / name)
        if (one.step, one.best) != (two.step, two.best):
            yield f"{name}: step {one.step} and best {one.best}, expected {two.step} and {two.best}"
        for part in ("network", "average", "optimizer", "labels"):
            if not same(getattr(one, part), getattr(two, part)):
                yield f"{name}: another {part}"
    if timeless(out / "history.jsonl") != timeless(other / "history.jsonl"):
        yield "history.jsonl: other rows"
    for name in ("history.jsonl", "history.csv"):
        found, wanted = ((folder / name).read_text().count("\n") for folder in (out, other))
        if found != wanted:
            yield f"{name}: {found} lines, expected {wanted}"
    for name in ("scores.json", "config.toml"):
        if (out / name).read_bytes() != (other / name).read_bytes():
            yield f"{name}: other bytes"
    names = [sorted(path.name for path in folder.iterdir()) for folder in (out, other)]
    if names[0] != names[1]:
        yield f"files: {names[0]}, expected {names[1]}"


def same(one: object, two: object) -> bool:
    """True for the same bits in all tensors and numbers."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def timeless(path: Path) -> list[str]:
    """The rows of a history without seconds."""
    rows = read_history(path)
    return [json.dumps({name: row[name] for name in row if "seconds" not in name}) for row in rows]


def run_killed(
    data: Path, folder: Path, kind: str, draw: random.Random, left: int, counts: Counter[str]
) -> Iterator[str]:
    """Train a run with kills, until there have been `left` in all, and compare its end."""
    out, step = folder / "run", -1
    while True:
        moment = draw_moment(draw, step) if counts["kills"] < left else None
        code = killed_at(data, out, kind, moment)
        if code is not None:
            break
        counts["kills"] += 1
        counts["kills while it starts"] += moment is not None and not moment.step
        yield from faults_of_parts(out, step)
        if (out / "last.pt").exists():
            step = load_checkpoint(out / "last.pt").step
    counts["runs"] += 1
    if code:
        yield f"exit code {code}: {out.with_suffix('.log').read_text()[-400:]}"
    else:
        yield from faults_of_whole(out, folder.parent / kind.replace(" ", "-") / "run")


def main() -> int:
    """Kill, resume, compare; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    draw, counts, faults = random.Random(options.seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory(prefix="kills-train-") as name:
        root = Path(name)
        data = make_data(root / "data")
        while counts["kills"] < options.kills:
            kind = list(KINDS)[counts["runs"] % len(KINDS)]
            alone = root / kind.replace(" ", "-")
            if not alone.exists():
                alone.mkdir()
                reference(data, alone / "run", kind)
            folder = root / f"killed-{counts['runs']}"
            folder.mkdir()
            before = counts["kills"]
            for fault in run_killed(data, folder, kind, draw, options.kills, counts):
                faults.append(f"{kind}, run {counts['runs']}: {fault}")
                print(faults[-1], flush=True)
            print(f"{kind}: {counts['kills'] - before} kills, then whole", flush=True)
    print(
        f"{counts['kills']} kills ({counts['kills while it starts']} while it starts) in {counts['runs']} runs, "
        f"{len(faults)} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
