"""Predictions of a trained network for a folder of images, at the images' own resolution."""

import enum
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from selflabel.datasets.letterbox import Letterbox
from selflabel.datasets.samples import with_channels
from selflabel.files.atomic import refuse_existing, remove_leftovers, write_atomic
from selflabel.files.digest import digest
from selflabel.files.images import decode_image
from selflabel.files.probabilities import quantized, write_soft

MANIFEST = "predictions.jsonl"


class Precision(enum.Enum):
    """How probabilities are stored; all of these are read by `selflabel label --probs`."""

    UINT8 = "uint8"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True)
class Storage:
    """What a file of probabilities is: `labels` [k h w] and `classes` [k] as compressed npz, or a plain npy."""

    compressed: bool = True
    precision: Precision = Precision.FLOAT16

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
    """A network, and how the images it learned from were prepared (`selflabel.datasets.samples.Folder`)."""

    network: nn.Module
    channels: int
    size: int | None
    device: torch.device

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "c h w"]) -> Float32[Tensor, "k h w"]:
        """The class probabilities of an image's own pixels: softmax in the square, then `Letterbox.undo`.

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
    """What became of an image: predicted, `skipped` as done before, or failed for a `reason`."""

    stem: str
    skipped: bool = False
    reason: str | None = None


def predict_folder(
    predictor: Predictor,
    images: Mapping[str, Path],
    storage: Storage,
    out: Path,
    identity: Mapping[str, object],
    *,
    overwrite: bool = False,
) -> Generator[Prediction, None, None]:
    """Predict images (by stem) into the folder `out`; yields one outcome an image, as they come.

    `identity` says in plain values what decides the predictions; it is kept in ``out/predictions.jsonl`` with a
    line for each image that is done. An image is skipped if it has a line with the same bytes and its file is
    there. Files are complete or not there; a run that was killed goes on where it was. `overwrite` forgets what
    is done.

    Raises `ValueError` if `out` holds predictions of another identity or files that no run of ours wrote, or is the
    folder of the images, `OSError` if it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.samefile(path.parent) for path in images.values()):
        raise ValueError(f"{out} is the folder of your images: give another --out")
    if not overwrite and not (out / MANIFEST).is_file():
        refuse_existing(path(out, stem) for stem in images for path in (storage.path, storage.other_path))
    done = {} if overwrite else _read(out / MANIFEST, identity)
    remove_leftovers(out, [MANIFEST, *(storage.path(out, stem).name for stem in images)])
    lines = b"".join(_line(entry) for entry in ({"identity": identity}, *map(_entry, done.items())))
    write_atomic(out / MANIFEST, lambda file: file.write(lines))
    for stem, path in images.items():
        try:
            data = path.read_bytes()
            found = digest([data])
            if done.get(stem) == found and storage.path(out, stem).is_file():
                yield Prediction(stem, skipped=True)
                continue
            image = with_channels(decode_image(data, path.suffix), predictor.channels)
            storage.write(storage.path(out, stem), predictor(image).numpy())
            # of an overwritten run: a stem has one file
            storage.other_path(out, stem).unlink(missing_ok=True)
            with open(out / MANIFEST, "ab") as file:
                file.write(_line(_entry((stem, found))))
                file.flush()
                os.fsync(file.fileno())
        except (ValueError, OSError, SyntaxError, EOFError, RuntimeError) as error:
            # pillow raises SyntaxError for broken PNG chunks, torch RuntimeError for sizes a network cannot take
            yield Prediction(stem, reason=str(error) or type(error).__name__)
            continue
        yield Prediction(stem)


def _read(path: Path, identity: Mapping[str, object]) -> dict[str, str]:
    """Digests of the images that are done, by stem."""
    if not path.is_file():
        return {}
    done: dict[str, str] = {}
    for number, text in enumerate(path.read_bytes().split(b"\n")):
        try:
            entry = json.loads(text) if text else {}
        except ValueError:  # the last line of a run that was killed
            entry = {}
        entry = entry if isinstance(entry, dict) else {}
        if number == 0 and entry.get("identity") != json.loads(_line(dict(identity))):
            raise ValueError(
                f"{path.parent} holds predictions of another checkpoint or with other options: give another "
                f"--out, or --overwrite to predict again"
            )
        if "stem" in entry:
            done[entry["stem"]] = entry["inputs"]
    return done


def _entry(record: tuple[str, str]) -> Mapping[str, object]:
    return {"stem": record[0], "inputs": record[1]}


def _line(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry).encode("utf-8") + b"\n"
