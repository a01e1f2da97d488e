"""The files of a run in its folder, and the checkpoint that it goes on from."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from selflabel.training.checkpoint import BEST, LAST, Checkpoint, load_checkpoint
from selflabel.training.history import CSV, LINES
from selflabel.training.settings import TrainingSettings

LOG: Final = logging.getLogger(__name__)

FILES = (LAST, BEST, LINES, CSV)
"""What a run writes into its folder."""

ANY_TIME = ("checkpoint_every", "workers", "read_every")
"""Settings that may differ in a resumed run: they change no number."""


def files_of_run(out: Path) -> list[str]:
    """Those of `FILES` that are in a folder."""
    return [name for name in FILES if (out / name).exists()]


def plain(about: Mapping[str, Any]) -> dict[str, Any]:
    """The values as a checkpoint holds them. Raises `ValueError` if they are not JSON values."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(about))
    except TypeError as error:
        raise ValueError(f"expected JSON values in `about`, got {about!r}: {error}") from error
    return found


def last_checkpoint(
    out: Path, settings: TrainingSettings, about: Mapping[str, Any], columns: tuple[str, ...]
) -> Checkpoint | None:
    """The checkpoint that a run in this folder goes on from, None if there is none, on the CPU.

    Logs a warning if the best weights are gone. Raises `ValueError` if it is of other settings, another `about` (of
    `plain`) or another history.
    """
    if not (out / LAST).exists():
        return None
    checkpoint = load_checkpoint(out / LAST)
    now = settings.plain()
    changed = [name for name in now if name not in ANY_TIME and checkpoint.settings.get(name) != now[name]]
    if tuple(checkpoint.columns) != columns:
        changed.append("the terms of the objective, or the number of classes")
    if checkpoint.about != about:
        changed += [
            key for key in {**checkpoint.about, **about} if checkpoint.about.get(key) != about.get(key)
        ]
    if changed:
        raise ValueError(
            f"the run in {out} was made with other settings ({', '.join(changed)}): resume it with its own, or "
            f"choose another folder"
        )
    if lacks_best(out, checkpoint):
        LOG.warning(
            "%s is gone, which held the best weights so far (Dice %.3f): it is written again at a better score only: "
            "put a copy of it back, or start the run anew in another folder",
            out / BEST,
            checkpoint.best,
        )
    return checkpoint


def lacks_best(out: Path, checkpoint: Checkpoint) -> bool:
    """Whether the best weights of a run were written and are gone."""
    return checkpoint.best is not None and not (out / BEST).is_file()
