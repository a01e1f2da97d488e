"""Predictions of a trained network for a folder of images, at the images' own resolution."""

import enum
import json
import logging
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from selflabel.datasets.channels import with_channels
from selflabel.datasets.letterbox import Letterbox
from selflabel.files.atomic import refuse_existing, remove_leftovers, write_atomic
from selflabel.files.digest import digest
from selflabel.files.images import DIM, decode_image
from selflabel.files.ledger import Entry, Ledger, encoded
from selflabel.files.lock import sole_user
from selflabel.files.number_types import quantized
from selflabel.files.opening import about, read_file
from selflabel.files.probabilities import write_soft
from selflabel.kinds import check_fields

LOG: Final = logging.getLogger(__name__)

MANIFEST = "predictions.jsonl"
REMEDY = "restore the file from a copy, or give --overwrite to predict again"


class Precision(enum.Enum):
    """The number type of stored probabilities; `selflabel label --probs` reads all of them."""

    UINT8 = "uint8"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True)
class Storage:
    """The format of probability files: `labels` [k h w] and `classes` [k] as compressed npz, or a plain npy."""

    compressed: bool = True
    precision: Precision = Precision.FLOAT16

    def __post_init__(self) -> None:
        check_fields(self)

    def path(self, folder: Path, stem: str) -> Path:
        """The file of a stem."""
        return folder / f"{stem}{'.npz' if self.compressed else '.npy'}"

    def other_path(self, folder: Path, stem: str) -> Path:
        """The file of the other format."""
        return replace(self, compressed=not self.compressed).path(folder, stem)

    def write(self, path: Path, probs: Float32[np.ndarray, "k h w"]) -> None:
        """Write the file, complete or not at all. Raises `OSError` as the file system does."""
        stored = quantized(probs) if self.precision is Precision.UINT8 else probs.astype(self.precision.value)
        if self.compressed:
            write_soft(path, stored, np.arange(len(probs)).astype(np.uint8))
        else:
            write_atomic(path, lambda file: np.save(file, stored))


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network, and the channels and size that its training images had (`selflabel.datasets.samples.Folder`)."""

    network: nn.Module
    channels: int
    size: int | None
    device: torch.device

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "c h w"]) -> Float32[Tensor, "k h w"]:
        """The class probabilities of the image's own pixels: softmax in the letterbox, then `Letterbox.undo`.

        Raises `ValueError` if the network gives anything but finite numbers.
        """
        letterbox = None if self.size is None else Letterbox(image.shape[1], image.shape[2], self.size)
        given = image if letterbox is None else letterbox.image(image)
        self.network.eval()
        logits: Tensor = self.network(given[None].to(self.device))
        probs = logits[0].float().softmax(0).cpu()
        if not torch.isfinite(probs).all():
            raise ValueError(
                "the network gives nan: it has not been trained well, or the checkpoint is damaged"
            )
        return probs if letterbox is None else letterbox.undo(probs)


@dataclass(frozen=True)
class Prediction:
    """The outcome of an image: predicted, `skipped` as done before, or failed for a `reason`.

    grayed: the network takes gray images, and this one had colors. dim: its brightest number is at most `DIM`.
    stale: why it was predicted again, where an earlier run had done it.
    """

    stem: str
    skipped: bool = False
    reason: str | None = None
    grayed: bool = False
    dim: bool = False
    stale: str | None = None


def predict_folder(
    predictor: Predictor,
    images: Mapping[str, Path],
    storage: Storage,
    out: Path,
    identity: Mapping[str, object],
    *,
    overwrite: bool = False,
) -> Generator[Prediction, None, None]:
    """Predict images (by stem) into the folder `out`; yields the outcome of each image as it is done.

    `identity`: the JSON values that decide the predictions. They are the first line of ``out/predictions.jsonl`` (a
    `Ledger`), followed by a line for each image that is done, with digests of the image and of its predictions. An
    image is skipped if it has a line and both are still the same. Files are complete or not there; a run that was
    killed goes on where it was. `overwrite` forgets what is done.

    Raises `ValueError` if `out` holds predictions of another identity, a damaged ledger or files that no run of ours
    wrote, is the folder of the images, or if another process works in it, `OSError` if it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with sole_user(out):
        yield from _predicted(predictor, images, storage, out, identity, overwrite)


def _predicted(
    predictor: Predictor,
    images: Mapping[str, Path],
    storage: Storage,
    out: Path,
    identity: Mapping[str, object],
    overwrite: bool,
) -> Generator[Prediction, None, None]:
    if any(out.samefile(path.parent) for path in images.values()):
        raise ValueError(f"{out} is the folder of your images: give another --out")
    if not overwrite and not (out / MANIFEST).is_file():
        refuse_existing(
            (path(out, stem) for stem in images for path in (storage.path, storage.other_path)),
            out / MANIFEST,
        )
    ledger = Ledger(out / MANIFEST, REMEDY)
    done = {} if overwrite else _done(ledger, identity)
    remove_leftovers(out, [storage.path(out, stem).name for stem in images])
    ledger.rewrite([{"identity": identity}, *(_entry(stem, *digests) for stem, digests in done.items())])
    for stem, path in images.items():
        target = storage.path(out, stem)
        try:
            data = read_file(path)
            found = digest([data])
            stale = _fault(done.get(stem), found, target)
            if stem in done and stale is None:
                yield Prediction(stem, skipped=True)
                continue
            with about(path):
                decoded = decode_image(data, path.suffix)
                image = with_channels(decoded, predictor.channels)
            probs = predictor(image).numpy()
        except (ValueError, RuntimeError) as error:  # RuntimeError: sizes a network cannot take
            if overwrite:  # what is there is of an earlier run
                target.unlink(missing_ok=True)
                storage.other_path(out, stem).unlink(missing_ok=True)
            yield Prediction(stem, reason=str(error) or type(error).__name__)
            continue
        storage.write(target, probs)
        # of an overwritten run: a stem has one file
        storage.other_path(out, stem).unlink(missing_ok=True)
        ledger.append(_entry(stem, found, _digest_of(target)))
        LOG.debug("%s: predicted", stem)
        yield Prediction(
            stem, grayed=decoded.shape[2] > len(image), dim=float(decoded.max()) <= DIM, stale=stale
        )


def _fault(record: tuple[str, str] | None, image: str, target: Path) -> str | None:
    """Why a record of digests does not hold any more; None if it does, or if there is none."""
    if record is None or record == (image, _digest_of(target)):
        return None
    if record[0] != image:
        return "its image is not the one that it was predicted from"
    return f"{target.name} is {'not as it was written' if target.is_file() else 'gone'}"


def _digest_of(path: Path) -> str:
    """Digest of a file of predictions; empty if there is none."""
    return digest([path.read_bytes()]) if path.is_file() else ""


def _done(ledger: Ledger, identity: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Digests of the images that are done and of their predictions, by stem; the last line of a stem counts."""
    if not os.path.lexists(ledger.path):
        return {}
    head, *records = ledger.read(_line) or [None]
    if head is None:
        raise ValueError(f"{ledger.path} is empty: expected a line that says what was predicted; {REMEDY}")
    if head != json.loads(encoded(identity)):
        raise ValueError(
            f"{ledger.path.parent} holds predictions of another checkpoint or with other options: give another "
            f"--out, or --overwrite to predict again"
        )
    found = {}
    for number, record in enumerate(records, start=2):
        if not isinstance(record, tuple):
            raise ValueError(
                f"{ledger.path}, line {number} is damaged: expected the record of an image, got a second head; "
                f"{REMEDY}"
            )
        stem, inputs, output = record
        found[stem] = (inputs, output)
    return found


def _line(entry: Mapping[str, object]) -> object:
    """The head's identity, or stem and digests of a record."""
    if "identity" in entry:
        return entry["identity"]
    record = entry["stem"], entry["inputs"], entry["output"]
    if not all(isinstance(value, str) for value in record):
        raise TypeError(f"expected texts, got {entry}")
    return record


def _entry(stem: str, inputs: str, output: str) -> Entry:
    return {"stem": stem, "inputs": inputs, "output": output}
