"""Files of users are opened in one place, and every failure names its file."""

import os
import pickle
import struct
import sys
import zlib
from pathlib import Path

import pytest

from selflabel.files.lists import read_lines
from selflabel.files.opening import FileError, about, read_file, read_text_file

pytestmark = pytest.mark.quick


def test_bytes_are_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\r\n\x00")
    (tmp_path / "b").symlink_to("a")
    assert read_file(tmp_path / "b") == b"\r\n\x00"


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in the file system")
def test_pipes_devices_folders_and_loops_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, message in [
        ("pipe.png", "a named pipe"),
        ("folder.png", "a folder"),
        ("loop.png", "cannot be read: Too many levels"),
        ("none.png", "cannot be read: No such file"),
    ]:
        with pytest.raises(FileError, match=f"^{tmp_path / name}:? .*{message}"):
            read_file(tmp_path / name)
    with pytest.raises(FileError, match=r"^/dev/zero: expected a file, got a device"):
        read_file(Path("/dev/zero"))
    with pytest.raises(FileError, match="a named pipe"):
        read_lines(tmp_path / "pipe.png", "expected names")


def test_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"12345")
    assert read_file(tmp_path / "a.txt", 5) == b"12345"
    with pytest.raises(FileError, match=r"a\.txt: expected at most 4 bytes, got 5"):
        read_file(tmp_path / "a.txt", 4)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="files whose size is not known in advance")
def test_files_of_unknown_size_are_read_up_to_the_limit() -> None:
    with pytest.raises(FileError, match="expected at most 16 bytes, got more"):
        read_file(Path("/proc/self/status"), 16)


def test_text_has_or_has_not_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffé".encode())
    assert read_text_file(tmp_path / "a.txt") == "é"
    (tmp_path / "a.txt").write_bytes(b"ab\xe9")
    with pytest.raises(
        FileError,
        match=r"a\.txt cannot be read: expected text in UTF-8, got the byte 0xe9 at 2: save it as UTF-8",
    ):
        read_text_file(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        OSError("bad"),
        SyntaxError("bad"),
        EOFError("bad"),
        struct.error("bad"),
        zlib.error("bad"),
        IndexError("bad"),
        KeyError("bad"),
        TypeError("bad"),
        MemoryError(),
        RecursionError("bad"),
    ],
)
def test_every_error_of_a_decoder_names_the_file(error: Exception) -> None:
    with (
        pytest.raises(FileError, match=r"^seeds a\.png( cannot be read)?: .*(bad|memory)") as caught,
        about(Path("b/a.png"), "seeds"),
    ):
        raise error
    assert caught.value.__cause__ is error
    again = pickle.loads(pickle.dumps(caught.value))  # from a worker
    assert (str(again), again.path, again.what) == (str(caught.value), Path("b/a.png"), "seeds")


def test_the_inner_file_is_the_one_that_is_named() -> None:
    with pytest.raises(FileError, match=r"^b\.png: no"), about(Path("a")), about(Path("b.png")):
        raise ValueError("no")


def test_the_end_of_the_process_is_no_error_of_a_file() -> None:
    with pytest.raises(KeyboardInterrupt), about(Path("a.png")):
        raise KeyboardInterrupt
