"""Stored labels of each image, in few bytes: to fit for an epoch, or to start the next solve from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder
from selflabel.energy import Energy
from selflabel.kinds import check_fields
from selflabel.labels import one_hot, to_index
from selflabel.training.pseudo_labels import PseudoLabels
from selflabel.training.sealed import load_sealed, save_sealed


@dataclass(frozen=True, eq=False)
class Stored:
    """The labels of one image: hard ones as an index (exact), soft ones in half precision (1e-3)."""

    labels: UInt8[Tensor, "*s"] | Float16[Tensor, "k *s"]
    pairwise: float
    entropy: float

    def plain(self) -> dict[str, Any]:
        """The fields as tensors and numbers, for files."""
        return {"labels": self.labels, "pairwise": self.pairwise, "entropy": self.entropy}


@runtime_checkable
class LabelStore(Protocol):
    """Labels by the stem of their image."""

    def put(self, stem: str, stored: Stored) -> None:
        """Keep the labels of an image; earlier ones are replaced."""

    def get(self, stem: str) -> Stored | None:
        """The labels of an image, None if there are none yet."""

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Return to the state of a checkpoint."""

    def saved(self) -> None:
        """Called when a checkpoint of the present state is on disk."""


@dataclass(frozen=True, eq=False)
class MemoryStore:
    """Labels in memory and in every checkpoint: one byte per pixel if hard, 2 K bytes if soft."""

    kept: dict[str, Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)

    def put(self, stem: str, stored: Stored) -> None:
        """Keep the labels."""
        self.kept[stem] = stored

    def get(self, stem: str) -> Stored | None:
        """The kept labels."""
        return self.kept.get(stem)

    def state(self) -> dict[str, Any]:
        """All labels."""
        return {stem: stored.plain() for stem, stored in self.kept.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Hold the labels of the checkpoint alone. Raises `ValueError` for the state of another kind of store."""
        if not all(isinstance(plain, Mapping) for plain in state.values()):
            raise ValueError(
                "expected labels in the checkpoint, got versions of files: resume with a DiskStore"
            )
        self.kept.clear()
        self.kept.update({stem: Stored(**plain) for stem, plain in state.items()})

    def saved(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, eq=False)
class DiskStore:
    """Labels in a folder, one file per image; a checkpoint holds the number of each file's valid version.

    Files are complete or absent. Replaced versions are removed when the next checkpoint is on disk, so that a run
    that was killed finds the labels of its last checkpoint.
    """

    folder: Path
    versions: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)

    def put(self, stem: str, stored: Stored) -> None:
        """Write a new version."""
        self.folder.mkdir(parents=True, exist_ok=True)
        version = self.versions.get(stem, 0) + 1
        save_sealed(self._path(stem, version), stored.plain())
        self.versions[stem] = version

    def get(self, stem: str) -> Stored | None:
        """Read the valid version. Raises `ValueError` if its file is damaged."""
        version = self.versions.get(stem)
        if version is None:
            return None
        return Stored(**load_sealed(self._path(stem, version)))

    def state(self) -> dict[str, Any]:
        """The valid versions."""
        return dict(self.versions)

    def load(self, state: Mapping[str, Any]) -> None:
        """Make the versions of a checkpoint valid.

        Raises `ValueError` if one is not in the folder, and for the state of another kind of store.
        """
        if not all(isinstance(version, int) for version in state.values()):
            raise ValueError(
                "expected versions of files in the checkpoint, got labels: resume with a MemoryStore"
            )
        for stem, version in state.items():
            if not self._path(stem, version).is_file():
                raise ValueError(
                    f"expected stored labels in {self._path(stem, version)}, which the checkpoint names: the "
                    f"folder was moved or emptied, start the run anew"
                )
        self.versions.clear()
        self.versions.update(state)

    def saved(self) -> None:
        """Remove all versions but the valid ones."""
        valid = {self._path(stem, version) for stem, version in self.versions.items()}
        for path in self.folder.glob("*.labels"):
            if path not in valid:
                path.unlink(missing_ok=True)

    def _path(self, stem: str, version: int) -> Path:
        return self.folder / f"{quote(stem, safe='')}.{version}.labels"


def packed(stems: Sequence[str], pseudo_labels: PseudoLabels) -> dict[str, Stored]:
    """The labels of a batch by stem, on the CPU."""
    return {stem: _packed(pseudo_labels, number) for number, stem in enumerate(stems)}


def _packed(pseudo_labels: PseudoLabels, number: int) -> Stored:
    labels = pseudo_labels.labels[number]
    index = to_index(labels[None])[0]
    hard = bool(torch.equal(labels, one_hot(index[None], len(labels), labels.dtype)[0]))
    small = index.to(torch.uint8) if hard else labels.half()
    return Stored(small.cpu(), float(pseudo_labels.pairwise[number]), float(pseudo_labels.entropy[number]))


def unpacked(stored: Stored, like: Float[Tensor, "k *s"], stem: str) -> Float[Tensor, "k *s"]:
    """Stored labels as distributions, of the type and on the device of `like`.

    Raises `ValueError` for labels of another size.
    """
    labels = stored.labels.to(like.device)
    shape = labels.shape if labels.dtype == torch.uint8 else labels.shape[1:]
    if shape != like.shape[1:]:
        raise ValueError(
            f"expected stored labels of {stem} of {tuple(like.shape[1:])} pixels, got {tuple(shape)}: labels "
            f"can be kept only if an image always comes in the same size and place"
        )
    if labels.dtype == torch.uint8:
        return one_hot(labels[None], len(like), like.dtype)[0]
    soft = labels.to(like.dtype)
    return soft / soft.sum(0, keepdim=True)


def starts(
    store: LabelStore,
    stems: Sequence[str],
    like: Float[Tensor, "b k *s"],
    default: Callable[[], Float[Tensor, "b k *s"]],
) -> Float[Tensor, "b k *s"] | None:
    """Starts of a solve: stored labels, or the default for images without; None if no image has stored labels."""
    found = [store.get(stem) for stem in stems]
    missing = sum(stored is None for stored in found)
    if missing == len(found):
        return None
    images = zip(stems, found, default() if missing else like, strict=True)
    return torch.stack(
        [one if stored is None else unpacked(stored, one, stem) for stem, stored, one in images]
    )


def stored_pseudo_labels(
    store: LabelStore,
    stems: Sequence[str],
    like: Float[Tensor, "b k *s"],
    energy: Energy,
    builder: AffinityBuilder,
) -> PseudoLabels:
    """The stored labels of a batch, to fit; they minimize this energy with affinities of this builder.

    Raises `ValueError` for an image that has none.
    """
    stored, missing = [], []
    for stem in stems:
        entry = store.get(stem)
        if entry is None:
            missing.append(stem)
        else:
            stored.append(entry)
    if missing:
        raise ValueError(
            f"expected stored labels of every image, got none of {', '.join(missing[:4])}: relabel first"
        )
    labels = [unpacked(x, one, stem) for x, one, stem in zip(stored, like, stems, strict=True)]
    pairwise = torch.tensor([x.pairwise for x in stored], dtype=torch.float64, device=like.device)
    entropy = torch.tensor([x.entropy for x in stored], dtype=torch.float64, device=like.device)
    return PseudoLabels(torch.stack(labels), energy, builder, pairwise, entropy, torch.zeros_like(pairwise))
