"""The manifest: one JSON line for the run, one an image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from selflabel.files.ledger import Entry, Ledger
from selflabel.labeling.plan import Shard
from selflabel.labeling.settings import differences, fingerprint


@dataclass(frozen=True)
class Run:
    """The line of a run: the version, the arguments that decide the output, and their fingerprint.

    images, seeds, probs: where the files were. They are not compared, as data may move and a run may take a part
    of a folder; the bytes of the files are. That there are seeds and probabilities are two of the arguments.
    """

    version: str
    arguments: Mapping[str, object]
    images: str = ""
    seeds: str | None = None
    probs: str | None = None

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of the version and the arguments."""
        return fingerprint({"version": self.version, "arguments": self.arguments})


@dataclass(frozen=True)
class Record:
    """The line of an image.

    inputs: digest of the bytes of its files. classes: those that could win.
    energy_before, energy_after: energies of the start and of the labels, sums over the image.
    bound: a lower bound of the energy, if the solver has one.
    seeded, labeled: shares of the pixels. entropy: mean over pixels, in nats.
    seconds: reading and writing included; the only field that differs between two runs.
    """

    stem: str
    inputs: str
    height: int
    width: int
    classes: tuple[int, ...]
    energy_before: float
    energy_after: float
    bound: float | None
    steps: int
    result: str
    seeded: float
    labeled: float
    entropy: float
    seconds: float


class ArgumentsDiffer(ValueError):
    """The output folder holds labels made with other arguments; the message lists which."""


@dataclass
class Manifest:
    """A manifest file and what it holds: runs by fingerprint, and (fingerprint, record) by stem.

    Lines are appended as images finish; `finish` rewrites the file in order of stem, so that neither the
    order of work nor an interruption shows. A line that a kill cut short does not count: its image is labeled
    again.
    """

    path: Path
    runs: dict[str, Run] = field(default_factory=dict)
    records: dict[str, tuple[str, Record]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest at `path`; an empty one if there is none.

        Raises `ValueError` for a line that is neither a run nor a record.
        """
        manifest = cls(path)
        Ledger(path).read(manifest._take)
        return manifest

    def check(self, run: Run) -> None:
        """Raise `ArgumentsDiffer` if there are records of a run with other arguments."""
        used = {name for name, _ in self.records.values()}
        for other in self.runs.values():
            if other.fingerprint == run.fingerprint or other.fingerprint not in used:
                continue
            changed = differences(
                {"version": other.version, **other.arguments}, {"version": run.version, **run.arguments}
            )
            raise ArgumentsDiffer(
                f"{self.path.parent} holds labels made with other arguments ({'; '.join(changed)}): "
                f"give another --out, or --overwrite to label again"
            )

    def open_run(self, run: Run) -> None:
        """Make `run` the one that records are added for, and bring the file in order.

        Records of other runs stay until their image is labeled again.
        """
        self.runs[run.fingerprint] = run
        self.finish(run)

    def done(self, stem: str, run: Run) -> Record | None:
        """The record that this run has of an image."""
        name, record = self.records.get(stem, ("", None))
        return record if name == run.fingerprint else None

    def append(self, record: Record, run: Run) -> None:
        """Add a line and flush it to disk. Raises `OSError`, and then the file is as it was."""
        Ledger(self.path).append(_record_line(run.fingerprint, record))
        self.records[record.stem] = (run.fingerprint, record)

    def finish(self, run: Run) -> None:
        """Rewrite the file: `run` and other runs that still have records, then the records by stem."""
        used = {run.fingerprint} | {name for name, _ in self.records.values()}
        self.runs = {name: self.runs[name] for name in sorted(used & self.runs.keys())}
        heads = [_run_line(name, each) for name, each in self.runs.items()]
        records = [_record_line(name, record) for _, (name, record) in sorted(self.records.items())]
        Ledger(self.path).rewrite(heads + records)

    def _take(self, line: dict[str, object]) -> None:
        name = str(line["run"])
        if "stem" in line:
            record = _record_of(line)
            self.records[record.stem] = (name, record)
        else:
            self.runs[name] = _run_of(line)


def _run_line(name: str, run: Run) -> Entry:
    return {
        "run": name,
        "version": run.version,
        "images": run.images,
        "seeds": run.seeds,
        "probs": run.probs,
        "arguments": run.arguments,
    }


def _run_of(line: Entry) -> Run:
    seeds, probs = line["seeds"], line["probs"]
    return Run(
        version=str(line["version"]),
        arguments=dict(line["arguments"]),  # type: ignore[call-overload]
        images=str(line["images"]),
        seeds=None if seeds is None else str(seeds),
        probs=None if probs is None else str(probs),
    )


def _record_line(name: str, record: Record) -> Entry:
    return {**asdict(record), "run": name}


def _record_of(line: Entry) -> Record:
    values = {each.name: line[each.name] for each in fields(Record)}
    for name in ("energy_before", "energy_after", "entropy"):
        values[name] = float("nan") if values[name] is None else values[name]
    return Record(**{**values, "classes": tuple(line["classes"])})  # type: ignore[arg-type]


def manifest_path(root: Path, part: Shard) -> Path:
    """`manifest.jsonl`, or one file for each part so that parts can run at once: `manifest.2-of-8.jsonl`."""
    return root / ("manifest.jsonl" if part.count == 1 else f"manifest.{part.index}-of-{part.count}.jsonl")


def other_manifests(root: Path, part: Shard) -> tuple[Manifest, ...]:
    """The manifests of the whole and of other parts in the same folder."""
    own = manifest_path(root, part)
    return tuple(Manifest.read(path) for path in sorted(root.glob("manifest*.jsonl")) if path != own)
