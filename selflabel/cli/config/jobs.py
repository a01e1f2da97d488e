"""Training jobs: all that a run needs, from its options and its data folder."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn

from selflabel.cli.config import recipes, registry
from selflabel.cli.config.declarations import known
from selflabel.cli.config.label_formats import MASKS, label_format
from selflabel.cli.config.options import PARTS, TrainingOptions, by_part
from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Folder, read_split
from selflabel.datasets.supervision import SCRIBBLES, Supervision
from selflabel.files.folders import has_all
from selflabel.files.label_files import LABEL_SUFFIXES
from selflabel.files.lists import read_names, read_stems
from selflabel.kernels.memory import require_memory
from selflabel.labels import UNLABELED
from selflabel.networks import check_name, network
from selflabel.training.batches import Batches
from selflabel.training.monitor import Monitor
from selflabel.training.objectives import Objective
from selflabel.training.schedule import SGD, AdamW, OptimizerFactory
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.settings import TrainingSettings

OPTIMIZERS: dict[str, type[OptimizerFactory]] = {"adamw": AdamW, "sgd": SGD}
KEPT_BYTES = 2**32
"""Bytes of images kept in memory at most; larger data sets are read again for each batch, validation images first."""
LEAST_SIZE = 8
"""Side in pixels of the smallest square that images are resized to: half of what the U-Net divides sides by."""
LAYOUT = (
    "expected a folder with images/, scribbles/, train.txt (a stem a line), classes.txt (a name a line) and, to "
    "validate, val.txt and masks/"
)


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """A run that is ready to start.

    options: resolved, those of the data filled in. class_names: from classes.txt, or the numbers. gray: how many of
    all images are gray; where `channels` is 3, how many are stored in one channel.
    """

    options: TrainingOptions
    batches: Batches
    objective: Objective
    settings: TrainingSettings
    monitor: Monitor | None
    class_names: tuple[str, ...]
    gray: int = 0

    def network(self) -> nn.Module:
        """A new network, its weights drawn from the seed alone."""
        return new_network(self.options)

    @property
    def folders(self) -> tuple[Folder, ...]:
        """The training images, and those to validate with, if any."""
        return tuple(x for x in (self.batches.samples, self.batches.held_out) if isinstance(x, Folder))

    @property
    def data(self) -> dict[str, object]:
        """Identity of the data set: numbers of images, and digests of their files."""
        counts = [*map(len, self.folders), 0][:2]
        return {"train": counts[0], "val": counts[1], "files": [folder.digest for folder in self.folders]}


def prepare(
    root: Path, options: TrainingOptions, monitor: Monitor | None = None, others: Sequence[TrainingJob] = ()
) -> TrainingJob:
    """Find the data, fill in what the options leave to it, and check that everything fits.

    `monitor` takes the place of the method's own. `others`: jobs to share images in memory with.
    Raises `ValueError` for unknown names, options without effect, missing files, and solvers that cannot minimize
    the energy.
    """
    objective = recipes.objective(options)
    monitor = recipes.monitor(options) if monitor is None else monitor
    check_name(options.network, options.pretrained)
    _check_size(options.size)
    _check_root(root)
    augmentation, settings = _augmentation(options), _settings(options)
    class_names = _class_names(root, options)
    train = _training_folder(root, options, len(class_names))
    if options.batch > 1:
        train.check_one_size()
    held_out = _validation_folder(root, options, train)
    folders = [train] if held_out is None else [train, held_out]
    channels, gray = _channels(options, folders)
    if options.size:
        require_memory(
            options.batch * options.size**2 * (4 * channels + 2 * 8),
            f"a batch of {options.batch} images of {options.size} x {options.size} pixels",
            "lower --batch or --size",
        )
    *_, needed = needs = [size * (4 * channels + 2) for size in accumulate(one.pixels for one in folders)]
    train = replace(train, channels=channels, cache=needs[0] <= KEPT_BYTES)
    held_out = None if held_out is None else replace(held_out, channels=channels, cache=needed <= KEPT_BYTES)
    there = [folder for job in others for folder in job.folders]
    options = replace(options, num_classes=len(class_names), channels=channels)
    batches = Batches(
        samples=_same(train, there),
        classes=len(class_names),
        batch=options.batch,
        seed=options.seed,
        augmentation=augmentation,
        held_out=None if held_out is None else _same(held_out, there),
        held_out_batch=options.batch if options.size else 1,
    )
    if isinstance(objective, SelfLabeling):
        objective.check(len(class_names))
        _check_fixed(options, batches)
    return TrainingJob(options, batches, objective, settings, monitor, class_names, gray)


def new_network(options: TrainingOptions, loaded: bool = True) -> nn.Module:
    """The network of resolved options, its weights drawn from the seed alone.

    loaded: False if a checkpoint is to be loaded over them. A ``package.module:factory`` may lie in the working
    directory. Raises `ValueError` and `ImportError` as `selflabel.networks.network` does.
    """
    if ":" in options.network and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    assert options.channels is not None
    assert options.num_classes is not None
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        return network(
            options.network,
            options.channels,
            options.num_classes,
            options.size or None,
            pretrained=options.pretrained,
            loaded=loaded,
        )


def _channels(options: TrainingOptions, folders: Sequence[Folder]) -> tuple[int, int]:
    """The number of channels, and how many images are gray (`TrainingJob`)."""
    stored_gray, images = sum(len(folder.gray) for folder in folders), sum(map(len, folders))
    if options.channels == 3:
        return 3, stored_gray
    if options.channels == 1:
        return 1, images - sum(len(list(folder.colored())) for folder in folders)
    colors = any(True for folder in folders for _ in folder.colored())
    return (3, stored_gray) if colors else (1, images)


def _check_size(size: int) -> None:
    if 0 < size < LEAST_SIZE:
        raise ValueError(
            f"expected --size {LEAST_SIZE} or more pixels (or 0: images as they are), got {size}: nothing can be seen "
            f"in images of {size} x {size}"
        )


def _check_root(root: Path) -> None:
    """Raise `ValueError` unless the folder looks like a data set."""
    if not root.is_dir():
        raise ValueError(
            f"{root}: {'it is no folder' if root.exists() else 'there is no such folder'}: {LAYOUT}"
        )
    if not (root / "images").is_dir():
        raise ValueError(f"{root} has no folder images: {LAYOUT}")


def _class_names(root: Path, options: TrainingOptions) -> tuple[str, ...]:
    path = root / "classes.txt"
    found = read_names(path) if path.is_file() else ()
    if options.num_classes is None:
        if not found:
            raise ValueError(f"there is no {path}: write a line for each class there, or give --num-classes")
        return found
    if found and len(found) != options.num_classes <= UNLABELED:
        raise ValueError(
            f"{path} names {len(found)} classes, --num-classes is {options.num_classes}: leave the option out, or "
            f"change the file"
        )
    return found if len(found) == options.num_classes else tuple(map(str, range(options.num_classes)))


def _training_folder(root: Path, options: TrainingOptions, classes: int) -> Folder:
    full = options.method == "full"
    stems = read_split(root, "train")
    scribbles: str | None = options.scribbles
    # read with full masks, too, if all are there: the seeds' part of the objectives is measured for every method
    if full and not has_all(root / options.scribbles, LABEL_SUFFIXES, stems):
        scribbles = None
    supervision = _supervision(root, options, stems)
    if not full:
        _check_supervision(root, options, supervision)
    return Folder(
        root,
        stems,
        classes,
        size=options.size or None,
        channels=options.channels,
        scribbles=scribbles,
        masks=options.masks if full else None,
        scribbles_format=label_format(
            options.unlabeled, options.seeds_offset, options.values, options.colors
        ),
        masks_format=label_format(
            options.masks_unlabeled,
            options.masks_offset,
            options.masks_values,
            options.masks_colors,
            MASKS,
        ),
        supervision=supervision,
    )


def _supervision(root: Path, options: TrainingOptions, stems: Sequence[str]) -> Supervision:
    """Raises `ValueError` for lists that name no training image."""

    def listed(name: str | None) -> frozenset[str]:
        return frozenset() if name is None else frozenset(read_stems(root / name, stems, "training image"))

    return Supervision(
        options.curated, listed(options.full_stems), listed(options.unlabeled_stems), options.masks
    )


def _check_supervision(root: Path, options: TrainingOptions, supervision: Supervision) -> None:
    """Raise `ValueError` if masks are needed that are not there."""
    if (supervision.curated or supervision.full) and not (root / options.masks).is_dir():
        flag = "--curated" if supervision.curated else "--full-stems"
        raise ValueError(f"{flag} needs masks, and there is no {root / options.masks}: name it with --masks")


def _validation_folder(root: Path, options: TrainingOptions, train: Folder) -> Folder | None:
    """None where there is no val.txt. Raises `ValueError` where there is one, but no masks."""
    if not (root / "val.txt").is_file():
        return None
    if not (root / options.masks).is_dir():
        raise ValueError(
            f"there is no {root / options.masks} to validate with: name the folder with --masks, or take "
            f"{root / 'val.txt'} away to train without validation"
        )
    return replace(
        train,
        stems=read_split(root, "val"),
        scribbles=None,
        masks=options.masks,
        supervision=SCRIBBLES,
    )


def _same(folder: Folder, there: Sequence[Folder]) -> Folder:
    """The folder of `there` that reads the same files in the same way, else this one."""

    def settings(one: Folder) -> list[object]:
        return [getattr(one, entry.name) for entry in fields(one) if entry.init]

    return next((other for other in there if settings(other) == settings(folder)), folder)


def _augmentation(options: TrainingOptions) -> Augmentation | None:
    given = by_part(options.set, PARTS, "solver")["augment"]
    if not options.augment:
        if given:
            raise ValueError(f"without augmentation there is no augment.{given[0]} to set")
        return None
    return registry.configured(Augmentation(), given)


def _check_fixed(options: TrainingOptions, batches: Batches) -> None:
    """Raise `ValueError` if labels are to be kept of images that augmentations move."""
    flags = {"--relabel-every": options.relabel_every is not None, "--warm-start": options.warm_start}
    kept = [flag for flag, is_given in flags.items() if is_given]
    if kept and not batches.fixed:
        raise ValueError(
            f"{kept[0]} needs images that stay where they are, got augmentations that move them: add --no-augment, or "
            f"leave {kept[0]} out"
        )


def _settings(options: TrainingOptions) -> TrainingSettings:
    own = by_part(options.set, PARTS, "solver")["optimizer"]
    optimizer = registry.configured(known("optimizer", options.optimizer, OPTIMIZERS)(), own)
    # the papers' methods start from the seeds; those without labels or regularizers have no such phase
    alone = options.method in ("pce", "full")
    if not alone and options.steps <= options.pretrain_steps:
        raise ValueError(
            f"expected more steps than the {options.pretrain_steps} on the seeds alone, got {options.steps}: "
            f"raise --steps or lower --pretrain-steps"
        )
    return TrainingSettings(
        steps=options.steps,
        pretrain_steps=0 if alone else options.pretrain_steps,
        warmup_steps=0 if alone else options.warmup_steps,
        learning_rate=options.learning_rate,
        new_layers_rate=options.new_layers_rate,
        power=options.power,
        optimizer=optimizer,
        network_steps=options.network_steps,
        relabel_every=options.relabel_every,
        warm_start=options.warm_start,
        validate_every=options.validate_every,
        measure_every=options.measure_every,
        checkpoint_every=options.checkpoint_every,
        first_scored=0 if options.background else 1,
        average=options.average,
        bfloat16=options.bfloat16,
        seed=options.seed,
        workers=options.workers or 0,
    )


def described(job: TrainingJob, root: Path) -> Mapping[str, object]:
    """The data of a run, stored beside its options: for people, and to refuse another data set."""
    return {"folder": str(root.resolve()), **job.data, "classes": list(job.class_names)}
