"""`selflabel score`: label files against true ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selflabel.cli.config.declarations import Argument, Option, option_group
from selflabel.cli.config.options import PrintingOptions

if TYPE_CHECKING:
    from selflabel.metrics.folders import FolderScore

NO_LABELS = ("confidence", "soft", "overlays")
"""Folders that `selflabel label` writes beside its labels."""


@option_group
class ScoreOptions(PrintingOptions):
    """What `selflabel score` takes."""

    pred: Annotated[Path, Argument("Folder of label files, such as OUT/labels, or one file.")]
    truth: Annotated[Path, Argument("Folder of true label files of the same stems, or one file.")]
    json_file: Annotated[Path | None, Option("Also write all numbers to this file.", flags=("--json",))] = (
        None
    )
    num_classes: Annotated[
        int | None, Option("Classes 0 .. N-1; another is an error. Default: as found.", min=1, max=255)
    ] = None
    classes: Annotated[
        Path | None, Option("Text file of class names, line 1 = class 0; sets the number of classes.")
    ] = None
    background: Annotated[bool, Option("Let class 0 take part in the means (acdc: --no-background).")] = True
    per_image: Annotated[
        bool,
        Option(
            "Means within each image, then over images, for sets whose class numbers mean something "
            "within an image only (bsds). Adds a list of images to the JSON."
        ),
    ] = False
    hd95: Annotated[bool, Option("95th percentile of the Hausdorff distance; takes the most time.")] = True
    stems: Annotated[
        Path | None,
        Option("Text file of stems, such as val.txt: compare these, and each must be there."),
    ] = None
    unlabeled: Annotated[int, Option("Value in TRUTH of pixels that do not count.", min=-1, max=65535)] = 255
    truth_offset: Annotated[int, Option("Value in TRUTH of class 0.")] = 0
    values: Annotated[
        str | None, Option("Values in TRUTH of class 0, 1, ..., such as 0,255.", shown="0,1,2,...")
    ] = None
    colors: Annotated[
        str | None, Option("File of the colors of classes, CSV or JSON, for a colored TRUTH.", metavar="FILE")
    ] = None
    pred_values: Annotated[str | None, Option("As --values, in PRED.", shown="0,1,2,...")] = None
    pred_colors: Annotated[str | None, Option("As --colors, of PRED.", metavar="FILE")] = None


def score(options: ScoreOptions) -> None:
    """Score label files: IoU and Dice of each class, their means, HD95.

    Pixels that are unlabeled in TRUTH do not count; pixels that are 255 in PRED count as wrong. IoU and Dice
    of a class are those of all images together; a class that occurs in neither folder is left out of the
    means. HD95 is in pixels, a mean over the images in which both maps have the class; how many have it in
    one only is shown, too.
    """
    from selflabel.cli import screen
    from selflabel.files.lists import read_names

    try:
        _check_folder(options.pred)
        names = read_names(options.classes) if options.classes is not None else ()
        found = _scored(options, len(names) or options.num_classes)
    except (ValueError, OSError) as error:
        inner = options.pred / "labels"
        hint = f" (the labels are in {inner})" if inner.is_dir() else ""
        raise screen.stop(f"{error}{hint}") from error
    if options.json_file is not None:
        try:
            _write_json(options.json_file, found, names, _first(options) if options.per_image else None)
        except ValueError as error:
            raise screen.stop(str(error)) from error
        except OSError as error:
            raise screen.stop(f"{options.json_file} cannot be written: {error}") from error
    _show(found, names, options.per_image, options.hd95)
    screen.left_out(found.left_out)
    for note in _notes(found, names, options.per_image):
        screen.warn(note)
    screen.failures(found.failures)
    if found.failures:
        raise typer.Exit(screen.BAD_IMAGES)


def _scored(options: ScoreOptions, num_classes: int | None) -> "FolderScore":
    from selflabel.cli import screen
    from selflabel.cli.config.label_formats import PREDICTED, TRUTH, label_format
    from selflabel.files import UNLABELED
    from selflabel.files.folders import listing
    from selflabel.files.label_files import LABEL_SUFFIXES
    from selflabel.files.lists import read_stems
    from selflabel.metrics.folders import Rules, score_folder

    rules = Rules(
        num_classes=num_classes,
        first=_first(options),
        distances=options.hd95,
        truth=label_format(options.unlabeled, options.truth_offset, options.values, options.colors, TRUTH),
        given=label_format(UNLABELED, 0, options.pred_values, options.pred_colors, PREDICTED),
    )
    stems = None
    if options.stems is not None:
        folders = (listing(path, LABEL_SUFFIXES) for path in (options.pred, options.truth))
        there = {stem for folder in folders for stem in folder.stems}
        stems = read_stems(options.stems, there, "label file")
    with screen.progress() as bar:
        task = bar.add_task("scoring", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return score_folder(options.pred, options.truth, rules, stems=stems, progress=progress)


def _check_folder(pred: Path) -> None:
    """Raise `ValueError` for a folder of `selflabel label` that does not hold its labels."""
    if pred.name in NO_LABELS and (pred.parent / "labels").is_dir():
        raise ValueError(f"{pred} holds no labels ({pred.name}): they are in {pred.parent / 'labels'}")


def _first(options: ScoreOptions) -> int:
    """The first class that takes part in means."""
    return 0 if options.background else 1


def _show(found: "FolderScore", names: tuple[str, ...], per_image: bool, hd95: bool) -> None:
    from selflabel.cli import screen

    table = screen.Table()
    table.add_column("class")
    counts = () if per_image else ("in both", "in one")
    for title in ("IoU", "Dice", *(("HD95", *counts) if hd95 else ())):
        table.add_column(title, justify="right")
    for entry in () if per_image else found.classes:
        row = [_name(entry.index, names), screen.number(entry.iou), screen.number(entry.dice)]
        if hd95:
            row += [screen.number(entry.hd95, 2), str(entry.hd95_images), str(entry.hd95_skipped)]
        table.add_row(*row)
    if not per_image:
        table.add_section()
        distance = [screen.number(found.mean_hd95, 2)] if hd95 else []
        table.add_row("mean", screen.number(found.mean_iou), screen.number(found.mean_dice), *distance)
    distance = [screen.number(found.image_hd95, 2)] if hd95 else []
    table.add_row(
        "mean within images", screen.number(found.image_iou), screen.number(found.image_dice), *distance
    )
    screen.show(table)
    screen.say(_caption(found))


def _caption(found: "FolderScore") -> str:
    text = f"{len(found.images)} images, {100 * found.accuracy:.2f} % of the pixels right"
    if found.void:
        text += f"; {100 * found.void:.2f} % of the pixels of TRUTH do not count"
    if found.unlabeled:
        text += f"; {100 * found.unlabeled:.2f} % of the counted pixels have no label, which is wrong"
    if found.missing:
        text += f"; {len(found.missing)} images of TRUTH have no labels and are left out"
    return text


def _notes(found: "FolderScore", names: tuple[str, ...], per_image: bool) -> Iterator[str]:
    """What a reader of the numbers should know, a line each."""
    from selflabel.files.folders import some

    if found.beyond and not per_image:
        listed = some([_name(number, names) for number in found.beyond])
        yield f"classes of PRED that TRUTH never has count as wrong, with IoU 0: {listed}"
    absent = [entry.index for entry in found.classes if entry.iou != entry.iou]
    if absent and not per_image:
        listed = some([_name(number, names) for number in absent])
        yield f"classes that occur in neither folder take no part in the means: {listed}"


def _name(index: int, names: tuple[str, ...]) -> str:
    return f"{index} {names[index]}" if index < len(names) else str(index)


def _write_json(path: Path, found: "FolderScore", names: tuple[str, ...], first: int | None) -> None:
    from dataclasses import asdict

    from selflabel.files.atomic import refuse_link, write_atomic
    from selflabel.metrics.confusion import mean_of_defined

    result: dict[str, object] = {
        "images": len(found.images),
        "mean_iou": found.mean_iou,
        "mean_dice": found.mean_dice,
        "mean_hd95": found.mean_hd95,
        "image_iou": found.image_iou,
        "image_dice": found.image_dice,
        "image_hd95": found.image_hd95,
        "accuracy": found.accuracy,
        "void": found.void,
        "unlabeled": found.unlabeled,
        "classes": [
            {"name": names[entry.index] if entry.index < len(names) else str(entry.index), **asdict(entry)}
            for entry in found.classes
        ],
        "missing": list(found.missing),
        "failures": [{"stem": stem, "reason": reason} for stem, reason in found.failures],
    }
    if first is not None:
        result["per_image"] = [
            {
                "stem": image.stem,
                "iou": mean_of_defined(image.iou[first:]),
                "dice": mean_of_defined(image.dice[first:]),
            }
            for image in found.images
        ]
    text = json.dumps(_without_nan(result), indent=1) + "\n"
    refuse_link(path)
    if path.exists() and not path.is_file():  # a pipe or a device, which a file must not replace
        path.write_bytes(text.encode())
    else:
        write_atomic(path, lambda file: file.write(text.encode()))


def _without_nan(value: object) -> object:
    """JSON has no nan: null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
