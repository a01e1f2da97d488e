"""The manifest: one JSON line for the run, one an image."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from io import FileIO
from pathlib import Path

from selflabel.files.atomic import remove_leftovers, write_atomic
from selflabel.labeling.image import Record
from selflabel.labeling.plan import Shard
from selflabel.labeling.settings import differences, fingerprint


@dataclass(frozen=True)
class Run:
    """The line of a run: the version, the arguments that decide the output, and their fingerprint.

    images, seeds, probs: where the files were. They are recorded and not compared, so that a run on one image
    of a folder and a run on all of it agree, and data may move: the bytes of the files are compared. Whether
    there are probabilities belongs to the arguments.
    """

    version: str
    arguments: Mapping[str, object]
    images: str = ""
    seeds: str = ""
    probs: str | None = None

    @property
    def fingerprint(self) -> str:
        """Differs if the version or any argument does."""
        return fingerprint({"version": self.version, "arguments": self.arguments})


class ArgumentsDiffer(ValueError):
    """The output folder holds labels made with other arguments; the message lists which."""


@dataclass
class Manifest:
    """A manifest file and what it holds: runs by fingerprint, and (fingerprint, record) by stem.

    Lines are appended as images finish; `finish` rewrites the file in order of stem, so that neither the
    order of work nor an interruption shows. The last line may be incomplete after a kill: it is left out, and
    its image is labeled again.
    """

    path: Path
    runs: dict[str, Run] = field(default_factory=dict)
    records: dict[str, tuple[str, Record]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest at `path`; an empty one if there is none.

        Raises `ValueError` for a line, other than the last, that is no line of a manifest.
        """
        manifest = cls(path)
        if not path.is_file():
            return manifest
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                manifest._take(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                if number == len(lines):  # no newline after it: the write was cut short
                    break
                raise ValueError(f"{path}, line {number} is no line of a manifest: {error}") from error
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
        line = _line({**asdict(record), "run": run.fingerprint})
        with open(self.path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                _write_through(file, line)
            except OSError:
                os.truncate(self.path, size)
                raise
        self.records[record.stem] = (run.fingerprint, record)

    def finish(self, run: Run) -> None:
        """Rewrite the file: `run` and other runs that still have records, then the records in order of
        stem.
        """
        remove_leftovers(self.path.parent, [self.path.name])
        used = {run.fingerprint} | {name for name, _ in self.records.values()}
        self.runs = {name: self.runs[name] for name in sorted(used & self.runs.keys())}
        lines = [
            {
                "run": name,
                "version": entry.version,
                "images": entry.images,
                "seeds": entry.seeds,
                "probs": entry.probs,
                "arguments": entry.arguments,
            }
            for name, entry in self.runs.items()
        ]
        lines += [{**asdict(record), "run": name} for _, (name, record) in sorted(self.records.items())]
        content = b"".join(map(_line, lines))
        if not self.path.is_file() or self.path.read_bytes() != content:
            write_atomic(self.path, lambda file: file.write(content))

    def _take(self, line: dict[str, object]) -> None:
        if "stem" not in line:
            probs = line["probs"]
            self.runs[str(line["run"])] = Run(
                version=str(line["version"]),
                arguments=dict(line["arguments"]),  # type: ignore[call-overload]
                images=str(line["images"]),
                seeds=str(line["seeds"]),
                probs=None if probs is None else str(probs),
            )
            return
        values = {f.name: line[f.name] for f in fields(Record)}
        for name in ("energy_before", "energy_after", "entropy"):
            values[name] = float("nan") if values[name] is None else values[name]
        record = Record(**{**values, "classes": tuple(line["classes"])})  # type: ignore[arg-type]
        self.records[record.stem] = (str(line["run"]), record)


def manifest_path(root: Path, part: Shard) -> Path:
    """`manifest.jsonl`, or one file for each part so that parts can run at once: `manifest.2-of-8.jsonl`."""
    return root / ("manifest.jsonl" if part.count == 1 else f"manifest.{part.index}-of-{part.count}.jsonl")


def other_manifests(root: Path, part: Shard) -> tuple[Manifest, ...]:
    """What the runs on the whole or on other parts have recorded in the same folder."""
    own = manifest_path(root, part)
    return tuple(Manifest.read(path) for path in sorted(root.glob("manifest*.jsonl")) if path != own)


def _line(values: Mapping[str, object]) -> bytes:
    text = json.dumps(_finite(values), ensure_ascii=False, allow_nan=False)
    # Bytes of a file name that are not UTF-8 are lone surrogates in Python; JSON spells one as "\\udcff", too.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(value: object) -> object:
    """JSON has no nan and no infinity: null."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _write_through(file: FileIO, data: bytes) -> None:
    while data:  # an unbuffered file may take a part only
        data = data[file.write(data) :]
    os.fsync(file.fileno())
