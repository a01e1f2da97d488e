"""What the command lines of the long scripts share: their options, and folders that hold the runs of one protocol."""

import argparse
import json
from collections.abc import Collection
from pathlib import Path

from selflabel.files.atomic import write_atomic


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return int(text)


def parser_of(description: str | None, *, steps: int, size: int) -> argparse.ArgumentParser:
    """DATA, --out, and the budget of each training."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="goes on with the runs that are there")
    parser.add_argument("--steps", type=count, default=steps, help=f"of each training: {steps}")
    parser.add_argument(
        "--size", type=count, default=size, help=f"pixels of a whole image's longer side: {size}"
    )
    return parser


def add_methods(parser: argparse.ArgumentParser, methods: Collection[str], seeds: int) -> None:
    """--methods and --seeds."""
    names = ", ".join(f'"{name}"' for name in methods)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(methods),
        choices=list(methods),
        metavar="METHOD",
        help=f"all, or some of {names}",
    )
    parser.add_argument("--seeds", type=count, default=seeds, help=f"how many: {seeds}")


def claim(parser: argparse.ArgumentParser, options: argparse.Namespace, *free: str) -> None:
    """Make OUT, whose runs all have these options but the free ones; stop if there are runs with others."""
    given = {
        name: str(value.resolve() if isinstance(value, Path) else value)
        for name, value in vars(options).items()
        if name not in ("out", *free)
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "options.json"
    if not file.exists():
        write_atomic(file, lambda part: part.write(json.dumps(given, indent=2).encode()))
    before = json.loads(file.read_text(encoding="utf-8"))
    names = [name for name in {**before, **given} if before.get(name) != given.get(name)]
    if names:
        said = ", ".join(f"{name} {before.get(name)} instead of {given.get(name)}" for name in names)
        parser.error(f"{options.out} holds runs with {said}: take another --out, or the same options")
