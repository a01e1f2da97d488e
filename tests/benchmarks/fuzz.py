"""Odd and malformed files, edited state files and odd options through `label`, `score`, `train` and `predict`.

    python tests/benchmarks/fuzz.py                                            # 500 files, 200 edits, 100 options
    python tests/benchmarks/fuzz.py --files 50 --edits 20 --options 20 --seed 3       # a try

All inputs are generated from the seed. Nothing may end in a traceback, hang, kill the process, or lose an image in
silence: every image is labeled (predicted, scored) or named in what the command prints, sound images come out as they
do alone, and a state file that was edited is refused by name, or has no effect on the results, or one that is told.
Prints counts by kind; exit code 1 if anything was not so. A quarter of an hour on two cores.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fuzz_edits import edit, restore, results, snapshot
from fuzz_files import CLASSES, WRITERS, mask, saved, write_odd
from fuzz_running import Ended, run
from PIL import Image

GROUP = 10
"""Odd files in one folder."""
SOUND = ("sound0", "sound1")
GOOD_END = re.compile(r"best\.pt and last\.pt are in .*")
"""The last line of `train` names files in any case."""
NETWORK = ("--network", "unet:2", "--size", "16", "--batch", "2", "--steps", "4", "--device", "cpu")
SCHEDULE = (
    "--pretrain-steps",
    "1",
    "--warmup-steps",
    "1",
    "--checkpoint-every",
    "2",
    "--validate-every",
    "2",
)
WALKER = ("--solver", "random-walker", "--annotator", "walker", "--workers", "1")


ODD_VALUES = (
    *(
        "",
        " ",
        "-1",
        "0",
        "1.5",
        "nan",
        "inf",
        "1e400",
        "9" * 30,
        "x",
        "é\u202e",
        "--out",
        "a,b",
        "a=b",
        "[",
        "{}",
    ),
    *("/dev/zero", "/dev/null", "/", "solver.x=1", "affinity.sigma=nan", "\x1b[31m"),
)


@dataclass
class Report:
    """What was tried, by kind, and what went wrong."""

    tried: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def check(self, ended: Ended, what: str, *more: str) -> None:
        for fault in [*ended.faults(), *more]:
            self.faults.append(
                f"{what}: {fault}\n    selflabel {' '.join(ended.arguments)}\n    {ended.output[-600:]!r}"
            )

    def show(self) -> None:
        for title, counts in (("tried", self.tried), ("outcome", self.outcomes)):
            print(f"\n| {title} | number |\n| --- | --- |")
            for kind, count in sorted(counts.items()):
                print(f"| {kind} | {count} |")
        for fault in self.faults:
            print(f"\nFAULT {fault}")
        print(f"\n{sum(self.tried.values())} tried, {len(self.faults)} faults")


@dataclass(frozen=True)
class Fuzzer:
    """The folders that all parts share."""

    root: Path
    random: np.random.Generator
    report: Report

    def fresh(self, name: str) -> Path:
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def run(self, *arguments: object) -> Ended:
        return run(list(arguments), self.root / "log.txt")

    def sound(self, root: Path, stems: tuple[str, ...]) -> None:
        """Sound files of all roles."""
        for role, writer in WRITERS.items():
            (root / role).mkdir(parents=True, exist_ok=True)
            for number, stem in enumerate(stems):
                suffix, data = writer(np.random.default_rng(number))
                (root / role / f"{stem}.{suffix}").write_bytes(data)

    def data_set(self, root: Path, stems: tuple[str, ...]) -> Path:
        """The layout that `train` takes."""
        self.sound(root, stems)
        shutil.copytree(root / "seeds", root / "scribbles")
        (root / "train.txt").write_text("".join(f"{stem}\n" for stem in stems[:-2]))
        (root / "val.txt").write_text("".join(f"{stem}\n" for stem in stems[-2:]))
        (root / "classes.txt").write_text("".join(f"class {k}\n" for k in range(CLASSES)))
        return root

    # --- files ---

    def files(self, count: int) -> None:
        """Groups of odd files of one role, beside sound ones."""
        trained = self.fresh("trained")
        self.data_set(trained / "data", ("t0", "t1", "t2", "v0", "v1"))
        self.report.check(
            self.run("train", trained / "data", "--out", trained / "run", *NETWORK, *SCHEDULE), "train"
        )
        commands: dict[str, tuple[Callable[[Path, tuple[str, ...], str], None], tuple[str, ...]]] = {
            "label": (self.label, ("images", "seeds", "probs")),
            "score": (self.score, ("masks", "predicted")),
            "train": (self.train, ("images", "seeds", "masks")),
            "predict": (
                lambda root, stems, role: self.predict(root, stems, role, trained / "run"),
                ("images",),
            ),
        }
        pairs = [(name, role) for name, (_, roles) in commands.items() for role in roles]
        for number in range(0, count, GROUP):
            name, role = pairs[number // GROUP % len(pairs)]
            stems = tuple(f"odd{k}" for k in range(min(GROUP, count - number)))
            root = self.fresh("files")
            self.sound(root, (*SOUND, *stems))
            (root / "predicted").mkdir()
            for stem in (*SOUND, *stems):
                (root / "predicted" / f"{stem}.png").write_bytes(saved(Image.fromarray(mask()), "png")[1])
            self.spoil(root, stems, role, name)
            commands[name][0](root, stems, role)

    def spoil(self, root: Path, stems: tuple[str, ...], role: str, command: str) -> None:
        for stem in stems:
            for path in (root / role).glob(f"{stem}.*"):
                path.unlink()
            kind = write_odd(root / role, stem, "masks" if role == "predicted" else role, self.random)
            self.report.tried[f"{command}, {role}: {kind}"] += 1

    def label(self, root: Path, stems: tuple[str, ...], role: str) -> None:
        given = ("--probs", root / "probs", *WALKER[:2]) if role == "probs" else WALKER
        out = root / "out"
        given = ("label", root / "images", "--seeds", root / "seeds", "--out", out, *given, "--verbose")
        ended = self.run(*given)
        self.accounted(
            ended, {path.stem for path in (out / "labels").glob("*.png")}, stems, f"label, odd {role}"
        )
        self.report.check(self.run(*given), f"label again, odd {role}")

    def predict(self, root: Path, stems: tuple[str, ...], role: str, trained: Path) -> None:
        out = root / "out"
        given = ("predict", trained, root / "images", "--out", out, "--device", "cpu", "--verbose")
        ended = self.run(*given)
        self.accounted(
            ended, {path.stem for path in (root / "out").glob("*.npz")}, stems, f"predict, odd {role}"
        )
        self.report.check(self.run(*given), f"predict again, odd {role}")

    def score(self, root: Path, stems: tuple[str, ...], role: str) -> None:
        ended = self.run("score", root / "predicted", root / "masks", "--verbose")
        right = re.compile(r"^(\w+): [\d.]+ % of the pixels right", re.MULTILINE)
        scored = set(right.findall(ended.output))
        self.accounted(ended, scored, stems, f"score, odd {role}")

    def train(self, root: Path, stems: tuple[str, ...], role: str) -> None:
        """All odd files are named, or training ends well."""
        shutil.copytree(root / "seeds", root / "scribbles", symlinks=True, ignore=_pipes)
        (root / "train.txt").write_text("".join(f"{stem}\n" for stem in (*SOUND, *stems)))
        (root / "val.txt").write_text("sound0\n")
        (root / "classes.txt").write_text("a\nb\nc\n")
        ended = self.run("train", root, "--out", root / "run", *NETWORK, *SCHEDULE)
        named = any(stem in ended.output for stem in stems) or ended.code == 0
        self.report.outcomes[
            f"train: {'runs' if ended.code == 0 else 'refused by name' if named else 'refused'}"
        ] += 1
        self.report.check(ended, f"train, odd {role}", *([] if named else ["names no file"]))

    def accounted(self, ended: Ended, done: set[str], stems: tuple[str, ...], what: str) -> None:
        """Each image is done or named; sound ones are done."""
        lost = [stem for stem in stems if stem not in done and stem not in ended.output]
        # what is no file at all is counted in one line, without its name
        lost = lost[sum(map(int, re.findall(r"(\d+) (?:files?|folders?) (?:is|are) no", ended.output))) :]
        missed = [stem for stem in SOUND if stem not in done]
        self.report.outcomes[f"{what}: done"] += len(done & set(stems))
        self.report.outcomes[f"{what}: named"] += len(set(stems) - done - set(lost))
        silent = ended.code == 0 and not set(stems) <= done
        self.report.check(
            ended,
            what,
            *([f"lost in silence: {lost}"] if lost else []),
            *([f"sound images not done: {missed}"] if missed else []),
            *(["exit code 0 with images that failed"] if silent else []),
        )

    # --- state files ---

    def edits(self, count: int) -> None:
        """Edits of what runs of `label`, `train` and `predict` left behind, then the same command again."""
        made = self.fresh("made")
        data = self.data_set(made / "data", ("t0", "t1", "t2", "v0", "v1"))
        again: dict[str, tuple[object, ...]] = {
            "label": ("label", data / "images", "--seeds", data / "seeds", "--out", made / "label", *WALKER),
            "train": ("train", data, "--out", made / "train", *NETWORK, *SCHEDULE),
            "predict": (
                "predict",
                made / "train",
                data / "images",
                "--out",
                made / "predict",
                "--device",
                "cpu",
            ),
        }
        for name, arguments in again.items():
            self.report.check(self.run(*arguments), f"{name}, for edits")
        before = {name: snapshot(made / name) for name in again}
        for _ in range(count):
            name = str(self.random.choice(list(again)))
            states = sorted(
                path for path in (made / name).rglob("*") if path.is_file() and not path.is_symlink()
            )
            path = states[self.random.integers(len(states))]
            kind = edit(path, self.random)
            self.report.tried[
                f"edit of {name}'s {path.name if name != 'label' else path.parent.name}: {kind}"
            ] += 1
            ended = self.run(*again[name])
            after = snapshot(made / name)
            is_same, is_told = (
                results(after) == results(before[name]),
                path.name in GOOD_END.sub("", ended.output),
            )
            if ended.code == 0:
                outcome = "results as before" if is_same else f"other results{', told' * is_told}"
            else:
                outcome = "refused by name" if is_told else "refused"
            self.report.outcomes[f"edit: {outcome}"] += 1
            wrong = [outcome] if not is_told and outcome in ("refused", "other results") else []
            self.report.check(ended, f"{kind} of {path.relative_to(made)}", *wrong)
            if after != before[name] or any(each.is_symlink() for each in (made / name).rglob("*")):
                restore(made / name, before[name])

    # --- options ---

    def options(self, count: int) -> None:
        """Odd values of options, one at a time."""
        made = self.fresh("options")
        data = self.data_set(made / "data", ("t0", "t1", "t2", "v0", "v1"))
        run_folder = made / "run"
        self.run("train", data, "--out", run_folder, *NETWORK, *SCHEDULE)
        base: dict[str, tuple[object, ...]] = {
            "label": ("label", data / "images", "--seeds", data / "seeds", *WALKER),
            "train": ("train", data, *NETWORK, *SCHEDULE),
            "predict": ("predict", run_folder, data / "images"),
            "score": ("score", data / "masks", data / "masks"),
        }
        known = {name: sorted(set(_flags(self.run(name, "--help").output)) - {"--help"}) for name in base}
        values = (*ODD_VALUES, str(made / "data"), str(made / "none"))
        for number in range(count):
            name = str(self.random.choice(list(base)))
            flag, value = str(self.random.choice(known[name])), str(self.random.choice(values))
            out = (
                ()
                if name == "score" or flag == "--out"
                else ("--out", self.fresh(f"odd{number % 4}") / "out")
            )
            ended = self.run(*base[name], *out, flag, value)
            self.report.tried[f"option of {name}"] += 1
            self.report.outcomes[f"option: ends with {ended.code}"] += 1
            self.report.check(ended, f"{name} {flag} {value!r}")


def _flags(text: str) -> Iterator[str]:
    for word in text.replace("│", " ").replace(",", " ").split():
        if word.startswith("--") and word[2:].replace("-", "").isalpha():
            yield word


def _pipes(folder: str, names: list[str]) -> list[str]:
    """What copytree must not open; the copy then lacks it, which has to be named as well."""
    return [name for name in names if not (Path(folder) / name).is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--options", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        import selflabel.cli.config.registry
        import selflabel.labeling.image
        import selflabel.training.train  # noqa: F401  (forks have them at once)

        fuzzer = Fuzzer(Path(folder), np.random.default_rng(options.seed), report)
        fuzzer.files(options.files)
        fuzzer.edits(options.edits)
        fuzzer.options(options.options)
    report.show()
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
