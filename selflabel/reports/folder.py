"""A labeled folder in numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selflabel.files.images import DIM
from selflabel.labeling.folder import Outcome, Skipped, Stale
from selflabel.labeling.lines import Record
from selflabel.labeling.plan import Failure


@dataclass(frozen=True)
class FolderReport:
    """labeled: records of this run. skipped: records of earlier runs. Means are over both.

    stale: images that had a record which did not hold any more; they are among the labeled and the failures.
    """

    labeled: tuple[Record, ...]
    skipped: tuple[Record, ...]
    failures: tuple[Failure, ...]
    stale: tuple[Stale, ...] = ()

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "FolderReport":
        """The report of a run, images in order of stem."""
        return cls(
            tuple(sorted((o for o in outcomes if isinstance(o, Record)), key=lambda r: r.stem)),
            tuple(sorted((o.record for o in outcomes if isinstance(o, Skipped)), key=lambda r: r.stem)),
            tuple(sorted((o for o in outcomes if isinstance(o, Failure)), key=lambda f: f.stem)),
            tuple(sorted((o for o in outcomes if isinstance(o, Stale)), key=lambda s: s.stem)),
        )

    @property
    def records(self) -> tuple[Record, ...]:
        """Records of this run and of earlier ones."""
        return self.labeled + self.skipped

    @property
    def devices(self) -> Mapping[str, int]:
        """How many images each device solved, by its name."""
        return Counter(sorted(record.device for record in self.records))

    @property
    def changed(self) -> float | None:
        """The share of predicted labels that were changed, mean over the images; None without predictions."""
        shares = [record.changed for record in self.records if record.changed is not None]
        return self.mean(shares) if shares else None

    @property
    def changed_far(self) -> float:
        """The share of the changed labels, of all images, that is far from what is left of their class."""
        far = total = 0.0
        for record in self.records:
            changed = (record.changed or 0.0) * record.height * record.width
            total += changed
            far += changed * (record.changed_far or 0.0)
        return far / total if total else 0.0

    @property
    def dim(self) -> tuple[str, ...]:
        """Stems of the images whose brightest number is at most `DIM`."""
        return tuple(record.stem for record in self.records if record.brightest <= DIM)

    @property
    def of_one_class(self) -> tuple[str, ...]:
        """Stems of the images that are whole of one class, as only that one has seeds there."""
        alone = (record for record in self.records if len(record.classes) == 1)
        return tuple(record.stem for record in alone if 0 < record.seeded < 1)

    @property
    def empty_boxes(self) -> Mapping[str, int]:
        """How many boxes have no pixel of their class, by the stem of the image; those without such boxes left out."""
        return {record.stem: record.empty_boxes for record in self.records if record.empty_boxes}

    @property
    def classes(self) -> frozenset[int]:
        """The classes that could win in any of the images."""
        return frozenset(number for record in self.records for number in record.classes)

    def per_pixel(self, before: bool) -> float:
        """Energy per pixel of the start (`before`) or of the labels, over all images."""
        total = sum(r.energy_before if before else r.energy_after for r in self.records)
        pixels = sum(r.height * r.width for r in self.records)
        return total / pixels if pixels else float("nan")

    def mean(self, values: Sequence[float | int]) -> float:
        """The mean of the values; nan if there is none."""
        return sum(values) / len(values) if values else float("nan")
