"""Arrays on their way between processes: in memory that these share, or sent."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.folders import SETTINGS, make_folders

from selflabel.labeling.engines.parcels import OPEN_FILES, Blocks, Parcel, Place
from selflabel.labeling.engines.stages import FileWork, ReadImage
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, Job

needs_shared_memory = pytest.mark.skipif(
    not OPEN_FILES.is_dir(), reason="there is no memory that processes share"
)


@pytest.fixture(params=[pytest.param(True, marks=needs_shared_memory), False])
def block(request: pytest.FixtureRequest) -> Iterator[str]:
    with closing(Blocks()) as blocks:
        yield blocks.lend() if request.param else ""


def test_a_parcel_has_what_was_packed_and_added(block: str, rng: np.random.Generator) -> None:
    first, second = rng.random((3, 5)), rng.integers(0, 255, (7,), dtype=np.uint8)
    room = {"more": Place(0, (2, 2), "<f4")}
    parcel = Parcel.pack(block, {"first": first, "second": second}, room)
    more = rng.random((2, 2)).astype(np.float32)
    there = parcel.add({"more": more}).open()
    assert np.array_equal(there["first"], first)
    assert np.array_equal(there["second"], second)
    assert np.array_equal(there["more"], more)
    assert parcel.nbytes == first.nbytes + second.nbytes + more.nbytes


@needs_shared_memory
def test_blocks_are_used_again() -> None:
    with closing(Blocks()) as blocks:
        one, two = blocks.lend(), blocks.lend()
        assert one != two
        Parcel.pack(one, {"x": np.zeros(9000)}, {})
        blocks.give_back(one)
        assert blocks.lend() == one
        Parcel.pack(one, {"x": np.ones(10)}, {})  # a block keeps its size
        assert os.stat(one).st_size == 72_000


@needs_shared_memory
def test_a_block_that_memory_is_lacking_for_fails_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    folders = make_folders(tmp_path, 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with closing(Blocks()) as blocks:
        work = FileWork(SETTINGS, OutputFolder(tmp_path / "out"))
        job = Job("a0", folders[0] / "a0.png", folders[1] / "a0.png")
        assert work(ReadImage(job, blocks.lend())) == Failure("a0", "[Errno 28] No space left on device")
