"""`selflabel predict`: a trained network to files of probabilities."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `selflabel train`.")],
    images: Annotated[Path, typer.Argument(help="Folder of images, or one image.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    checkpoint: Annotated[str, typer.Option(help="best, last or auto: best if there is one.")] = "auto",
    stems: Annotated[
        Path | None, typer.Option(help="Text file of stems, such as val.txt: only these.")
    ] = None,
    file_format: Annotated[str, typer.Option("--format", help="npz or npy.")] = "npz",
    precision: Annotated[str, typer.Option(help="uint8, float16 or float32.")] = "float16",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict again what is done already.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Predict class probabilities for images with a trained network.

    Writes OUT/STEM.npz (or .npy), [k h w] at the image's own resolution: what `selflabel label --probs OUT` reads.
    OUT/predictions.jsonl says what is done: it is skipped when the command runs again. Images that cannot be
    predicted are listed at the end, and the exit code is 1 then.
    """
    import torch

    from selflabel.cli import running as follow
    from selflabel.cli import screen
    from selflabel.cli.config import registry as names
    from selflabel.cli.config.jobs import new_network
    from selflabel.files.digest import digest
    from selflabel.files.folders import by_stem, read_lines
    from selflabel.files.images import SUFFIXES
    from selflabel.training import load_weights
    from selflabel.training.predict import Precision, Predictor, Storage, predict_folder

    try:
        options = follow.stored_options(run)
        storage = Storage(
            names.known("format", file_format, {"npz": True, "npy": False}),
            names.known("precision", precision, {kind.value: kind for kind in Precision}),
        )
        weights = _weights(run, checkpoint)
        chosen = follow.device(device, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        found = by_stem(images, SUFFIXES)
        if stems is not None:
            wanted = read_lines(stems)
            missing = [stem for stem in wanted if stem not in found]
            if missing:
                raise ValueError(f"{images} has no image {missing[0]}, which is in {stems}")
            found = {stem: found[stem] for stem in wanted}
        network = new_network(options)
        step = load_weights(weights, network, chosen).step
    except (ValueError, OSError, ImportError) as error:
        raise screen.stop(str(error)) from error
    assert options.channels is not None
    predictor = Predictor(network.to(chosen), options.channels, options.size or None, chosen)
    identity = {
        "checkpoint": digest([weights.read_bytes()]),
        "step": step,
        "size": options.size,
        "format": file_format,
        "precision": precision,
    }
    failures: list[tuple[str, str]] = []
    skipped = done = 0
    try:
        with screen.progress() as bar:
            task = bar.add_task("predicting", total=len(found))
            for outcome in predict_folder(predictor, found, storage, out, identity, overwrite=overwrite):
                skipped += outcome.skipped
                if outcome.reason is not None:
                    failures.append((outcome.stem, outcome.reason))
                done += 1
                bar.update(task, completed=done)
    except ValueError as error:
        raise screen.stop(str(error)) from error
    except OSError as error:
        code = screen.BAD_IMAGES if done else screen.BAD_USE
        raise screen.stop(f"{out} cannot be written: {error}", code) from error
    except KeyboardInterrupt:
        left = len(found) - done
        screen.tell(f"interrupted with {left} images left: the same command goes on", "bold yellow")
        raise screen.leave(screen.INTERRUPTED) from None
    typer.echo(
        f"{done - skipped - len(failures)} predicted, {skipped} done before: {out} ({weights}, step {step})"
    )
    screen.failures(failures)
    if failures:
        raise typer.Exit(screen.BAD_IMAGES)


def _weights(run: Path, checkpoint: str) -> Path:
    """The file of a checkpoint. Raises `ValueError` if it is not there."""
    from selflabel.cli.config import registry as names
    from selflabel.training.checkpoint import BEST, LAST

    best, last = run / BEST, run / LAST
    table = {"best": best, "last": last, "auto": best if best.is_file() else last}
    path = names.known("checkpoint", checkpoint, table)
    if not path.is_file():
        raise ValueError(f"there is no {path}: the run has not come to it yet")
    return path
