"""The folder of a training run: its options and scores, and whether they are those of its checkpoint."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import selflabel
from selflabel.cli.config import recipes
from selflabel.cli.config.declarations import checked
from selflabel.cli.config.jobs import TrainingJob, described
from selflabel.cli.config.options import TrainingOptions, merged
from selflabel.cli.config.toml import (
    DATA_TABLE,
    OBJECTIVE_TABLE,
    changes,
    check_described,
    flat,
    place,
    read_config,
    read_table,
    write_config,
)
from selflabel.files.atomic import remove_leftovers, write_atomic
from selflabel.files.digest import digest
from selflabel.files.lock import sole_user
from selflabel.files.opening import read_text_file
from selflabel.labeling.settings import describe
from selflabel.networks import module_of
from selflabel.reports.comparison import Final
from selflabel.training.checkpoint import BEST, LAST, load_checkpoint
from selflabel.training.resume import ANY_TIME, files_of_run, plain

CONFIG = "config.toml"
SCORES = "scores.json"
ANEW = "give another --out"


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Have a folder, made if it is not there, to this process alone.

    Raises `ValueError` if it cannot be made, or another process works in it; nothing has been written then.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # the argument is wrong, not a run
        raise ValueError(f"{out} cannot be made: {error.strerror}") from error
    with sole_user(out):
        yield


def open_run(out: Path, job: TrainingJob, root: Path) -> None:
    """Store the resolved options in ``out/config.toml``, or compare them with those that are there.

    Raises `ValueError` if `out` holds a run with other options (named) or on other data, or a damaged one; `OSError`
    if it cannot be written.
    """
    path = out / CONFIG
    remove_leftovers(out, (CONFIG, SCORES))
    there = files_of_run(out)
    if there and not path.is_file():
        raise ValueError(
            f"{out / there[0]} exists and is not of a training run here, as there is no file {CONFIG}: {ANEW}"
        )
    # a run without a checkpoint holds nothing to resume: its options may change
    if LAST in there:
        _check_same(out, job, root)
        return
    for stale in (SCORES, BEST):  # the checkpoint that they belong to is gone
        (out / stale).unlink(missing_ok=True)
    tables = {
        DATA_TABLE: described(job, root),
        OBJECTIVE_TABLE: flat(recipes.described(job.objective)),
    }
    write_config(path, job.options, f"selflabel {selflabel.__version__}", tables)


def has_begun(out: Path) -> bool:
    """True if a folder holds a run to go on with."""
    return (out / LAST).is_file()


def about(job: TrainingJob) -> Mapping[str, object]:
    """What checkpoints store of a run beside its settings: options, data, objective and monitor."""
    measure = None if job.monitor is None else describe(job.monitor)
    options = {name: value for name, value in asdict(job.options).items() if name not in ANY_TIME}
    return {
        "options": options,
        "data": job.data,
        "objective": recipes.described(job.objective),
        "monitor": measure,
    }


def stored_options(out: Path, stored: Mapping[str, Any], checkpoint: Path) -> TrainingOptions:
    """The resolved options of the run in a folder; `stored`: the `about` of its checkpoint.

    The checkpoint has a digest, the file config.toml has none: raises `ValueError`, with the line, for an option that
    is another there.
    """
    path = out / CONFIG
    there = stored.get("options")
    if not isinstance(there, Mapping):
        raise ValueError(f"{checkpoint} is not of `selflabel train`: {ANEW}")
    options = merged(read_config(path, TrainingOptions))
    edited = [c for c in changes(merged(checked(there, TrainingOptions)), options) if c.name not in ANY_TIME]
    if edited:
        listed = "; ".join(str(change) for change in edited)
        raise ValueError(
            f"{place(path, edited[0].name)} was edited ({listed}), but {checkpoint} was trained without: put it back "
            f"as it was; options are given on the command line"
        )
    if not read_table(path, OBJECTIVE_TABLE):
        raise ValueError(
            f"{path} has no table [{OBJECTIVE_TABLE}]: it was cut or edited: put it back as it was, or {ANEW}"
        )
    check_described(path, stored.get("objective", {}))
    return options


def check_there(out: Path) -> None:
    """Raise `ValueError` if a folder holds no training run."""
    path = out / CONFIG
    if not path.is_file():
        raise ValueError(f"{out} holds no training run: there is no {path}")


def check_code(network: str, where: str, allowed: bool) -> None:
    """Raise `ValueError` for a network that would be imported because a file says so, unless that is allowed."""
    module = module_of(network)
    if module is not None and not allowed:
        raise ValueError(
            f"{where} has the network {network}: using it imports the module {module} and runs its code: give "
            f"--allow-code if you trust it"
        )


def file_options(path: Path, allow_code: bool, own_network: bool) -> dict[str, object]:
    """The options of a training run in a TOML file, by name.

    own_network: the command line names another network. Raises `ValueError` for what is wrong with the file, for an
    edited table ``[objective]``, and as `check_code` for the file of a run, which others may have made.
    """
    found = read_config(path, TrainingOptions)
    described_there = read_table(path, OBJECTIVE_TABLE)
    if described_there:
        check_described(path, recipes.described(recipes.objective(merged(found))))
    of_a_run = path.name == CONFIG or bool(described_there) or bool(read_table(path, DATA_TABLE))
    if of_a_run and "network" in found and not own_network:
        check_code(str(found["network"]), str(path), allow_code)
    return found


def _check_same(out: Path, job: TrainingJob, root: Path) -> None:
    """Raise `ValueError` if the run in a folder is another one, or its files were edited."""
    stored, now = load_checkpoint(out / LAST).about, plain(about(job))
    if (out / BEST).exists():
        load_checkpoint(out / BEST)
    before = stored_options(out, stored, out / LAST)
    changed = [c for c in changes(before, job.options) if c.name not in ANY_TIME]
    if changed:
        listed = "; ".join(str(change) for change in changed)
        raise ValueError(
            f"{out} holds a run with other options ({listed}): give these as they were to go on with it, or "
            f"another --out"
        )
    if stored.get("data") != now["data"]:
        raise ValueError(
            f"{out} holds a run on other files than those of {root}, or they were edited since: give them as they "
            f"were to go on with it, or another --out"
        )
    if stored.get("monitor") != now["monitor"]:
        listed = ", ".join(_differences(stored.get("monitor"), now["monitor"])) or "none of the two is known"
        raise ValueError(
            f"{out} holds a run whose losses were measured with another energy ({listed}): `compare` measures all "
            f"runs with that of the first adm run, or of --measure-with: give this run as it was, or {ANEW[5:]}"
        )


def _differences(before: object, now: object) -> list[str]:
    """The values that differ between two described objects, by dotted keys."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [f"{before or 'none'} -> {now or 'none'}"]
    one, other = flat(before), flat(now)
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return [f"{key}: {one.get(key)} -> {other.get(key)}" for key in keys]


def read_scores(out: Path, step: int) -> Final | None:
    """The scores that `write_scores` kept of a step; None if there are none.

    Raises `ValueError` if the file is damaged or was edited.
    """
    path = out / SCORES
    if not path.exists():
        return None
    try:
        kept = json.loads(read_text_file(path))
        check = kept.pop("digest")
        found = int(kept.pop("step"))
        final = Final(**kept)
        values = (final.dice, final.iou, *(() if final.hd95 is None else (final.hd95,)))
        right = check == _digest(found, final) and all(isfinite(value) for value in values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, its scores are computed again") from error
    if not right:
        raise ValueError(f"{path} was edited: delete it, its scores are computed again")
    return final if found == step else None


def write_scores(out: Path, step: int, final: Final) -> None:
    """Keep scores, with a digest of them. Raises `OSError` as the file system does."""
    text = json.dumps({"step": step, **asdict(final), "digest": _digest(step, final)}) + "\n"
    write_atomic(out / SCORES, lambda file: file.write(text.encode()))


def _digest(step: int, final: Final) -> str:
    return digest([json.dumps({"step": step, **asdict(final)}).encode()])
