"""What users make and call: every public class and function, with values that fit each of its parameters."""

import dataclasses
import enum
import importlib
import inspect
import math
import pkgutil
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch

import selflabel
from selflabel import Energy, GridAffinity, Problem
from selflabel.affinity import Grid
from selflabel.annotators import Box
from selflabel.datasets.samples import Batch, Sample
from selflabel.labeling.presets import default_labeler
from selflabel.losses import PottsLoss
from selflabel.networks import MeanFieldLayer
from selflabel.solvers import GraphCut
from selflabel.terms import BILINEAR
from selflabel.training import InitialLabels, SelfLabeling, WeightedLoss

ROOMS = ("", ".affinity", ".annotators", ".losses", ".networks", ".solvers", ".training")
"""Packages whose public names users make and call."""

INNER = (".cli", ".kernels", ".compat", ".__main__", "_gpu")
"""Parts of names of modules that users do not import, and the interface of another package."""

RECORDS = {
    *("Checkpoint", "DenseAffinity", "Edges", "GridAffinity", "History", "Labeled", "PseudoLabels", "Scores"),
    *("Solution", "SparseNonlocalAffinity", "Step", "StepReport", "WeightedMean", "WindowAffinity"),
}
"""Made by the library; `from_image` and `from_features` are entries."""

UNSEEN = {"KeptArrays", "Pairwise", "Spelling"}
"""Records that can be made without an argument, but are the library's own."""

ELSEWHERE = {
    *(
        "advance",
        "current_process",
        "evaluate",
        "load_checkpoint",
        "load_weights",
        "process_group",
        "relabel",
        "train",
    ),
    *("check_name", "module_of", "TensorBoard", "SelfLabelingLoss.__call__"),
}
"""Functions with tests of their own: they need networks, files or processes."""

IMAGE = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(3))
LOGITS = 9 * IMAGE[:, :2] - 3
SEEDS = torch.full((1, 4, 4), 255)
SEEDS[0, 0, 0], SEEDS[0, 3, 3] = 0, 1
AFFINITY = GridAffinity.from_image(IMAGE)
NETWORK = torch.nn.Conv2d(3, 2, 1)

FITTING: dict[str, Any] = {
    "affinity": AFFINITY,
    "annotator": None,
    "axes": 2,
    "batch": 2,
    "boxes": (Box(0, 0, 1, 1),),
    "channels": 3,
    "classes": 2,
    "costs": LOGITS,
    "energy": GraphCut.default_energy,
    "features": IMAGE,
    "folder": Path("labels"),
    "frequencies": torch.tensor([0.5, 0.5]),
    "image": IMAGE,
    "images": IMAGE,
    "inner": InitialLabels(),
    "layer": MeanFieldLayer(2),
    "labeler": default_labeler(GraphCut()),
    "labels": LOGITS.softmax(1),
    "logits": LOGITS,
    "loss": PottsLoss(),
    "name": "unet:2",
    "network": NETWORK,
    "num_classes": 2,
    "objective": SelfLabeling(GraphCut.default_energy, GraphCut()),
    "optimizer": torch.optim.SGD(NETWORK.parameters(), 0.1),
    "parts": (WeightedLoss("potts", 1.0, PottsLoss()),),
    "path": Path("history.jsonl"),
    "present": torch.ones(1, 2, dtype=torch.bool),
    "probs": LOGITS.softmax(1),
    "problem": Problem.from_seeds(Energy(), SEEDS, 2, AFFINITY),
    "relaxation": BILINEAR,
    "seeds": SEEDS,
    "size": 8,
    "solver": GraphCut(),
    "stems": ("a",),
    "weight": 1.0,
}
"""A value that fits a parameter, by its name."""

OF_ONE: dict[tuple[str, str], Any] = {
    **{("Box", name): number for name, number in (("x0", 0), ("y0", 0), ("x1", 2), ("y1", 2))},
    ("box_seeds", "size"): (4, 4),
    ("Batches", "samples"): (Sample("a", IMAGE[0], SEEDS[0]),),
    ("Labeler", "affinity"): Grid(),
    ("label", "image"): IMAGE[0],
    ("label", "seeds"): SEEDS[0],
    ("label", "probs"): LOGITS[0].softmax(0),  # no annotator, which takes a second
}
"""The same where one entry means something else by the name."""

WRONG: tuple[Any, ...] = ("text", None, math.nan, math.inf, 1.5, -1, True, [1], (1,), object(), dict)

MAY_BE_NEGATIVE = {
    *(("LabelFormat", name) for name in ("offset", "unlabeled")),
    ("PartialCrossEntropy", "ignore_index"),
    ("partial_cross_entropy", "ignore_index"),
    ("Symmetry", "quarters"),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public class or function. function: what has the annotations."""

    name: str
    call: Callable[..., object]
    function: Callable[..., object]

    def __str__(self) -> str:
        return self.name

    def parameters(self) -> dict[str, Any]:
        """The kinds of its parameters by name."""
        kinds = get_type_hints(self.function)
        return {
            name: kinds[name]
            for name in inspect.signature(self.call).parameters
            if not name.startswith("_") and name in kinds
        }

    def fitting(self) -> dict[str, Any]:
        """Arguments that fit the parameters without a default. Raises `KeyError` for one that nobody thought of."""
        needed = [
            each.name
            for each in inspect.signature(self.call).parameters.values()
            if each.default is inspect.Parameter.empty and each.kind is not each.VAR_POSITIONAL
        ]
        own = {name: value for (entry, name), value in OF_ONE.items() if entry == self.name}
        return {name: FITTING[name] for name in needed if name not in own} | own


def entries() -> list[Entry]:
    """All of them, found by their names in the rooms; settings also where a room lists no names."""
    found: dict[str, Entry] = {}
    for name, value in {**dict(_listed()), **dict(_settings())}.items():
        if (
            not callable(value)
            or getattr(value, "_is_protocol", False)
            or name in RECORDS | UNSEEN | ELSEWHERE
        ):
            built = [
                each for each in ("from_image", "from_features", "from_contrast") if hasattr(value, each)
            ]
            for each in built if name in RECORDS else ():
                made = getattr(value, each)
                found[f"{name}.{each}"] = Entry(f"{name}.{each}", made, made)
        elif inspect.isclass(value):
            if not issubclass(value, Exception | enum.Enum) and _takes_something(value):
                has_fields = dataclasses.is_dataclass(value)
                found[name] = Entry(name, value, value if has_fields else value.__init__)
        elif inspect.isroutine(value):
            found[name] = Entry(name, value, value)
    return list(found.values())


def _listed() -> Iterator[tuple[str, Any]]:
    for room in ROOMS:
        module = importlib.import_module(f"selflabel{room}")
        yield from ((name, getattr(module, name)) for name in module.__all__)


def _settings() -> Iterator[tuple[str, Any]]:
    """Dataclasses that can be made without an argument, and those of labeling."""
    for found in pkgutil.walk_packages(selflabel.__path__, "selflabel."):
        if any(part in found.name for part in INNER):
            continue
        try:
            module = importlib.import_module(found.name)
        except ModuleNotFoundError as error:  # its compiled parts, where the suite runs without them
            if error.name not in ("numba", "llvmlite", "triton"):
                raise
            continue
        for name, value in vars(module).items():
            is_own = inspect.isclass(value) and value.__module__ == found.name and not name.startswith("_")
            if is_own and dataclasses.is_dataclass(value) and _is_made_of_defaults(value):
                yield name, value
    yield from ((kind.__name__, kind) for kind in (type(FITTING["labeler"]), Batch))
    yield "LabelingSettings", importlib.import_module("selflabel.labeling.settings").LabelingSettings


def _takes_something(kind: Any) -> bool:
    return any(name not in ("args", "kwargs") for name in inspect.signature(kind).parameters)


def _is_made_of_defaults(kind: Any) -> bool:
    parameters = inspect.signature(kind).parameters.values()
    return bool(parameters) and all(each.default is not inspect.Parameter.empty for each in parameters)


def may_be(value: Any, kind: Any) -> bool:
    """Does the annotation allow the value? A second opinion on `selflabel.kinds`, which also says what to do."""
    if kind is Any or kind is object:
        return True
    if get_origin(kind) in (Union, types.UnionType):
        return any(may_be(value, each) for each in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind in (int, bool, str):
        return type(value) is kind
    if kind is Path:
        return bool(value == "text")
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (tuple, Sequence):
        fits_length = len(kinds) == 1 or kinds[1:] == (...,)
        return isinstance(value, list | tuple) and fits_length and may_be(value[0], kinds[0])
    if isinstance(value, type):
        return False
    return value is None if kind is type(None) else isinstance(value, origin or kind)
