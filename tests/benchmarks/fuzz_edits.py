"""Edits of state files as people, editors and broken disks make them, and what a run says by its files."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np

NUMBERS = [b"-7", b"1e999", b"99999999999", b'"x"', b"null"]


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files; a link to one has its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def results(files: dict[str, bytes]) -> dict[str, object]:
    """What a run says by its files: the last record of each image, without seconds, in any order; settings likewise."""
    return {
        name: records(data)
        if name.endswith(("manifest.jsonl", "predictions.jsonl"))
        else sorted(data.splitlines())
        if name.endswith(".toml")
        else data
        for name, data in files.items()
        if not name.endswith(".elsewhere")
    }


def records(data: bytes) -> dict[str, object]:
    found: dict[str, object] = {}
    for line in data.splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            entry.pop("seconds", None)
            found[str(entry.get("stem"))] = entry
    return found


def restore(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def edit(path: Path, random: np.random.Generator) -> str:
    """Change a file as people, editors and broken disks do; what was done."""
    data = path.read_bytes()
    kinds = ["byte", "cut", "appended", "empty", "folder", "gone", "utf-16", "link"]
    if path.suffix in (".jsonl", ".toml", ".csv", ".json", ".txt"):
        kinds += ["line gone", "line twice", "lines swapped", "number", "word", "half a line", "nan"] * 2
    kind = str(random.choice(kinds))
    lines = data.splitlines(keepends=True) or [b""]
    at = int(random.integers(len(lines)))
    position = int(random.integers(max(1, len(data))))
    digits = [number for number, byte in enumerate(data) if 48 <= byte <= 57] or [0]
    digit = digits[random.integers(len(digits))]
    changed = {
        "byte": lambda: data[:position] + bytes([random.integers(256)]) + data[position + 1 :],
        "cut": lambda: data[:position],
        "appended": lambda: data + random.bytes(20),
        "empty": lambda: b"",
        "utf-16": lambda: data.decode("latin-1").encode("utf-16"),
        "line gone": lambda: b"".join(lines[:at] + lines[at + 1 :]),
        "line twice": lambda: b"".join([*lines[: at + 1], lines[at], *lines[at + 1 :]]),
        "lines swapped": lambda: b"".join([*lines[:at], *lines[at : at + 2][::-1], *lines[at + 2 :]]),
        "number": lambda: data[:digit] + random.choice(NUMBERS) + data[digit + 1 :],
        "nan": lambda: data[:digit] + b"NaN" + data[digit + 1 :],
        "word": lambda: data.replace(b"e", b"\xff", 1),
        "half a line": lambda: b"".join(lines[:at]) + lines[at][: len(lines[at]) // 2],
    }  # fmt: skip
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        other = path.with_name(f"{path.name}.elsewhere")
        other.write_bytes(data)
        path.symlink_to(other)
    elif kind != "gone":
        path.write_bytes(bytes(changed[kind]()))
    return kind
