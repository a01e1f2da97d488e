"""All that decides which labels an image gets, and its fingerprint."""

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite

from selflabel.files import UNLABELED
from selflabel.files.label_files import VOC_FORMAT, LabelFormat
from selflabel.files.probabilities import PLAIN_FORMAT, ProbabilityFormat
from selflabel.kinds import check_fields
from selflabel.labeling.labeler import Labeler
from selflabel.terms import Coupling, Relaxation, Variation


class Soft(enum.Enum):
    """How soft labels are stored."""

    UINT8 = "uint8"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class LabelingSettings:
    """All that decides what is written for given files of an image.

    num_classes: seeds of this class or above are an error; None takes any class.
    all_classes: classes without seeds can win, too; needs probabilities.
    soft: the format of soft labels; None writes none. overlay: also write overlays.
    min_confidence: pixels below it become unlabeled (255).

    Raises `ValueError` for numbers of classes outside 1..255 and confidences outside [0, 1].
    """

    labeler: Labeler
    seeds_format: LabelFormat = VOC_FORMAT
    probs_format: ProbabilityFormat = PLAIN_FORMAT
    num_classes: int | None = None
    all_classes: bool = False
    soft: Soft | None = None
    overlay: bool = False
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_classes is not None and not 1 <= self.num_classes <= UNLABELED:
            raise ValueError(f"expected 1 to {UNLABELED} classes, got {self.num_classes}: or None for any")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"expected min_confidence in [0, 1], got {self.min_confidence}")


def describe(value: object) -> object:
    """A frozen dataclass and all within it as plain values for JSON: fields, and the class under "is".

    Fields that are not compared decide nothing, and are left out.

    Couplings and relaxations are known by their names; inf and nan, which JSON does not have, are texts. Raises
    `TypeError` for what has no description.
    """
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Coupling | Relaxation | Variation):
        return value.name
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        kind: dict[str, object] = {"is": type(value).__name__}
        return kind | {
            each.name: describe(getattr(value, each.name)) for each in fields(value) if each.compare
        }
    raise TypeError(f"{type(value).__name__} has no description for the manifest: make it a frozen dataclass")


def described(settings: LabelingSettings) -> dict[str, object]:
    """`describe` of settings, each field by its name."""
    return {entry.name: describe(getattr(settings, entry.name)) for entry in fields(settings)}


def fingerprint(arguments: Mapping[str, object]) -> str:
    """Twelve hexadecimal digits that differ if any argument does."""
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: Mapping[str, object], new: Mapping[str, object], prefix: str = "") -> tuple[str, ...]:
    """Which arguments differ, as "labeler.energy.pairwise_weight: 6.0 -> 8.0"."""
    found: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found.extend(differences(before, after, f"{prefix}{name}."))
        else:
            found.append(f"{prefix}{name}: {json.dumps(before)} -> {json.dumps(after)}")
    return tuple(found)
