"""Probabilities, soft labels, folders, atomic writing, digests."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import BinaryIO

import numpy as np
import pytest

from selflabel import files, metrics
from selflabel.files.atomic import (
    LONGEST_NAME,
    TEMPORARY_SUFFIX,
    is_plain_file,
    refuse_existing,
    refuse_link,
    remove_leftovers,
    write_atomic,
    write_together,
)
from selflabel.files.digest import digest
from selflabel.files.folders import listing
from selflabel.files.images import decode_image
from selflabel.files.label_files import decode_index
from selflabel.files.number_types import quantized
from selflabel.files.probabilities import (
    ProbabilityFormat,
    decode_probabilities,
    read_probabilities,
    write_soft,
)

pytestmark = pytest.mark.quick

SIZE = (4, 6)
PROBS = np.random.default_rng(5127).dirichlet(np.ones(3), SIZE).transpose(2, 0, 1)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


# --- probabilities ---


@pytest.mark.parametrize(
    ("data", "suffix", "form", "error"),
    [
        (npy(PROBS), ".npy", ProbabilityFormat(), 1e-6),
        (npy(PROBS.astype(np.float16)), ".npy", ProbabilityFormat(), 1e-3),
        (npy(quantized(PROBS)), ".npy", ProbabilityFormat(), 4e-3),
        (npy(PROBS.transpose(1, 2, 0)), ".npy", ProbabilityFormat(channels_last=True), 1e-6),
        (npz(p=PROBS), ".npz", ProbabilityFormat(), 1e-6),
        (npz(p=PROBS, q=1 - PROBS), ".npz", ProbabilityFormat(key="p"), 1e-6),
    ],
)
def test_probabilities_of_every_kind(data: bytes, suffix: str, form: ProbabilityFormat, error: float) -> None:
    found = decode_probabilities(data, suffix, SIZE, form)
    assert found.classes is None
    assert found.probs.dtype == np.float32
    np.testing.assert_allclose(found.probs, PROBS, atol=error)
    np.testing.assert_allclose(found.probs.sum(0), 1, atol=1e-6)


def bad(value: float) -> np.ndarray:
    array = PROBS.copy()
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize(
    ("data", "suffix", "message"),
    [
        (npy(bad(np.nan)), ".npy", "1 of 72 probabilities are nan"),
        (npy(bad(np.inf)), ".npy", "nan or infinite"),
        (npy(PROBS * 0.9), ".npy", "sum to 1.*got a sum of 0.9"),
        (npy(np.log(PROBS)), ".npy", "logits need a softmax"),
        (npy(PROBS[:, :, :5]), ".npy", r"expected probabilities \[k h w\] for 4 x 6 pixels"),
        (npy(PROBS[0]), ".npy", "three axes"),
        (
            npy((PROBS * 100).astype(np.int32)),
            ".npy",
            r"floats, bool, uint8 \(0..255\) or uint16 \(0..65535\), got int32",
        ),
        (npz(p=PROBS, q=PROBS), ".npz", "arrays p, q: say which"),
        (npz(labels=PROBS, classes=np.arange(2)), ".npz", "2 classes for 3 rows"),
    ],
)
def test_bad_probabilities_are_refused(data: bytes, suffix: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_probabilities(data, suffix, SIZE)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no array r, only p, q"):
        decode_probabilities(npz(p=PROBS, q=PROBS), ".npz", SIZE, ProbabilityFormat(key="r"))


@pytest.mark.parametrize(("data", "suffix"), [(npz(p=PROBS)[:90], ".npz"), (b"", ".npy"), (b"", ".npz")])
def test_damaged_arrays_are_os_errors(data: bytes, suffix: str) -> None:
    with pytest.raises(OSError, match="damaged"):
        decode_probabilities(data, suffix, SIZE)


def test_pickles_are_never_loaded() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        decode_probabilities(buffer.getvalue(), ".npy", SIZE)


def test_soft_labels_are_read_back_with_their_classes_and_written_the_same_way_each_time(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.npz"
    for stored, error in ((quantized(PROBS), 4e-3), (PROBS.astype(np.float16), 1e-3)):
        write_soft(path, stored, np.array([0, 4, 9], np.uint8))
        first = path.read_bytes()
        found = read_probabilities(path, SIZE)
        np.testing.assert_allclose(found.probs, PROBS, atol=error)
        assert found.classes is not None
        assert found.classes.tolist() == [0, 4, 9]
        os.utime(path, (1, 1))
        write_soft(path, stored, np.array([0, 4, 9], np.uint8))
        assert path.read_bytes() == first


# --- folders ---


def test_files_by_stem_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.png", "c.d.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list(listing(tmp_path, (".png",)).files) == ["a", "b", "c.d"]
    assert listing(tmp_path / "a.png", (".png",)).files == {"a": tmp_path / "a.png"}


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        listing(tmp_path / "none", (".png",))
    with pytest.raises(ValueError, match=r"no files named \*\.png"):
        listing(tmp_path, (".png",))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"expected a file named \*\.png"):
        listing(tmp_path / "a.jpg", (".png",))


# --- atomic writing ---


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raising(error: BaseException) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    return write


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("no")])
def test_what_fails_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, lambda file: file.write(b"old"))
    with pytest.raises(type(error)):
        write_atomic(path, raising(error))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_is_noticed_before_the_file_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "a.bin", lambda file: file.write(b"new"))
    assert os.listdir(tmp_path) == []


def test_the_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        assert not path.exists()
        (temporary,) = os.listdir(tmp_path)
        assert temporary.startswith(f".a.bin.{os.getpid()}.")
        assert temporary.endswith(TEMPORARY_SUFFIX)

    write_atomic(path, write)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = f".{'0f' * 8}{TEMPORARY_SUFFIX}"
    kept = [
        "a.png",
        f".b.png.12{end}",
        f".a.png.x{end}",
        f"a.png.12{end}",
        f".a.png.12{TEMPORARY_SUFFIX}",
        f".a.png.12.{'xy' * 8}{TEMPORARY_SUFFIX}",
        f".a.png.12{end}.png",
        ".a.png.12",
    ]
    alive = {13, 14}

    def kill(process: int, signal: int) -> None:
        assert signal == 0
        if process == 14:
            raise PermissionError
        if process not in alive:
            raise ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)
    kept += [f".a.png.{process}{end}" for process in alive]
    gone = [f".a.png.{process}{end}" for process in (0, 12, 99999, 10**30, os.getpid())]
    for name in kept + gone:
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path, ["a.png"]) == len(gone)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    assert remove_leftovers(tmp_path / "none", ["a.png"]) == 0


def test_a_leftover_that_is_a_link_or_a_folder_leads_nowhere(tmp_path: Path) -> None:
    end = f".{'0f' * 8}{TEMPORARY_SUFFIX}"
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f".a.png.0{end}").symlink_to(tmp_path / "precious")
    (tmp_path / f".b.png.0{end}").mkdir()
    assert remove_leftovers(tmp_path, ["a.png", "b.png"]) == 1
    assert sorted(os.listdir(tmp_path)) == [f".b.png.0{end}", "precious"]


def test_files_that_belong_together_are_replaced_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_together({path: lambda file: file.write(b"old") for path in (one, two)})
    with pytest.raises(OSError, match="full"):
        write_together({one: lambda file: file.write(b"new"), two: raising(OSError(errno.ENOSPC, "full"))})
    assert one.read_bytes() == two.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_a_name_as_long_as_names_can_be_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".png")
    assert len(os.fsencode(path.name)) > LONGEST_NAME
    killed = []

    def write(file: BinaryIO) -> None:
        killed.extend(os.listdir(tmp_path))

    write_atomic(path, write)
    (tmp_path / killed[0]).touch()
    assert remove_leftovers(tmp_path, [path.name]) == 1
    assert os.listdir(tmp_path) == [path.name]


def test_temporary_files_cannot_be_foreseen_and_links_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    names = set()
    path = tmp_path / "a.bin"
    path.symlink_to(precious)
    for _ in range(3):
        write_atomic(path, lambda file: names.update(os.listdir(tmp_path)))
    assert len(names - {"a.bin", "precious"}) == 3
    assert precious.read_text() == "precious"
    assert not path.is_symlink()


def test_a_planted_temporary_file_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * (2 * count))
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / f".a.bin.{os.getpid()}.{'0' * 16}{TEMPORARY_SUFFIX}").symlink_to(precious)
    with pytest.raises(OSError, match=r"File exists: '.*a\.bin'$"):
        write_atomic(tmp_path / "a.bin", lambda file: file.write(b"new"))
    assert precious.read_text() == "precious"


@pytest.mark.skipif(os.name == "nt", reason="about modes")
def test_new_files_have_the_rights_that_the_user_gives_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a.bin", lambda file: file.write(b"new"))
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert not is_plain_file(path)
    path.touch()
    assert is_plain_file(path)
    link = tmp_path / "link"
    for target in (path, tmp_path / "none"):
        link.symlink_to(target)
        for check in (is_plain_file, refuse_link):
            with pytest.raises(ValueError, match=r"link is a link \(to .*\): remove it, or write elsewhere"):
                check(link)
        with pytest.raises(ValueError, match="link exists and is not of an earlier run"):
            refuse_existing([link], tmp_path / "manifest.jsonl")
        link.unlink()
    with pytest.raises(ValueError, match="to be a file, got a folder: remove it, or write elsewhere"):
        is_plain_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="to be a file, got a pipe or a device"):
        is_plain_file(tmp_path / "pipe")


# --- digests ---


def test_digests_tell_where_contents_end() -> None:
    some = [[b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"c", b"ab"], [b"ab", b"c", b""]]
    assert len({digest(contents) for contents in some}) == len(some)
    assert all(len(digest(contents)) == 16 for contents in some)


@pytest.mark.parametrize("data", [b"", b"no image"])
def test_files_that_are_no_images_are_refused(data: bytes) -> None:
    for decode in (decode_image, decode_index):
        with pytest.raises(OSError, match="empty or not an image"):
            decode(data, ".png")


def test_errors_of_writing_are_about_the_file_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "none" / "x.json"
    with pytest.raises(OSError, match="No such file") as caught:
        write_atomic(path, lambda file: file.write(b""))
    assert caught.value.filename == str(path)
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{path}'"
    path = tmp_path / "folder"
    (path / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="Is a directory") as caught:
        write_atomic(path, lambda file: file.write(b""))
    assert str(caught.value) == f"[Errno 21] Is a directory: '{path}'"
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(tmp_path / "y", lambda file: full_disk(file.fileno()))
    assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path / 'y'}'"
    with pytest.raises(OSError, match=r"^no image$"):
        write_atomic(tmp_path / "y", raising(OSError("no image")))


# --- imports ---


@pytest.mark.parametrize("room", [files, metrics], ids=["files", "metrics"])
def test_files_and_their_scores_do_without_torch(room: ModuleType) -> None:
    names = sorted(module.name for module in iter_modules(room.__path__))
    assert len(names) >= 3
    script = "import sys\n" + "".join(f"import {room.__name__}.{name}\n" for name in names)
    script += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe or a device: write elsewhere"):
        write_atomic(tmp_path / "pipe", lambda file: file.write(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()
