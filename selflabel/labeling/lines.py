"""The lines of a manifest: a run, and a record of an image. Nothing is taken from a line that was damaged or edited."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from zlib import crc32

from selflabel.driver import Result
from selflabel.files import UNLABELED
from selflabel.files.ledger import Entry, encoded
from selflabel.labeling.outputs import FOLDERS
from selflabel.labeling.settings import fingerprint

MOST_PIXELS = 2**31
"""Of a side of an image; more steps than that are not taken either."""

CPU = "cpu"
"""The device of a record: this, or the name of a GPU."""

_DIGEST = re.compile(r"[0-9a-f]{16}")
_RESULTS = tuple(result.name.lower() for result in Result)


@dataclass(frozen=True)
class Run:
    """The line of a run: the version, the arguments that decide the output, and their fingerprint.

    images, seeds (or boxes), probs: where the files were. They are not compared, as data may move and a run may take a
    part of a folder; the bytes of the files are. That there are seeds and probabilities are two of the arguments.
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

    inputs: digest of the bytes of its files. outputs: digest of each file that was written, by its folder.
    classes: those that could win.
    energy_before, energy_after: energies of the start and of the labels, sums over the image.
    bound: a lower bound of the energy, if the solver has one.
    seeded, labeled: shares of the pixels. changed, changed_far: `Changes` of a given prediction. empty_boxes: how many
    boxes have no pixel of their class, if there are boxes.
    entropy: mean over pixels, in nats. brightest: the largest number of the image, in [0, 1].
    device: that solved it: `CPU`, or the name of a GPU, whose labels differ from the CPU's by rounding.
    seconds: reading and writing included; the only field that differs between two runs.
    """

    stem: str
    inputs: str
    outputs: Mapping[str, str]
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
    changed: float | None
    changed_far: float | None
    empty_boxes: int | None
    entropy: float
    brightest: float
    device: str
    seconds: float


def run_line(name: str, run: Run) -> Entry:
    """The line of a run."""
    return {"run": name, **asdict(run)}


def record_line(name: str, record: Record) -> Entry:
    """The line of an image that the run `name` labeled, with a checksum of the rest."""
    entry = {**asdict(record), "run": name}
    return {**entry, "check": _checksum(entry)}


def run_of(line: Entry) -> Run:
    """The run of a line. Raises `ValueError` if a value is not what a run writes, or does not fit the others."""
    _check_keys(line, {"run", *(each.name for each in fields(Run))})
    arguments = line["arguments"]
    if not isinstance(arguments, dict):
        raise ValueError(f"expected arguments by name, got {arguments!r}")
    run = Run(
        version=_text(line, "version"),
        arguments=arguments,
        images=_text(line, "images"),
        seeds=_text_or_none(line, "seeds"),
        probs=_text_or_none(line, "probs"),
    )
    if line["run"] != run.fingerprint:
        raise ValueError(
            f"it was edited: the digest of its version and arguments is {run.fingerprint}, not {line['run']!r}"
        )
    return run


def record_of(line: Entry) -> Record:
    """The record of a line. Raises `ValueError` if a value is not what a run writes."""
    _check_keys(line, {"run", "check", *(each.name for each in fields(Record))})
    _text(line, "run")
    record = _record(line)
    found = _checksum(line)
    if line["check"] != found:
        raise ValueError(f"it was edited: the checksum of its values is {found}, not {line['check']!r}")
    return record


def _checksum(entry: Entry) -> str:
    """Eight hexadecimal digits of a line as it is written, but for the seconds, which differ between equal runs."""
    lasting = {name: value for name, value in entry.items() if name not in ("seconds", "check")}
    return f"{crc32(encoded(lasting)):08x}"


def _record(line: Entry) -> Record:
    return Record(
        stem=_text(line, "stem"),
        inputs=_digest("inputs", line["inputs"]),
        outputs=_outputs(line["outputs"]),
        height=_whole("height", line["height"], 1, MOST_PIXELS),
        width=_whole("width", line["width"], 1, MOST_PIXELS),
        classes=_classes(line["classes"]),
        energy_before=_number_or_nan(line, "energy_before"),
        energy_after=_number_or_nan(line, "energy_after"),
        bound=None if line["bound"] is None else _number(line, "bound"),
        steps=_whole("steps", line["steps"], 0, MOST_PIXELS),
        result=_result(line["result"]),
        seeded=_number(line, "seeded", 0.0, 1.0),
        labeled=_number(line, "labeled", 0.0, 1.0),
        changed=_share_or_none(line, "changed"),
        changed_far=_share_or_none(line, "changed_far"),
        empty_boxes=None
        if line["empty_boxes"] is None
        else _whole("empty_boxes", line["empty_boxes"], 0, MOST_PIXELS),
        entropy=_number_or_nan(line, "entropy"),
        brightest=_number(line, "brightest", 0.0, 1.0),
        device=_text(line, "device"),
        seconds=_number(line, "seconds", 0.0),
    )


def _check_keys(line: Entry, wanted: set[str]) -> None:
    missing, unknown = sorted(wanted - line.keys()), sorted(line.keys() - wanted)
    if missing:
        raise KeyError(missing[0])
    if unknown:
        raise ValueError(f"there is no key {unknown[0]!r} in a line of this kind")


def _text(line: Entry, name: str) -> str:
    value = line[name]
    if not isinstance(value, str) or (name in ("stem", "run", "version", "device") and not value):
        raise ValueError(f"expected {name} as a text, got {value!r}")
    return value


def _text_or_none(line: Entry, name: str) -> str | None:
    return None if line[name] is None else _text(line, name)


def _digest(name: str, value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"expected {name} as 16 hexadecimal digits, got {value!r}")
    return value


def _outputs(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not value or not value.keys() <= set(FOLDERS):
        raise ValueError(f"expected outputs as a digest for some of {', '.join(FOLDERS)}, got {value!r}")
    return {name: _digest(f"the digest of {name}", each) for name, each in value.items()}


def _whole(name: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"expected {name} as a whole number in {least}..{most}, got {value!r}")
    return value


def _classes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected classes as a list of numbers, got {value!r}")
    classes = tuple(_whole("a class", each, 0, UNLABELED - 1) for each in value)
    if len(set(classes)) < len(classes):
        raise ValueError(f"expected each class once, got {value}")
    return classes


def _result(value: object) -> str:
    if value not in _RESULTS:
        raise ValueError(f"expected a result out of {', '.join(_RESULTS)}, got {value!r}")
    return str(value)


def _number(line: Entry, name: str, least: float = float("-inf"), most: float = float("inf")) -> float:
    value = line[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not _is_within(value, least, most):
        bounds = "" if least == float("-inf") else f" from {least:g}" if most == float("inf") else " in 0..1"
        raise ValueError(f"expected {name} as a number{bounds}, got {value!r}")
    return float(value)


def _is_within(value: int | float, least: float, most: float) -> bool:
    try:
        return isfinite(value) and least <= float(value) <= most
    except OverflowError:  # a whole number beyond all floats
        return False


def _share_or_none(line: Entry, name: str) -> float | None:
    return None if line[name] is None else _number(line, name, 0.0, 1.0)


def _number_or_nan(line: Entry, name: str) -> float:
    return float("nan") if line[name] is None else _number(line, name)
