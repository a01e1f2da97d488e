"""Runs to compare, each given as METHOD[:LOSS-or-SOLVER][,key=value...]."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selflabel.cli.config import recipes
from selflabel.cli.config.declarations import known, parsed
from selflabel.cli.config.options import METHODS, PARTS, TrainingOptions, merged

SHARED = (
    "seed",
    "network",
    "pretrained",
    "size",
    "channels",
    "num_classes",
    "batch",
    "augment",
    "masks",
    "background",
)
"""Options that all runs share: else they would not start from the same weights and see the same batches."""


@dataclass(frozen=True)
class Spec:
    """A run: its label, its options for the first seed, and the name of its folder."""

    label: str
    options: TrainingOptions
    folder: str


def spec(text: str, common: Mapping[str, object]) -> Spec:
    """The run of a text: its own options over the common ones that its method takes; ``name=...`` is its label.

    Raises `ValueError`, naming the run, for unknown names and options, and for options that all runs share.
    """
    try:
        return _spec(text, common)
    except ValueError as error:
        raise ValueError(f"run {text!r}: {error}") from error


def key_values(entries: Sequence[str]) -> dict[str, object]:
    """Options from ``key=value``: names of options of `selflabel train`, or PART.KEY of a solver, loss, ...

    Raises `ValueError` for other keys and for values of another type.
    """
    found: dict[str, object] = {}
    settings: list[str] = []
    for entry in entries:
        key, equals, text = entry.partition("=")
        key = key.strip()
        if not equals:
            raise ValueError(f"expected key=value, got {entry!r}")
        if key.partition(".")[0] in PARTS and "." in key:
            settings.append(f"{key}={text.strip()}")
            continue
        name = key.replace("-", "_")
        if name in ("set", "method"):
            raise ValueError(f"{name} is no key here: write METHOD:LOSS-or-SOLVER,solver.KEY=VALUE")
        found[name] = parsed(name, text.strip(), TrainingOptions)
    return {**found, "set": tuple(settings)} if settings else found


def check_labels(specs: Sequence[Spec]) -> None:
    """Raise `ValueError` if two runs have the same label or folder."""
    seen: dict[str, Spec] = {}
    for one in specs:
        for key in (one.label, one.folder):
            if key in seen:
                raise ValueError(f"two runs are called {key!r}: give one of them name=...")
        seen[one.label] = seen[one.folder] = one


def _spec(text: str, common: Mapping[str, object]) -> Spec:
    head, *entries = [part.strip() for part in text.split(",")]
    method, _, kind = head.partition(":")
    known("method", method, dict.fromkeys(METHODS))
    labels = [
        entry.partition("=")[2].strip() for entry in entries if entry.partition("=")[0].strip() == "name"
    ]
    entries = [entry for entry in entries if entry.partition("=")[0].strip() != "name"]
    own = key_values(entries)
    for name in own:
        if name in SHARED:
            raise ValueError(f"all runs have the same {name}: give it to all, --set {name}=...")
    settings = own.get("set", ())
    moved = (
        [entry for entry in settings if entry.startswith("augment.")] if isinstance(settings, tuple) else []
    )
    if moved:
        raise ValueError(f"all runs have the same augmentation: give it to all, --set {moved[0]}")
    if kind:
        where = {"gd": "loss", "adm": "solver", "trust-region": "solver"}.get(method)
        if where is None:
            raise ValueError(f"the method {method} takes no loss and no solver, got {kind!r}")
        own[where] = kind
    loss = own.get("loss", common.get("loss"))
    shared = recipes.fitting(common, method, None if loss is None else str(loss))
    options = merged(shared, {"method": method, **own})
    label = labels[-1] if labels else ", ".join([head, *entries])
    return Spec(label, options, re.sub(r"[^A-Za-z0-9=.+-]+", "_", label).strip("_.") or method)
