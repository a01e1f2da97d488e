"""Who may write to a folder of labels: one process for the whole, or one for each part."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from selflabel.files.lock import held, is_held, refuse_held
from selflabel.labeling.manifest import manifest_path, parts_of
from selflabel.labeling.plan import Shard

OPENING = ".manifest.lock"
"""Held while manifests are compared and a run enters its line, so that one of two runs sees the other."""
OPENING_SECONDS = 60.0
"""How long another process may take for that."""


@contextlib.contextmanager
def owned(root: Path, part: Shard) -> Iterator[None]:
    """Hold the folder, made if there is none, or a part of it, until the block or the process ends.

    Forks of this process hold it, too: a worker that outlives a killed run keeps the next run out.

    Raises `Occupied` if another process holds what would get the same images: the whole and its parts exclude each
    other, and so do parts of other counts; parts of one count do not. Raises `OSError` if the folder cannot be written.
    """
    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    task = "all images" if part.count == 1 else f"part {part.index} of {part.count}"
    try:
        with contextlib.ExitStack() as locks:
            with opening(root):
                for other in _locked_parts(root):
                    if other.count != part.count:
                        refuse_held(_lock(root, other))
                locks.enter_context(held(_lock(root, part), task))
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty: labels are in it
                root.rmdir()


@contextlib.contextmanager
def opening(root: Path) -> Iterator[None]:
    """Compare and change manifests of other parts: one process at a time. Raises `Occupied` after a minute."""
    with held(root / OPENING, "opening the manifest", patience=OPENING_SECONDS):
        yield


def is_in_use(root: Path, part: Shard) -> bool:
    """True if a process holds this part, or the whole."""
    return is_held(_lock(root, part))


def refuse_in_use(root: Path, part: Shard) -> None:
    """Raise `Occupied` if a process holds this part, or the whole."""
    refuse_held(_lock(root, part))


def _lock(root: Path, part: Shard) -> Path:
    return root / f".{manifest_path(root, part).name}.lock"


def _locked_parts(root: Path) -> Iterator[Shard]:
    names = [path.name for path in root.iterdir()]
    return parts_of([name[1:-5] for name in names if name.startswith(".") and name.endswith(".lock")])
