"""The job `folder` of `gpu.py`: a folder of photographs, files to files, against files read and written alone.

    python tests/benchmarks/gpu_folder.py IMAGES PROBS OUT     # reads and writes them, without a solve

Both are commands, whose start is in their seconds. They read the same images and predictions, and write labels and
confidences.
"""

import atexit
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gpu_base
import numpy as np
import torch
from PIL import Image

from selflabel.driver import Result
from selflabel.kernels.processors import usable_processors
from selflabel.labeling.engines.processes import run_jobs
from selflabel.labeling.engines.stages import Done, FileWork, ReadImage, Waiting, WriteImage
from selflabel.labeling.lines import CPU, Record
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Job, make_plan
from selflabel.labeling.presets import default_labeler
from selflabel.labeling.settings import LabelingSettings
from selflabel.solvers import MeanField

MOST_TIMES_ALONE = 1.2
"""Target: times the seconds of files alone."""


@dataclass(frozen=True)
class FilesAlone:
    """Reads the files of an image and writes its prediction, as labels would be."""

    work: FileWork

    def __call__(self, job: Job) -> str:
        waiting = self.work(ReadImage(job, ""))
        assert isinstance(waiting, Waiting), waiting
        probs = waiting.parcel.open()["probs"]
        found = {"numbers": probs.argmax(0).astype(np.uint8), "confidence": probs.max(0)}
        done = Done(
            image=replace(waiting, parcel=waiting.parcel.add(found)),
            start_energy=0.0,
            energy=0.0,
            bound=None,
            steps=0,
            result=Result.CONVERGED,
            entropy=0.0,
            device=CPU,
            seconds=0.0,
        )
        record = self.work(WriteImage(done))
        assert isinstance(record, Record), record
        return record.stem


def write_folder(root: Path, shape: gpu_base.Shape, device: torch.device) -> None:
    """Images and predictions of so many images, drawn as those of other jobs."""
    for name in ("images", "probs"):
        (root / name).mkdir()
    images, logits = gpu_base.draw((1, *shape[1:]), device)
    for number in range(shape[0]):
        shift = 7 * number  # another image, of the same smoothness
        pixels = (255 * images[0].roll(shift, 2)).permute(1, 2, 0).round().byte().cpu().numpy()
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        np.save(root / "probs" / f"{number}.npy", logits[0].roll(shift, 2).softmax(0).cpu().numpy())


def folder(sizes: gpu_base.Sizes, device: torch.device) -> Iterator[gpu_base.Job]:
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    write_folder(root, sizes.folder, device)
    given = [root / "images", root / "probs"]
    alone = partial(_run, __file__, *given, root / "alone")
    alone()  # after that all is in the cache of the disk
    began = time.perf_counter()
    alone()
    seconds = time.perf_counter() - began
    command = ["-m", "selflabel", "label", given[0], "--probs", given[1], "--out", root / "out"]
    command += ["--solver", "mean-field", "--device", device.type, "--overwrite", "--quiet"]
    target = f"{MOST_TIMES_ALONE:g} x files alone"
    yield gpu_base.Job(
        f"folder of {sizes.folder[0]} photographs, mean field, --device {device.type}",
        partial(_run, *command),
        0,
        "",
        gpu_base.Goal(target, lambda ms, _: ms <= 1e3 * MOST_TIMES_ALONE * seconds),
        note=lambda: f"files read and written alone: {1e3 * seconds:.0f} ms",
    )


def _run(*arguments: object) -> None:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def main() -> None:
    images, probs, out = map(Path, sys.argv[1:])
    settings = LabelingSettings(default_labeler(MeanField(), predicted=True))
    output = OutputFolder(out)
    output.prepare()
    plan = make_plan(images, None, probs)
    torch.set_num_threads(1)
    with closing(run_jobs(plan.jobs, FilesAlone(FileWork(settings, output)), usable_processors())) as work:
        stems = [stem for _, stem in work]
    assert len(stems) == len(plan.jobs)


if __name__ == "__main__":
    main()
