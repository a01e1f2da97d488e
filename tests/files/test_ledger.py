"""Ledgers: lines are whole, a last one that was cut does not count, errors say where."""

import errno
import os
import re
from pathlib import Path

import pytest

from selflabel.files.atomic import TEMPORARY_SUFFIX
from selflabel.files.ledger import Entry, Ledger


def lines_of(ledger: Ledger) -> list[dict[str, object]]:
    return ledger.read(lambda entry: entry)


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    assert lines_of(ledger) == []
    entries: list[Entry] = [{"identity": {"a": [1, 2.5, None]}}, {"stem": "ä\udcff"}, {"stem": "b"}]
    for entry in entries:
        ledger.append(entry)
    assert lines_of(ledger) == entries
    assert ledger.path.read_bytes().splitlines()[1] == '{"stem": "ä\\udcff"}'.encode()


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.append({"a": float("nan"), "b": {"c": float("-inf")}, "d": (float("inf"), 1.5)})
    assert lines_of(ledger) == [{"a": None, "b": {"c": None}, "d": [None, 1.5]}]


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("cut", ['{"stem": "b', '{"stem": "b"}', "\0\0\0"])
def test_a_last_line_that_was_cut_does_not_count_and_goes_with_the_next(
    tmp_path: Path, cut: str, flush: bool
) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.append({"stem": "a"})
    ledger.path.write_text(ledger.path.read_text() + cut)
    assert lines_of(ledger) == [{"stem": "a"}]
    ledger.append({"stem": "c"}, flush=flush)
    assert lines_of(ledger) == [{"stem": "a"}, {"stem": "c"}]
    ledger.path.write_text(cut)
    ledger.append({"stem": "c"}, flush=flush)
    assert ledger.path.read_text() == '{"stem": "c"}\n'


def stem_of(entry: dict[str, object]) -> str:
    if entry["stem"] == "?":
        raise ValueError("expected a stem, got ?")
    return str(entry["stem"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[1]", "expected a JSON object, got list"),
        ("7", "expected a JSON object, got int"),
        ('{"name": "a"}', "expected the key 'stem', got none"),
        ('{"stem": "?"}', "expected a stem, got ?"),
        ("\0", "Expecting value"),
        ('{"stem": NaN}', "NaN is no number in JSON"),
        ('{"stem": -Infinity}', "-Infinity is no number in JSON"),
        ('{"stem": "a", "n": 1, "stem": "b"}', "the key 'stem' is there twice"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"stem": ' + "9" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_a_damaged_line_is_an_error_that_says_where(tmp_path: Path, line: str, reason: str) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.path.write_text('{"stem": "a"}\n' + line + '\n{"stem": "b"}\n')
    with pytest.raises(ValueError, match=re.escape(f"{ledger.path}, line 2 is damaged: {reason}")) as caught:
        ledger.read(stem_of)
    assert str(caught.value).endswith("; restore the file from a copy")
    with pytest.raises(ValueError, match=r"; ask a friend$"):
        Ledger(ledger.path, "ask a friend").read(stem_of)


def test_bytes_that_are_no_text_are_an_error_that_says_where(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.path.write_bytes(b'{"stem": "caf\xe9"}\n')
    with pytest.raises(ValueError, match="line 1 is damaged: 'utf-8' codec can't decode"):
        ledger.read(stem_of)


def test_a_ledger_saved_by_an_editor_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.path.write_bytes(b'\xef\xbb\xbf{"stem": "a"}\r\n\r\n{"stem": "b"}\r\n')
    assert ledger.read(stem_of) == ["a", "b"]


def test_a_ledger_is_never_a_link_nor_a_folder(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text('{"stem": "a"}\n')
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.path.symlink_to(precious)
    with pytest.raises(ValueError, match="is a link"):
        ledger.read(stem_of)
    with pytest.raises(ValueError, match="is a link"):
        ledger.rewrite([])
    with pytest.raises(OSError, match="is a link: remove it, or write elsewhere"):
        ledger.append({"stem": "b"})
    with pytest.raises(OSError, match="is a link"):
        ledger.flush()
    assert precious.read_text() == '{"stem": "a"}\n'
    ledger.path.unlink()
    ledger.path.mkdir()
    with pytest.raises(ValueError, match="to be a file, got a folder"):
        ledger.read(stem_of)


@pytest.mark.parametrize("line", ["{", "7", "\0", '{"stem": "b"}more'])
def test_what_is_intact_ends_at_the_first_damaged_line(tmp_path: Path, line: str) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    assert ledger.read_intact() == []
    ledger.path.write_text('{"stem": "a"}\n' + line + '\n{"stem": "c"}\n')
    assert ledger.read_intact() == [{"stem": "a"}]


def test_a_line_that_cannot_be_flushed_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.append({"stem": "a"})

    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        ledger.append({"stem": "b"})
    assert ledger.path.read_text() == '{"stem": "a"}\n'
    ledger.append({"stem": "c"}, flush=False)
    assert lines_of(ledger) == [{"stem": "a"}, {"stem": "c"}]
    with pytest.raises(OSError, match="No space left"):
        ledger.flush()


def test_rewriting_replaces_the_file_and_what_was_left_of_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "done.jsonl")
    ledger.append({"stem": "a"})
    (tmp_path / f".done.jsonl.0.{'0f' * 8}{TEMPORARY_SUFFIX}").write_text("half")
    ledger.rewrite([{"head": 1}, {"stem": "b"}])
    assert lines_of(ledger) == [{"head": 1}, {"stem": "b"}]
    assert list(tmp_path.iterdir()) == [ledger.path]
    before = ledger.path.stat()
    ledger.rewrite([{"head": 1}, {"stem": "b"}])
    after = ledger.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
