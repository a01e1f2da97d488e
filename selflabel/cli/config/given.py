"""Options of a training run from the command line and a file."""

from collections.abc import Mapping
from pathlib import Path

from selflabel.cli.config.options import Options, merged, names
from selflabel.cli.config.toml import read_config


def from_arguments(arguments: Mapping[str, object], config: Path | None) -> Options:
    """The options given on the command line over those of the file over the defaults.

    Raises `ValueError` for what is wrong with either.
    """
    given = {name: arguments["set_" if name == "set" else name] for name in names()}
    file = {} if config is None else read_config(config, Options)
    return merged(file, {name: _plain(value) for name, value in given.items() if value is not None})


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
