"""`selflabel predict`: a trained network to files of probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selflabel.cli.config.declarations import Argument, Option, known, option_group
from selflabel.cli.config.options import AllowCode, Device, PrintingOptions, Stems

if TYPE_CHECKING:
    from selflabel.training.predict import Predictor, Storage


@option_group
class PredictOptions(PrintingOptions):
    """What `selflabel predict` takes."""

    run: Annotated[Path, Argument("Folder of a run of `selflabel train`.")]
    images: Annotated[Path, Argument("Folder of images, or one image.")]
    out: Annotated[Path, Option("Folder to write to.")]
    checkpoint: Annotated[str, Option("best, last or auto: best if there is one.")] = "auto"
    stems: Stems = None
    file_format: Annotated[str, Option("npz or npy.", flags=("--format",))] = "npz"
    precision: Annotated[str, Option("uint8, float16 or float32.")] = "float16"
    overwrite: Annotated[bool, Option("Predict again what is done already.")] = False
    allow_code: AllowCode = False
    device: Device = "auto"


def predict(options: PredictOptions) -> None:
    """Predict class probabilities for images with a trained network.

    Writes OUT/STEM.npz (or .npy), [k h w] at the image's own resolution: what `selflabel label --probs OUT` reads.
    OUT/predictions.jsonl says what is done: it is skipped when the command runs again. Images that cannot be
    predicted are listed at the end, and the exit code is 1 then.
    """
    from selflabel.cli import run_folder, screen

    try:
        run_folder.check_there(options.run)
        if options.out.is_dir() and options.out.samefile(options.run):
            raise ValueError(f"{options.out} is the folder of the run: give another --out")
        weights = _weights(options.run, options.checkpoint)
        images, clashes, left_out = _images(options.images, options.stems)
        storage = _storage(options)
        predictor, step = _predictor(options, weights)
    except (ValueError, OSError, ImportError) as error:
        raise screen.stop(str(error)) from error
    identity = _identity(options, predictor, weights, step)
    done = _Done(len(clashes), failures=list(clashes))
    _predict_all(predictor, images, storage, identity, options, done)
    if not screen.is_quiet():
        screen.say(
            f"{done.count - done.skipped - len(done.failures)} predicted, {done.skipped} done before: {options.out} "
            f"({weights}, step {step})"
        )
    if left_out:
        screen.note(f"left out of {options.images}: {'; '.join(left_out)}")
    if done.grayed:
        had = "image has colors, which" if done.grayed == 1 else "images have colors, which"
        screen.warn(f"{done.grayed} {had} became gray: the run is one of gray images")
    screen.dim(done.dim)
    screen.listed("predicted again", done.stale, "yellow")
    screen.failures(done.failures)
    if done.failures:
        raise typer.Exit(screen.BAD_IMAGES)


@dataclass
class _Done:
    """What became of the images so far; failures: stems and reasons."""

    count: int = 0
    skipped: int = 0
    grayed: int = 0
    dim: list[str] = field(default_factory=list)
    stale: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def _predict_all(
    predictor: "Predictor",
    images: Mapping[str, Path],
    storage: "Storage",
    identity: Mapping[str, object],
    options: PredictOptions,
    done: _Done,
) -> None:
    """Predict, and add to what is done."""
    from selflabel.cli import screen
    from selflabel.training.predict import predict_folder

    out, total = options.out, len(images) + done.count
    try:
        with screen.progress() as bar:
            task = bar.add_task("predicting", total=total, completed=done.count)
            for outcome in predict_folder(
                predictor, images, storage, out, identity, overwrite=options.overwrite
            ):
                done.skipped += outcome.skipped
                done.grayed += outcome.grayed
                done.dim += [outcome.stem] if outcome.dim else []
                done.stale += [] if outcome.stale is None else [(outcome.stem, outcome.stale)]
                if outcome.reason is not None:
                    done.failures.append((outcome.stem, outcome.reason))
                done.count += 1
                bar.update(task, completed=done.count)
    except ValueError as error:
        raise screen.stop(str(error)) from error
    except OSError as error:
        screen.failures(done.failures)
        code = screen.BAD_IMAGES if done.count else screen.BAD_USE
        raise screen.stop(f"{out} cannot be written: {error}", code) from error
    except KeyboardInterrupt:
        screen.failures(done.failures)
        left = total - done.count
        raise screen.interrupted(f" with {left} images left: the same command goes on") from None


def _predictor(options: PredictOptions, weights: Path) -> "tuple[Predictor, int]":
    """The network with its weights on the device, and the step that these are of.

    Raises `ValueError` for a network of other people's code without ``--allow-code``.
    """
    import torch

    from selflabel.cli import run_folder, running, screen
    from selflabel.cli.config.jobs import new_network
    from selflabel.training.checkpoint import BEST, LAST, load_checkpoint, load_state
    from selflabel.training.predict import Predictor
    from selflabel.training.resume import lacks_best

    device = running.device(options.device, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    checkpoint = load_checkpoint(weights, device)
    if options.checkpoint == "auto" and lacks_best(options.run, checkpoint):
        screen.warn(
            f"{options.run / BEST} is gone, which held the best weights (Dice {checkpoint.best:.3f}): {LAST} is taken, "
            f"the weights of step {checkpoint.step}; --checkpoint last says that they are meant"
        )
    trained = run_folder.stored_options(options.run, checkpoint.about, weights)
    run_folder.check_code(trained.network, f"the run in {options.run}", options.allow_code)
    network = new_network(trained, loaded=False)
    load_state(network, checkpoint.network if checkpoint.average is None else checkpoint.average, weights)
    assert trained.channels is not None
    return Predictor(network.to(device), trained.channels, trained.size or None, device), checkpoint.step


def _storage(options: PredictOptions) -> "Storage":
    from selflabel.training.predict import Precision, Storage

    return Storage(
        known("format", options.file_format, {"npz": True, "npy": False}),
        known("precision", options.precision, {kind.value: kind for kind in Precision}),
    )


def _identity(
    options: PredictOptions, predictor: "Predictor", weights: Path, step: int
) -> Mapping[str, object]:
    """What tells predictions apart: those of another identity are not gone on with."""
    from selflabel.files.digest import digest

    return {
        "checkpoint": digest([weights.read_bytes()]),
        "step": step,
        "size": predictor.size or 0,
        "format": options.file_format,
        "precision": options.precision,
    }


def _images(
    folder: Path, stems: Path | None
) -> tuple[Mapping[str, Path], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Files by stem, those of the folder or, in their order, of a text file of stems.

    Then the failures of stems that several files have; and why others are left out.
    """
    from selflabel.files.folders import bare, listing
    from selflabel.files.images import IMAGE_SUFFIXES
    from selflabel.files.lists import read_stems

    there = listing(folder, IMAGE_SUFFIXES)
    found, left_out = there.files, there.left_out("image")
    chosen = there.stems if stems is None else read_stems(stems, there.stems)
    others = len(there.stems) - len(chosen)
    if others:
        left_out = (f"{others} images are not among the stems asked for", *left_out)
    clashes = tuple((stem, clash) for stem in chosen if (clash := there.clash(stem)) is not None)
    # spelled as the images are
    return {bare(found[stem].name): found[stem] for stem in chosen if stem in found}, clashes, left_out


def _weights(run: Path, checkpoint: str) -> Path:
    """The file of a checkpoint. Raises `ValueError` if it is not there."""
    from selflabel.training.checkpoint import BEST, LAST

    best, last = run / BEST, run / LAST
    table = {"best": best, "last": last, "auto": best if best.is_file() else last}
    path = known("checkpoint", checkpoint, table)
    if not path.is_file():
        raise ValueError(f"there is no {path}: the run has not come to it yet, or the file was deleted")
    return path
