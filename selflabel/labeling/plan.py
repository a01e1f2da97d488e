"""Which files belong together: the images to label, their seeds and predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selflabel.files.folders import by_stem
from selflabel.files.images import IMAGE_SUFFIXES
from selflabel.files.label_files import LABEL_SUFFIXES
from selflabel.files.probabilities import PROBABILITY_SUFFIXES


@dataclass(frozen=True)
class Job:
    """One image to label."""

    stem: str
    image: Path
    seeds: Path
    probs: Path | None = None


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
        if not 0 <= self.index < self.count:
            raise ValueError(f"part {self.index} of {self.count}: parts count from 0 to {self.count - 1}")


WHOLE = Shard()


@dataclass(frozen=True)
class Plan:
    """The images to label in order of stem, and those that lack a file."""

    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...]


def make_plan(
    images: Path,
    seeds: Path,
    probs: Path | None = None,
    *,
    stems: Sequence[str] | None = None,
    limit: int | None = None,
    part: Shard = WHOLE,
) -> Plan:
    """Match files by stem. `images`, `seeds` and `probs` are folders or files; two files always match.

    `stems` selects images, `limit` the first of them, `part` every count-th of the rest. An image without seeds
    or predictions is a failure of that image.

    Raises `ValueError` for a path that does not exist or has no files of its kind, for two files of one stem,
    and for `stems` that no image has.
    """
    found = by_stem(images, IMAGE_SUFFIXES)
    if stems is not None:
        unknown = [stem for stem in stems if stem not in found]
        if unknown:
            raise ValueError(f"{len(unknown)} of {len(stems)} stems have no image in {images}: {unknown[0]}")
        found = {stem: found[stem] for stem in sorted(set(stems))}
    seeds_of = _partners(images, seeds, LABEL_SUFFIXES)
    probs_of = None if probs is None else _partners(images, probs, PROBABILITY_SUFFIXES)
    chosen = list(found)[:limit][part.index :: part.count]
    jobs: list[Job] = []
    failures: list[Failure] = []
    for stem in chosen:
        if stem not in seeds_of:
            failures.append(Failure(stem, f"no seeds: {seeds} has no file named {stem}.png"))
        elif probs_of is not None and stem not in probs_of:
            failures.append(
                Failure(stem, f"no probabilities: {probs} has no file named {stem}.npz or {stem}.npy")
            )
        else:
            jobs.append(Job(stem, found[stem], seeds_of[stem], None if probs_of is None else probs_of[stem]))
    return Plan(tuple(jobs), tuple(failures))


def _partners(images: Path, path: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    partners = by_stem(path, suffixes)
    if images.is_file() and path.is_file():
        return {images.stem: path}
    return partners
