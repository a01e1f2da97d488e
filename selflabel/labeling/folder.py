"""Labeling a folder: done images are skipped, bad ones reported, and files are complete."""

import logging
from collections.abc import Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from selflabel.files.atomic import refuse_existing
from selflabel.labeling.engines.pipeline import run_pipeline
from selflabel.labeling.engines.processes import Crash, Worker, run_jobs
from selflabel.labeling.image import LabelImage, digest_of
from selflabel.labeling.lines import Record, Run
from selflabel.labeling.manifest import Manifest, manifest_path, other_manifests
from selflabel.labeling.outputs import OutputFolder, OutputPaths, clean
from selflabel.labeling.ownership import is_in_use, opening, owned, refuse_in_use
from selflabel.labeling.plan import WHOLE, Failure, Job, Plan, Shard
from selflabel.labeling.settings import LabelingSettings

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """An image that an earlier run labeled with the same arguments from the same bytes."""

    record: Record


@dataclass(frozen=True)
class Stale:
    """An image that is labeled again, as its record does not hold any more, and why; its outcome follows."""

    stem: str
    reason: str


Outcome = Record | Skipped | Failure | Stale


def label_folder(
    plan: Plan,
    settings: LabelingSettings,
    run: Run,
    out: Path,
    *,
    part: Shard = WHOLE,
    workers: int = 1,
    ready: Iterable[Worker] = (),
    devices: tuple[torch.device, ...] = (),
    overwrite: bool = False,
    is_owner: bool = False,
) -> Generator[Outcome, None, None]:
    """Label the images of a plan into the folder `out`; yields one outcome an image, as it is done, and `Stale`.

    An image is skipped if a manifest has its record, with the same arguments, the same bytes of its files, and the
    same bytes of its outputs; `overwrite` skips nothing. Images are read when their turn comes. However the iteration
    ends (Ctrl-C included), the manifest is in order and another run goes on; it then leaves the same bytes as an
    undisturbed run, but for `seconds` in the manifest. An image loses its record before its files are replaced.
    Workers that are `ready` (`processes.forked`) come first. devices: GPUs that solve while the workers read and write
    (`run_pipeline`); without, the workers solve, too.

    The folder, or the part, has one process at a time (`ownership.owned`); parts of one count may run at once.
    is_owner: the caller holds it already; workers that it forked then hold it, too.

    Raises `Occupied` if another process works there. Raises `ArgumentsDiffer` if `out` holds or gets labels made with
    other arguments. Raises `ValueError` for a damaged manifest, for outputs that would go to the folder of an input,
    for links in place of folders, for devices that cannot be used, and, without `overwrite`, for files that no run
    wrote. Raises `OSError` if the folder cannot be written.
    """
    output = OutputFolder(out, settings.soft, settings.overlay)
    output.check_inputs(plan.jobs)
    with nullcontext() if is_owner else owned(out, part):
        output.prepare()
        outputs = {job.stem: output.paths(job.stem) for job in plan.jobs}
        clean(outputs.values())
        known = _open(out, part, run, outputs.values(), overwrite)
        yield from plan.failures
        todo = yield from _pending(plan.jobs, outputs, () if overwrite else known, run)
        _forget([job.stem for job in todo], out, part, run, known[0])
        count = min(workers, len(todo))
        if devices:
            work = run_pipeline(todo, settings, output, devices, count, ready)
        else:
            work = run_jobs(todo, LabelImage(settings, output), count, ready)
        try:
            with closing(work):
                for job, outcome in work:
                    yield _keep(known[0], run, job, outcome)
        finally:
            clean(outputs.values())
            known[0].finish(run)


def _open(
    out: Path, part: Shard, run: Run, outputs: Iterable[OutputPaths], overwrite: bool
) -> tuple[Manifest, ...]:
    """Enter the run in the manifest of the part, unless others in the folder differ; this manifest, then those."""
    with opening(out):
        own, others = Manifest.read(manifest_path(out, part)), other_manifests(out, part)
        if not overwrite and not own.path.is_file() and not others:
            refuse_existing((path for each in outputs for path in each.all), own.path)
        own.check(run, overwrite=overwrite)
        for other, manifest in others.items():
            manifest.check(run, in_use=is_in_use(out, other), overwrite=overwrite)
        own.open_run(run)
    return own, *others.values()


def _pending(
    jobs: Iterable[Job], outputs: dict[str, OutputPaths], known: tuple[Manifest, ...], run: Run
) -> Generator[Skipped | Stale, None, list[Job]]:
    """Those of the jobs that are to be done; yields what is done, and what is to be done again."""
    todo: list[Job] = []
    for job in jobs:
        records = [record for each in known if (record := each.done(job.stem, run)) is not None]
        faults = [_fault(job, record, outputs[job.stem]) for record in records]
        if None in faults:
            yield Skipped(records[faults.index(None)])
            continue
        if faults:
            yield Stale(job.stem, str(faults[0]))
        todo.append(job)
    return todo


def _fault(job: Job, record: Record, outputs: OutputPaths) -> str | None:
    """Why a record does not hold any more; None if it does."""
    try:
        if digest_of(job) != record.inputs:
            return "its image, seeds or predictions are not those that it was labeled from"
    except (OSError, ValueError):
        return "its image, seeds or predictions cannot be read"  # labeling it will say what is wrong
    return outputs.fault(record.outputs)


def _forget(stems: list[str], out: Path, part: Shard, run: Run, own: Manifest) -> None:
    """Remove the records of images whose files will be replaced, from all manifests."""
    own.forget(stems, run)
    with opening(out):
        for other, manifest in other_manifests(out, part).items():
            if any(stem in manifest.records for stem in stems):
                refuse_in_use(out, other)
                manifest.forget(stems)


def _keep(manifest: Manifest, run: Run, job: Job, outcome: Record | Failure | Crash) -> Record | Failure:
    """Enter a record in the manifest."""
    if isinstance(outcome, Crash):
        return Failure(job.stem, outcome.reason)
    if isinstance(outcome, Record):
        try:
            manifest.append(outcome, run)
        except OSError as error:
            return Failure(job.stem, f"the manifest cannot be written: {error}")
        LOG.debug("%s: %s after %d steps, %.2f s", job.stem, outcome.result, outcome.steps, outcome.seconds)
    return outcome
