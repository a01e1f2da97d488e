"""Which files belong together: the images to label, their seeds and predictions."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selflabel.files.box_files import BOX_SUFFIXES
from selflabel.files.folders import Listing, bare, listing, some, stem_of
from selflabel.files.images import IMAGE_SUFFIXES
from selflabel.files.label_files import LABEL_SUFFIXES
from selflabel.files.probabilities import PROBABILITY_SUFFIXES
from selflabel.kinds import check_count, check_fields


@dataclass(frozen=True)
class Job:
    """One image to label, from seeds, a prediction, or both, or from boxes. stem: in the names of what is written."""

    stem: str
    image: Path
    seeds: Path | None
    probs: Path | None = None
    boxes: Path | None = None


@dataclass(frozen=True)
class Failure:
    """An image that could not be labeled, and why."""

    stem: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`: every count-th image, for runs on several machines."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        check_count(self.count, "count")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"expected the index of a part, got {self.index} of {self.count}: parts count from 0 to "
                f"{self.count - 1}"
            )


WHOLE = Shard()


@dataclass(frozen=True)
class Plan:
    """The images to label in order of stem, and those that lack a file.

    left_out: why other files do not count, a phrase a reason.
    """

    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...]
    left_out: tuple[str, ...] = ()


def make_plan(
    images: Path,
    seeds: Path | None,
    probs: Path | None = None,
    *,
    boxes: Path | None = None,
    stems: Sequence[str] | None = None,
    limit: int | None = None,
    part: Shard = WHOLE,
) -> Plan:
    """Match files by stem. `images`, `seeds`, `probs` and `boxes` are folders or files; two files always match.

    `stems` selects images, `limit` the first of them, `part` every count-th of the rest. An image without seeds
    or predictions, and two files of a kind and a stem are a failure of that image; without `seeds` images are labeled
    from their predictions alone.

    Raises `ValueError` for a path that does not exist or has no files of its kind, for `stems` that no image has, and
    if there are neither seeds nor predictions nor boxes.
    """
    if seeds is None and probs is None and boxes is None:
        raise ValueError("expected seeds, predictions (probs), or both, or boxes, got none")
    if boxes is not None and (seeds is not None or probs is not None):
        raise ValueError("expected boxes alone, got seeds or predictions (probs) as well: leave one out")
    there = listing(images, IMAGE_SUFFIXES)
    found = list(there.stems)
    if stems is not None:
        stems = [stem_of(stem) for stem in stems]
        known = frozenset(found)
        unknown = [stem for stem in stems if stem not in known]
        if unknown:
            raise ValueError(f"{len(unknown)} of {len(stems)} stems have no image in {images}: {unknown[0]}")
        found = sorted(set(stems))
    seeds_of = None if seeds is None else _Partners.of(images, seeds, LABEL_SUFFIXES, "seeds")
    probs_of = None if probs is None else _Partners.of(images, probs, PROBABILITY_SUFFIXES, "probabilities")
    boxes_of = None if boxes is None else _Partners.of(images, boxes, BOX_SUFFIXES, "boxes")
    partners = [each for each in (seeds_of, probs_of, boxes_of) if each is not None]
    chosen = found[:limit][part.index :: part.count]
    jobs: list[Job] = []
    failures: list[Failure] = []
    for stem in chosen:
        # written as the image is spelled
        name = bare(there.files[stem].name) if stem in there.files else stem
        fault = next((text for each in partners if (text := each.fault(stem)) is not None), None)
        fault = there.clash(stem) or fault
        if fault is not None:
            failures.append(Failure(name, fault))
            continue
        own, given, boxed = (
            None if each is None else each.there.files[stem] for each in (seeds_of, probs_of, boxes_of)
        )
        jobs.append(Job(name, there.files[stem], own, given, boxed))
    left_out = [*there.left_out("image"), *_not_chosen(len(there.stems), len(found), limit, part)]
    for each in partners:
        left_out += each.left_out(there.stems)
    return Plan(tuple(jobs), tuple(failures), tuple(left_out))


@dataclass(frozen=True)
class _Partners:
    """Files of a kind that belong to images. names: of all that is in the folder, in order."""

    path: Path
    kind: str
    suffixes: tuple[str, ...]
    there: Listing
    names: tuple[str, ...]

    @classmethod
    def of(cls, images: Path, path: Path, suffixes: tuple[str, ...], kind: str) -> "_Partners":
        """Those at `path`; one file alone belongs to one image alone."""
        try:
            there = listing(path, suffixes)
        except ValueError as error:
            if kind == "seeds" or not path.is_dir() or not any(path.glob("*.pt")):
                raise
            raise ValueError(
                f"{error}: files of torch are pickles and are not opened; np.save(name, tensor.numpy()) writes npy"
            ) from error
        if images.is_file() and path.is_file():
            there = Listing({stem_of(images.name): path})
        clashing = (file for several in there.clashes.values() for file in several)
        names = sorted(file.name for file in (*there.files.values(), *clashing, *there.others))
        return cls(path, kind, suffixes, there, tuple(names))

    def fault(self, stem: str) -> str | None:
        """Why an image has no such file, or several; None where it has one."""
        if stem in self.there.files:
            return None
        return self.there.clash(stem) or self._none_of(stem)

    def _none_of(self, stem: str) -> str:
        """The reason of an image without such a file, with what was perhaps meant."""
        wanted = " or ".join(stem + suffix for suffix in self.suffixes[:2])
        place = bisect_left(self.names, stem)
        near = next((name for name in self.names[place : place + 1] if name.startswith(stem)), None)
        hint = "" if near is None else f", only {near}"
        return f"no {self.kind}: {self.path} has no file named {wanted}{hint}"

    def left_out(self, images: Sequence[str]) -> tuple[str, ...]:
        """Why files of this kind do not count; nothing where one image alone is labeled. images: their stems."""
        lonely = sorted(set(self.there.stems).difference(images))
        if len(images) == 1:
            return ()
        kind = {"seeds": "label file", "boxes": "box file"}.get(self.kind, "prediction")
        others = tuple(f"{phrase} in {self.path}" for phrase in self.there.left_out(kind))
        count = f"{len(lonely)} of the {self.kind} have no image ({some(lonely)})"
        return (count, *others) if lonely else others


def _not_chosen(there: int, listed: int, limit: int | None, part: Shard) -> tuple[str, ...]:
    """How many images other arguments leave out."""
    within = listed if limit is None else min(limit, listed)
    own = len(range(part.index, within, part.count))
    counts = (
        (there - listed, "not among the stems asked for"),
        (listed - within, "beyond the limit"),
        (within - own, "of other parts"),
    )
    return tuple(f"{count} images are {why}" for count, why in counts if count)
