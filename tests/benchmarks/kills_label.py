"""Kill `selflabel label` again and again, resume it, and compare what is there with an undisturbed run.

    python tests/benchmarks/kills_label.py [--kills 1000] [--seed 1] [--fresh | --pipeline]

A round is a run that is killed by SIGKILL several times, at random moments, and then ends. After each kill: every
record belongs to the files that are there, which are those of an undisturbed run with the arguments of the record; no
image has two records; no record of an image that was done is lost. At the end: the same bytes as an undisturbed run,
but for `seconds` in the manifest. Runs have probabilities, soft labels and overlays.

Runs are forks of this process, which has loaded the libraries, so that a kill costs a fraction of a second; with
--fresh they are new processes. With --pipeline they use the engine of devices, where the CPU is one. Needs Linux. The
exit code is 1 if anything was wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from killing import Fault, Run, adopt_orphans, started
from PIL import Image
from typer.testing import CliRunner

from selflabel.cli import app
from selflabel.files.digest import digest
from selflabel.labeling import devices

IMAGES = 16
SIZE = 20
"""Pixels of a side: the work is writing files."""
KILLS_A_ROUND = 4
FIRST, SECOND = ("--pairwise-weight", "2"), ("--pairwise-weight", "0.01")
"""Two sets of arguments with other labels."""
OUTPUTS = ("--soft", "uint8", "--overlay")
DONE, FAILED, REFUSED = 0, 1, 2
"""Exit codes of the command."""


@dataclass
class Bench:
    """The images, what undisturbed runs made of them, and how many kills of each kind there were."""

    root: Path
    rng: random.Random
    fresh: bool
    seconds: float = 1.0
    kills: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    wholes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    @property
    def out(self) -> Path:
        """Where the runs write."""
        return self.root / "out"

    def start(self, *options: str, out: Path | None = None, workers: int | None = None) -> Run:
        """A run that has begun."""
        self.runs += 1
        count = ("--workers", str(workers or self.rng.choice((1, 2))))
        log = self.root / f"log{self.runs % 20}"
        return started(self.arguments(*options, *count, out=out), log, self.fresh)

    def arguments(self, *options: str, out: Path | None = None) -> list[str]:
        """Those of the command, with options added."""
        given = [
            "label",
            self.root / "images",
            "--seeds",
            self.root / "seeds",
            "--probs",
            self.root / "probs",
        ]
        given += ["--out", out or self.out, *OUTPUTS, *options]
        return [str(each) for each in given]

    def pause(self) -> None:
        """Wait for a random part of the time that a run takes."""
        time.sleep(self.rng.uniform(0, self.seconds))

    def kill(self, run: Run, kind: str) -> bool:
        """Kill a whole group, or its first process alone; False if the run was over before."""
        if run.is_over():
            return False
        self.kills[kind] += 1
        if kind.startswith("parent"):
            os.kill(run.pid, signal.SIGKILL)
        else:
            os.killpg(run.pid, signal.SIGKILL)
        return True

    def whole(self, name: str, *options: str) -> None:
        """Do an undisturbed run, for comparison."""
        out = self.root / name
        run = self.start(*options, out=out, workers=1)
        if run.end() != DONE:
            raise Fault(f"an undisturbed run failed:\n{run.log.read_text()}")
        self.seconds = 1.1 * (time.monotonic() - run.began)
        self.wholes[name] = files_of(out)
        (line,) = [line for line in lines_of(out / "manifest.jsonl") if "arguments" in line]
        self.names[str(line["run"])] = name

    def check(self, *, at_least: frozenset[str] = frozenset()) -> frozenset[str]:
        """Compare the folder with the undisturbed runs; returns the images that are done."""
        seen: dict[str, str] = {}
        there = files_of(self.out)
        for path in self.out.glob("manifest*.jsonl"):
            for line in lines_of(path):
                if "stem" not in line:
                    continue
                stem, outputs = str(line["stem"]), line["outputs"]
                if stem in seen:
                    raise Fault(f"two records of {stem}: {seen[stem]} and {path.name}")
                seen[stem] = path.name
                whole = self.wholes[self.names[str(line["run"])]]
                assert isinstance(outputs, dict)
                for folder, wanted in outputs.items():
                    name = f"{folder}/{stem}{'.npz' if folder == 'soft' else '.png'}"
                    if name not in there or digest([there[name]]) != wanted or there[name] != whole[name]:
                        raise Fault(f"{name} is not the file of its record in {path.name}")
        if lost := at_least - seen.keys():
            raise Fault(f"lost records: {sorted(lost)}")
        return frozenset(seen)

    def finish(self, name: str, *options: str) -> None:
        """Resume without a kill, and compare all with the undisturbed run."""
        run = self.start(*options)
        if run.end() != DONE:
            raise Fault(f"the last run ended with {run.code}:\n{run.log.read_text()}")
        self.check()
        if files_of(self.out) != self.wholes[name]:
            raise Fault(f"other files than those of the undisturbed run {name}")
        if timeless(self.out) != timeless(self.root / name):
            raise Fault(f"another manifest than that of the undisturbed run {name}")
        if left := [path.name for path in self.out.rglob(".*")]:
            raise Fault(f"left behind: {left}")


# --- rounds ---


def killed_groups(bench: Bench) -> None:
    """A run and its workers, killed together."""
    done: frozenset[str] = frozenset()
    for _ in range(KILLS_A_ROUND):
        run = bench.start(*FIRST)
        bench.pause()
        bench.kill(run, "group")
        run.end()
        done = bench.check(at_least=done)
    bench.finish("first", *FIRST)


def killed_parents(bench: Bench) -> None:
    """A run without its workers; the next one begins at once."""
    runs = []
    for _ in range(KILLS_A_ROUND):
        runs.append(bench.start(*FIRST, workers=2))
        bench.pause()
        bench.kill(runs[-1], "parent")
    for run in runs:
        run.end()
    bench.check()
    bench.finish("first", *FIRST)


def killed_workers(bench: Bench) -> None:
    """A worker: it costs its image, and the run goes on."""
    for _ in range(KILLS_A_ROUND // 2):
        shutil.rmtree(bench.out, ignore_errors=True)  # a run that goes on leaves no work for the next
        run = bench.start(*FIRST, workers=2)
        bench.pause()
        workers = run.workers()
        if workers and not run.is_over():
            with suppress(ProcessLookupError):
                os.kill(bench.rng.choice(workers), signal.SIGKILL)
                bench.kills["worker"] += 1
        if run.end() not in (DONE, FAILED):
            raise Fault(f"a run that lost a worker ended with {run.code}:\n{run.log.read_text()}")
        done = bench.check()
        if run.code == DONE and len(done) < IMAGES:
            raise Fault(f"a run that left out {IMAGES - len(done)} images says that it did all")
    bench.finish("first", *FIRST)


def killed_overwrites(bench: Bench) -> None:
    """Labels of other arguments, replaced: each record is that of the files that are there."""
    shutil.copytree(bench.root / "first", bench.out)
    runs = []
    for _ in range(KILLS_A_ROUND):
        runs.append(bench.start(*SECOND, "--overwrite"))
        bench.pause()
        bench.kill(runs[-1], bench.rng.choice(("group, --overwrite", "parent, --overwrite")))
        if bench.rng.random() < 0.5:
            runs[-1].end()
            bench.check()
    for run in runs:
        run.end()
    bench.finish("second", *SECOND, "--overwrite")


def two_at_once(bench: Bench) -> None:
    """Two runs with other arguments, other images, or both replacing what is there: one owner at a time."""
    kind = bench.rng.choice(("other arguments", "other images", "both --overwrite"))
    stems = bench.root / "some.txt"
    stems.write_text("".join(f"a{number}\n" for number in bench.rng.sample(range(IMAGES), IMAGES // 2)))
    pairs = {
        "other arguments": (FIRST, SECOND),
        "other images": (FIRST, (*FIRST, "--stems", str(stems))),
        "both --overwrite": ((*FIRST, "--overwrite"), (*SECOND, "--overwrite")),
    }
    if kind == "both --overwrite":
        shutil.copytree(bench.root / "first", bench.out)
    for _ in range(KILLS_A_ROUND // 2):
        runs = [bench.start(*options) for options in bench.rng.sample(pairs[kind], 2)]
        bench.pause()
        for run in bench.rng.sample(runs, bench.rng.choice((1, 2))):
            bench.kill(run, f"two at once, {kind}")
        for run in runs:
            if run.end() not in (DONE, REFUSED, -signal.SIGKILL):
                raise Fault(f"one of two runs ended with {run.code}:\n{run.log.read_text()}")
        bench.check()
    bench.finish("second", *SECOND, "--overwrite")


def parts_at_once(bench: Bench) -> None:
    """Two parts in one folder, at once; then the whole has nothing to do."""
    done: frozenset[str] = frozenset()
    part = {number: ("--num-parts", "2", "--part-id", str(number)) for number in (0, 1)}
    for _ in range(KILLS_A_ROUND // 2):
        runs = [bench.start(*FIRST, *part[number]) for number in (0, 1)]
        bench.pause()
        for run in bench.rng.sample(runs, bench.rng.choice((1, 2))):
            bench.kill(run, "two parts at once")
        for run in runs:
            if run.end() not in (DONE, -signal.SIGKILL):
                raise Fault(f"a part ended with {run.code}:\n{run.log.read_text()}")
        done = bench.check(at_least=done)
    for number in (0, 1):
        if bench.start(*FIRST, *part[number]).end() != DONE:
            raise Fault(f"part {number} did not end")
    if bench.check() != {f"a{number}" for number in range(IMAGES)}:
        raise Fault("two parts that ended have not labeled all images")
    if files_of(bench.out) != bench.wholes["first"]:
        raise Fault("two parts made other files than an undisturbed run")


ROUNDS: tuple[Callable[[Bench], None], ...] = (
    killed_groups,
    killed_parents,
    killed_workers,
    killed_overwrites,
    two_at_once,
    parts_at_once,
)


# --- what they need ---


def make_images(root: Path) -> None:
    """Images of two halves with noise, scribbles, and predictions."""
    rng = np.random.default_rng(20_931)
    for folder in ("images", "seeds", "probs"):
        (root / folder).mkdir()
    for number in range(IMAGES):
        image = rng.normal(110, 25, (SIZE, SIZE, 3))
        image[:, SIZE // 2 :] += 40
        seeds = np.full((SIZE, SIZE), 255, np.uint8)
        seeds[2:5, 2], seeds[9:12, -3] = 0, 1
        probs = rng.dirichlet((1, 1), (SIZE, SIZE)).transpose(2, 0, 1)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"a{number}.png")
        Image.fromarray(seeds).save(root / "seeds" / f"a{number}.png")
        np.save(root / "probs" / f"a{number}.npy", probs.astype(np.float32))


def files_of(out: Path) -> dict[str, bytes]:
    """The outputs in a folder by name."""
    found = {}
    for folder in ("labels", "confidence", "soft", "overlays"):
        for path in (out / folder).glob("[!.]*"):
            with suppress(FileNotFoundError):
                found[f"{folder}/{path.name}"] = path.read_bytes()
    return found


def lines_of(path: Path) -> list[dict[str, object]]:
    """The lines of a manifest; one that a kill cut does not count."""
    *whole, _cut = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole]


def timeless(out: Path) -> list[dict[str, object]]:
    """The manifest without what differs between two runs."""
    return [{**line, "seconds": 0} for line in lines_of(out / "manifest.jsonl")]


def rounds(bench: Bench, kills: int) -> Iterator[Exception]:
    """Rounds of all kinds in turn until there are enough kills; yields the faults."""
    number = 0
    while bench.kills.total() < kills:
        kind = ROUNDS[number % len(ROUNDS)]
        number += 1
        shutil.rmtree(bench.out, ignore_errors=True)
        try:
            kind(bench)
            bench.rounds[kind.__name__] += 1
        except Fault as fault:
            yield fault
            kept = bench.root.with_name(f"{bench.root.name}-fault-{number}")
            shutil.copytree(bench.out, kept, dirs_exist_ok=True)
            print(f"FAULT in {kind.__name__}: {fault}\nthe folder is kept in {kept}", flush=True)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="how many (default: 1,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--fresh", action="store_true", help="new processes in place of forks")
    parser.add_argument("--pipeline", action="store_true", help="the engine of devices, on the CPU")
    options = parser.parse_args()
    if options.fresh and options.pipeline:
        parser.error("--pipeline is for forks: leave out --fresh")
    if options.pipeline:
        devices.labeling_devices = lambda *asked: (torch.device("cpu"),)
    adopt_orphans()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        bench = Bench(Path(name), random.Random(options.seed), options.fresh)
        make_images(bench.root)
        if not options.fresh:
            _load(bench)
        bench.whole("first", *FIRST)
        bench.whole("second", *SECOND)
        bench.whole("first", *FIRST)  # again: now all is in the cache of the disk
        if not options.fresh and len(os.listdir("/proc/self/task")) > 1:
            print(
                "this process has several threads: forks would be no runs; set OMP_NUM_THREADS=1, or use --fresh"
            )
            return 2
        faults = list(rounds(bench, options.kills))
    for kind, count in sorted(bench.kills.items()):
        print(f"{count:6}  {kind}")
    print(
        f"{bench.kills.total():6}  kills in {bench.rounds.total() + len(faults)} rounds and {bench.runs} runs, "
        f"{time.monotonic() - began:.0f} s: {len(faults)} faults"
    )
    return 1 if faults else 0


def _load(bench: Bench) -> None:
    """Label an image in this process: forks then have all that the command imports."""
    given = bench.arguments("--limit", "1", "--workers", "1", *FIRST, out=bench.root / "warm")
    result = CliRunner().invoke(app, given)
    if result.exit_code != DONE:
        raise Fault(f"a first image failed:\n{result.output}")


if __name__ == "__main__":
    sys.exit(_main())
