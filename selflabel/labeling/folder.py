"""Labeling a folder: done images are skipped, bad ones reported, and files are complete."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from selflabel.files.atomic import refuse_existing
from selflabel.files.opening import FileError
from selflabel.labeling.engines.processes import Crash, Worker, run_jobs
from selflabel.labeling.image import LabelImage, digest_of
from selflabel.labeling.manifest import Manifest, Record, Run, manifest_path, other_manifests
from selflabel.labeling.outputs import OutputFolder, clean
from selflabel.labeling.plan import WHOLE, Failure, Job, Plan, Shard
from selflabel.labeling.settings import LabelingSettings


@dataclass(frozen=True)
class Skipped:
    """An image that an earlier run labeled with the same arguments from the same bytes."""

    record: Record


Outcome = Record | Skipped | Failure


def label_folder(
    plan: Plan,
    settings: LabelingSettings,
    run: Run,
    out: Path,
    *,
    part: Shard = WHOLE,
    workers: int = 1,
    ready: Iterable[Worker] = (),
    overwrite: bool = False,
) -> Generator[Outcome, None, None]:
    """Label the images of a plan into the folder `out`; yields one outcome an image, as it is done.

    An image is skipped if a manifest has its record, with the same arguments and the same bytes of its files, and
    its outputs exist; `overwrite` skips nothing. Images are read when their turn comes. However the iteration
    ends (Ctrl-C included), the manifest is in order and another run goes on; it then leaves the same bytes as an
    undisturbed run, but for `seconds` in the manifest. Workers that are `ready` (`processes.forked`) come first.
    Parts and the whole read each other's manifests, and may run at once.

    Raises `ArgumentsDiffer` if `out` holds labels made with other arguments. Raises `ValueError` for a damaged
    manifest, for outputs that would go to the folder of an input, and, without `overwrite`, for files that no run
    wrote. Raises `OSError` if the folder cannot be written.
    """
    output = OutputFolder(out, settings.soft, settings.overlay)
    output.check_inputs(plan.jobs)
    output.prepare()
    outputs = {job.stem: output.paths(job.stem) for job in plan.jobs}
    clean(outputs.values())
    manifest = Manifest.read(manifest_path(out, part))
    known = (manifest, *other_manifests(out, part))
    if not overwrite:
        if not manifest_path(out, part).is_file() and len(known) == 1:
            refuse_existing(path for each in outputs.values() for path in each.all)
        for each in known:
            each.check(run)
    manifest.open_run(run)
    yield from plan.failures
    todo: list[Job] = []
    for job in plan.jobs:
        records = () if overwrite else tuple(each.done(job.stem, run) for each in known)
        same = next((record for record in records if record is not None and _same_bytes(job, record)), None)
        if same is not None and outputs[job.stem].complete:
            yield Skipped(same)
        else:
            todo.append(job)
    work = LabelImage(settings, output)
    try:
        for job, outcome in run_jobs(todo, work, min(workers, len(todo)), ready):
            yield _keep(manifest, run, job, outcome)
    finally:
        clean(outputs.values())
        manifest.finish(run)


def _keep(manifest: Manifest, run: Run, job: Job, outcome: Record | Failure | Crash) -> Record | Failure:
    """Enter a record in the manifest."""
    if isinstance(outcome, Crash):
        return Failure(job.stem, outcome.reason)
    if isinstance(outcome, Record):
        try:
            manifest.append(outcome, run)
        except OSError as error:
            return Failure(job.stem, f"the manifest cannot be written: {error}")
    return outcome


def _same_bytes(job: Job, record: Record) -> bool:
    try:
        return digest_of(job) == record.inputs
    except FileError:
        return False  # labeling it will say what is wrong
