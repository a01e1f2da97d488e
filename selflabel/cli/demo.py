"""`selflabel demo`: every solver on the photographs that scikit-image ships."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from selflabel.cli.config.declarations import Option, option_group
from selflabel.cli.config.options import PrintingOptions

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, UInt8

    from selflabel.labeling.labeler import Labeler
    from selflabel.reports.montage import Tile


@option_group
class DemoOptions(PrintingOptions):
    """What `selflabel demo` takes."""

    out: Annotated[Path, Option("The picture to write (PNG).")] = Path("demo.png")
    size: Annotated[int, Option("Longer side of a photograph, in pixels.", min=32)] = 288


def demo(options: DemoOptions) -> None:
    """Label five photographs from the scribbles kept in this package, with every solver, and compare them.

    Solvers whose package is not installed are left out.

    Writes one picture: a row for each photograph; its scribbles, then the labels of each solver, with the
    seconds that solver and prediction took. Nothing is downloaded.
    """
    from selflabel.cli import screen
    from selflabel.cli.config import registry
    from selflabel.cli.config.options import LabelerOptions
    from selflabel.datasets.gallery import photographs
    from selflabel.files.atomic import write_atomic
    from selflabel.reports.montage import montage

    out = options.out
    if not out.parent.is_dir():
        raise screen.stop(f"{out} cannot be written: there is no folder {out.parent}")
    every = {name: registry.labeler(LabelerOptions(solver=name)) for name in registry.SOLVERS}
    labelers = {name: labeler for name, labeler in every.items() if _is_installed(labeler)}
    shown = photographs()
    rows: list[list[Tile]] = []
    with screen.progress() as bar:
        task = bar.add_task("labeling", total=len(shown) * len(labelers))
        for photograph in shown:
            image = photograph.image(options.size)
            seeds = photograph.seeds((image.shape[0], image.shape[1]))
            row = [_scribbles(photograph.name, image, seeds)]
            for name, labeler in labelers.items():
                row.append(_labels(name, labeler, image, seeds, len(photograph.classes)))
                bar.advance(task)
            rows.append(row)
    picture = montage(rows)
    try:
        write_atomic(out, lambda file: picture.save(file, format="PNG"))
    except OSError as error:
        raise screen.stop(f"{out} cannot be written: {error}") from error
    screen.note(f"{len(shown)} photographs, {len(labelers)} solvers: {out}")


def _is_installed(labeler: "Labeler") -> bool:
    from selflabel.cli import screen

    try:
        labeler.check()
    except ImportError as error:
        screen.warn(f"left out: {error}")
        return False
    return True


def _scribbles(
    title: str, image: "Float32[np.ndarray, 'h w c']", seeds: "UInt8[np.ndarray, 'h w']"
) -> "Tile":
    from selflabel.files.palette import overlay
    from selflabel.reports.montage import Tile

    return Tile(overlay(0.4 + 0.6 * image, seeds, opacity=1.0), title)


def _labels(
    name: str,
    labeler: "Labeler",
    image: "Float32[np.ndarray, 'h w c']",
    seeds: "UInt8[np.ndarray, 'h w']",
    num_classes: int,
) -> "Tile":
    import time

    import numpy as np
    import torch

    from selflabel.files.palette import overlay
    from selflabel.reports.montage import Tile

    channels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    began = time.perf_counter()
    found = labeler.label(channels, torch.from_numpy(seeds.astype(np.int64)), num_classes)
    seconds = time.perf_counter() - began
    index = found.labels[0].argmax(0).numpy().astype(np.uint8)
    return Tile(overlay(image, index, opacity=0.6), f"{name}, {seconds:.1f} s")
