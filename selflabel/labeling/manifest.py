"""The manifest: one JSON line for the run, one an image."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from selflabel.files.ledger import Ledger
from selflabel.labeling.lines import Record, Run, record_line, record_of, run_line, run_of
from selflabel.labeling.plan import Shard
from selflabel.labeling.settings import differences

REMEDY = (
    "restore the file, or delete the line (an image without a line is labeled again), or give another --out"
)

_NAME = re.compile(r"manifest(?:\.(\d{1,9})-of-(\d{1,9}))?\.jsonl")


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

        Raises `ValueError`, with file, line and remedy, for a line that is neither a run nor a record, for an image or
        a run that is there twice, for a record whose run is not there, and for a path that is a link or no file.
        """
        manifest = cls(path)
        Ledger(path, REMEDY).read(manifest._take)
        return manifest

    def check(self, run: Run, *, in_use: bool = False, overwrite: bool = False) -> None:
        """Raise `ArgumentsDiffer` if there are records of a run with other arguments.

        overwrite: these may be replaced. in_use: another process adds records, so its run counts whatever is there.
        """
        used = set() if overwrite else {name for name, _ in self.records.values()}
        for other in self.runs.values():
            if other.fingerprint == run.fingerprint or not (in_use or other.fingerprint in used):
                continue
            changed = differences(
                {"version": other.version, **other.arguments}, {"version": run.version, **run.arguments}
            )
            remedy = "wait for it to end, or give another --out" if in_use else "--overwrite to label again"
            what = "gets labels from another process" if in_use else "holds labels made"
            raise ArgumentsDiffer(
                f"{self.path.parent} {what} with other arguments ({'; '.join(changed)}): "
                f"{remedy if in_use else f'give another --out, or {remedy}'}"
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
        Ledger(self.path).append(record_line(run.fingerprint, record))
        self.records[record.stem] = (run.fingerprint, record)

    def forget(self, stems: Collection[str], run: Run | None = None) -> None:
        """Remove the records of images before their files are replaced: a kill leaves no record of other files.

        `run` stays, whatever is left. Raises `OSError` as the file system does.
        """
        known = [stem for stem in stems if stem in self.records]
        for stem in known:
            del self.records[stem]
        if known:
            self.finish(run)

    def finish(self, run: Run | None = None) -> None:
        """Rewrite the file: `run` and other runs that still have records, then the records by stem."""
        used = {name for name, _ in self.records.values()} | ({run.fingerprint} if run else set())
        self.runs = {name: self.runs[name] for name in sorted(used & self.runs.keys())}
        heads = [run_line(name, each) for name, each in self.runs.items()]
        records = [record_line(name, record) for _, (name, record) in sorted(self.records.items())]
        Ledger(self.path).rewrite(heads + records)

    def _take(self, line: dict[str, object]) -> None:
        name = str(line["run"])
        if line.keys() & {"version", "arguments"}:
            if name in self.runs:
                raise ValueError(f"run {name} is there twice")
            self.runs[name] = run_of(line)
            return
        record = record_of(line)
        if record.stem in self.records:
            raise ValueError(f"image {record.stem!r} is there twice")
        if name not in self.runs:
            raise ValueError(f"there is no line of run {name} before it")
        self.records[record.stem] = (name, record)


def manifest_path(root: Path, part: Shard) -> Path:
    """`manifest.jsonl`, or one file for each part so that parts can run at once: `manifest.2-of-8.jsonl`."""
    return root / ("manifest.jsonl" if part.count == 1 else f"manifest.{part.index}-of-{part.count}.jsonl")


def parts_of(names: Collection[str]) -> Iterator[Shard]:
    """The parts whose manifests bear these names, in order; the whole is one. Other names are passed over."""
    for name in sorted(names):
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        index, count = (0, 1) if found[1] is None else (int(found[1]), int(found[2]))
        if index < count and manifest_path(Path(), Shard(index, count)).name == name:
            yield Shard(index, count)


def other_manifests(root: Path, part: Shard) -> dict[Shard, Manifest]:
    """The manifests of the whole and of other parts in the same folder."""
    there = parts_of([path.name for path in root.iterdir()])
    return {other: Manifest.read(manifest_path(root, other)) for other in there if other != part}
