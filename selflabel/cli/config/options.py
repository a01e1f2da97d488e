"""What decides a training run, in plain values: for the command line, for files, and for runs to compare."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

METHODS = ("pce", "full", "gd", "adm", "trust-region")
PARTS = ("solver", "loss", "affinity", "augment", "optimizer")
"""Whose options ``--set PART.KEY=VALUE`` sets."""


@dataclass(frozen=True)
class Options:
    """A training run, but for where its data and its outputs are; None takes what fits the method or the data.

    The names are those of the command line, which explains them.
    """

    method: str = "adm"
    loss: str | None = None
    solver: str | None = None
    set: tuple[str, ...] = ()
    weight: float | None = None
    coupling: str | None = None
    relaxation: str | None = None
    coupling_weight: float | None = None
    pairwise_weight: float | None = None
    entropy_weight: float | None = None
    affinity: str | None = None
    sigma: float | None = None
    sigma_xy: float | None = None
    neighbors: int | None = None
    radius: int | None = None
    max_steps: int | None = None
    error_probability: float | None = None
    starter: str | None = None
    present_only: bool = False
    relabel_every: int | None = None
    warm_start: bool = False
    network: str = "unet"
    pretrained: str | None = None
    size: int = 128
    channels: int | None = None
    num_classes: int | None = None
    scribbles: str = "scribbles"
    masks: str = "masks"
    augment: bool = True
    background: bool = True
    steps: int = 600
    batch: int = 12
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    power: float = 0.9
    pretrain_steps: int = 100
    warmup_steps: int = 100
    network_steps: int = 1
    average: float | None = None
    bfloat16: bool = False
    seed: int = 1
    validate_every: int = 50
    measure_every: int = 10
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"expected {name} >= {least}, got {value}")


_LEAST = {"size": 0, "channels": 1, "num_classes": 1, "batch": 1}
"""The rest is checked where it is used."""

DEFAULTS = Options()


def merged(*layers: Mapping[str, object]) -> Options:
    """Options from layers of values by name, later ones over earlier ones; lists of ``set`` are joined.

    Raises `ValueError` for numbers out of range.
    """
    options = DEFAULTS
    for layer in layers:
        given = dict(layer)
        more = given.pop("set", None)
        options = replace(options, **given)  # type: ignore[arg-type]
        if isinstance(more, tuple):
            options = replace(options, set=_joined((*options.set, *more)))
    return options


def parts(options: Options, main: str) -> dict[str, list[str]]:
    """``set`` by the part that it sets; entries without a part's name are of the part `main`."""
    found: dict[str, list[str]] = {name: [] for name in PARTS}
    for entry in options.set:
        part, dot, rest = entry.partition(".")
        named = bool(dot) and part in found
        found[part if named else main].append(rest if named else entry)
    return found


def names() -> tuple[str, ...]:
    """Of all options."""
    return tuple(entry.name for entry in fields(Options))


def _joined(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The last value of each key, in order of the keys' first places."""
    found = {entry.partition("=")[0].strip(): entry for entry in entries}
    return tuple(found.values())
