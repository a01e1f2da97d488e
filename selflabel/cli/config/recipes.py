"""What a training run minimizes, made from its options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from selflabel.affinity.builders import AffinityBuilder, Grid, Window
from selflabel.cli.config import registry
from selflabel.cli.config.declarations import declared, known
from selflabel.cli.config.losses import LOSSES, LossKind, Part
from selflabel.cli.config.options import DEFAULTS, METHODS, PARTS, AffinityOptions, TrainingOptions, by_part
from selflabel.energy import Energy
from selflabel.labeling.settings import describe
from selflabel.losses import GatedCRFLoss, Loss
from selflabel.terms import BILINEAR, STANDARD
from selflabel.training.monitor import Monitor
from selflabel.training.objectives import FullMasks, Objective, Regularized, SeedsOnly, WeightedLoss
from selflabel.training.presets import ADM, TRUST_REGION, default_objective, default_starter
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.starters import Starter

DEFAULT_LOSS = "potts"
NO_STARTER = "none"


def objective(options: TrainingOptions) -> Objective:
    """What the network is trained for.

    Raises `ValueError` for unknown names and options, and for options without effect on the method.
    """
    method = options.method
    known("method", method, dict.fromkeys(METHODS))
    _check_used(options)
    if method == "pce":
        return seeds(options)
    if method == "full":
        return FullMasks()
    return direct(options) if method == "gd" else self_labeling(options)


def seeds(options: TrainingOptions) -> SeedsOnly:
    """The term of the seeds. Where some images have full masks all count alike: else scribbles would hardly count."""
    return SeedsOnly(by_image=options.full_stems is not None)


def self_labeling(options: TrainingOptions) -> SelfLabeling:
    """Self-labeling with the solver and the energy of the options. Raises `ValueError` as `objective` does."""
    method = TRUST_REGION if options.method == "trust-region" else ADM
    name = options.solver or method.solver.name
    base = default_objective(known("solver", name, registry.SOLVERS)())
    terms = (term.name for term in base.energy.regularizers)
    given = by_part(options.set, (*PARTS, *terms), "solver")
    _check_none(given["loss"], "self-labeling has no loss to set options of")
    registry.check_terms(base.solver, given["solver"])
    solver = registry.configured(base.solver, given["solver"])
    energy, affinities = registry.terms_with(base.energy, base.affinities, given)
    error = options.error_probability
    return replace(
        base,
        energy=registry.energy_with(energy, options),
        solver=solver,
        affinity=_affinity(base.affinity, options, given["affinity"]),
        affinities=affinities,
        max_steps=base.max_steps if options.max_steps is None else options.max_steps,
        weight=base.weight if options.weight is None else options.weight,
        error_probability=method.error_probability if error is None else error,
        present_only=options.present_only,
        seeds=seeds(options),
        starter=_starter(options, base),
    )


def _starter(options: TrainingOptions, base: SelfLabeling) -> Starter | None:
    if options.starter is None:
        return base.starter
    if options.starter == NO_STARTER:
        return None
    kind = known("starter", options.starter, {**registry.SOLVERS, NO_STARTER: None})
    assert kind is not None
    return default_starter(kind())


def monitor(options: TrainingOptions) -> Monitor | None:
    """The objectives of self-labeling, direct and joint; of gradient descent the direct one, the loss that it lowers.

    None without an energy: losses other than Potts or dense CRF, alone or with the entropy, and other methods.
    """
    if options.method in ("adm", "trust-region"):
        return Monitor(self_labeling(options))
    if options.method != "gd":
        return None
    entries = _entries(options.loss)
    pairwise = [entry for entry in entries if entry.kind.part is Part.PAIRWISE]
    entropies = [entry.factor for entry in entries if entry.kind.part is Part.ENTROPY]
    if len(pairwise) != 1 or len(pairwise) + len(entropies) < len(entries):
        return None
    one = pairwise[0]
    assert one.kind.affinity is not None
    affinity = _affinity(one.kind.affinity, options, by_part(options.set, PARTS, "loss")["affinity"])
    energy = registry.energy_with(Energy(STANDARD, BILINEAR), options)
    energy = replace(
        energy,
        coupling_weight=energy.coupling_weight * sum(entropies),
        pairwise_weight=energy.pairwise_weight * one.factor * one.kind.orders(affinity),
    )
    measure = SelfLabeling(energy, ADM.solver, affinity, weight=_direct_weight(options), seeds=seeds(options))
    return Monitor(measure, solve=False)


@dataclass(frozen=True)
class _Entry:
    """One of the losses joined by "+"."""

    name: str
    kind: LossKind
    factor: float


def _entries(text: str | None) -> tuple[_Entry, ...]:
    return tuple(_entry(entry.strip()) for entry in (DEFAULT_LOSS if text is None else text).split("+"))


def _entry(text: str) -> _Entry:
    name, _, factor = text.partition("=")
    if "*" in name:
        raise _no_factor(text)
    kind = known("loss", name, LOSSES)()
    try:
        return _Entry(name, kind, float(factor) if factor else kind.factor)
    except ValueError:
        raise _no_factor(text) from None


def _no_factor(text: str) -> ValueError:
    return ValueError(f"expected --loss NAME or NAME=FACTOR, got {text!r}: a factor as in {DEFAULT_LOSS}=2")


def direct(options: TrainingOptions) -> Regularized:
    """Gradient descent on ``NAME[=FACTOR]`` losses, joined by "+".

    A pairwise loss has weight·λ·factor, any other weight·η·factor (λ = η = 1 where not given; the factor is then
    `LossKind.factor`). Raises `ValueError` as `objective` does.
    """
    given = by_part(options.set, PARTS, "loss")
    _check_none(given["solver"], "gradient descent has no solver to set options of")
    entries = _entries(options.loss)
    _check_no_weight(given["loss"], entries[0].name)
    if len(entries) > 1:
        there = [name for entry in entries for name in registry.option_defaults(type(entry.kind))]
        _check_none([o for o in given["loss"] if _key(o) not in there], "none of the losses has this option")
    losses = tuple(_regularizer(entry, options, given, len(entries) == 1) for entry in entries)
    return Regularized(losses, seeds(options))


def _check_no_weight(given: Sequence[str], loss: str) -> None:
    """Raise `ValueError` for a weight among options of losses, with the place that it has."""
    for option in given:
        if _key(option).rpartition(".")[2] == "weight":
            factor = option.partition("=")[2].strip()
            raise ValueError(f"a loss has no option weight: its weight is given as --loss {loss}={factor}")


def _key(option: str) -> str:
    return option.partition("=")[0].strip().replace("-", "_")


def _regularizer(
    entry: _Entry, options: TrainingOptions, given: dict[str, list[str]], alone: bool
) -> WeightedLoss:
    kind = entry.kind
    own = [o for o in given["loss"] if alone or _key(o) in registry.option_defaults(type(kind))]
    kind = registry.configured(kind, own)
    energy = registry.energy_with(Energy(STANDARD, BILINEAR), options)
    affinity = kind.affinity
    if affinity is None:
        _check_none(given["affinity"] if alone else [], f"{entry.name} has no affinity to set options of")
        affinity = Grid()  # a placeholder: the loss has none
    else:
        affinity = _affinity(affinity, options, given["affinity"])
        if not kind.any_affinity and type(affinity) is not type(kind.affinity):
            wanted, got = registry.name_of(kind.affinity), registry.name_of(affinity)
            raise ValueError(f"{entry.name} takes a {wanted} affinity, got {got}")
    weight = energy.pairwise_weight if kind.pairwise else energy.coupling_weight
    weight *= _direct_weight(options) * entry.factor
    return WeightedLoss(entry.name, weight, kind.build(affinity, energy.relaxation))


def _direct_weight(options: TrainingOptions) -> float:
    return 1.0 if options.weight is None else options.weight


def _affinity(base: AffinityBuilder, options: TrainingOptions, given: Sequence[str]) -> AffinityBuilder:
    return registry.configured(registry.affinity_with(base, options), given)


@dataclass(frozen=True)
class _Unused:
    """The options, and the parts of ``--set PART.KEY``, that have no effect on a method."""

    options: tuple[str, ...]
    parts: tuple[str, ...]


_AFFINITY = tuple(declared(AffinityOptions))
_ENERGY = ("coupling_weight", "pairwise_weight", "relaxation", *_AFFINITY)
_SOLVE = ("solver", "coupling", "entropy_weight", "max_steps", "error_probability", "starter", "present_only")
_SUPERVISED = _Unused(("loss", "weight", *_SOLVE, *_ENERGY), ("solver", "loss", "affinity"))
SEEDS_OF_OTHERS = ("curated", "full_stems", "unlabeled_stems")
"""What is said of seeds, which full masks do not need."""
_SELF_LABELING = _Unused(("loss",), ("loss",))
_UNUSED = {
    "pce": _SUPERVISED,
    "full": _Unused((*_SUPERVISED.options, *SEEDS_OF_OTHERS), _SUPERVISED.parts),
    "gd": _Unused(_SOLVE, ("solver",)),
    "adm": _SELF_LABELING,
    "trust-region": _SELF_LABELING,
}


def _unused(method: str, loss: str | None) -> tuple[str, ...]:
    """The options without effect on a method with these losses."""
    if method != "gd":
        return _UNUSED[method].options
    kinds = [entry.kind for entry in _entries(loss)]
    needed = {
        ("relaxation",): any(kind.relaxed for kind in kinds),
        ("pairwise_weight",): any(kind.pairwise for kind in kinds),
        ("coupling_weight",): not all(kind.pairwise for kind in kinds),
        _AFFINITY: any(kind.affinity is not None for kind in kinds),
    }
    return (*_UNUSED[method].options, *(name for group, used in needed.items() if not used for name in group))


def fitting(given: Mapping[str, object], method: str, loss: str | None) -> dict[str, object]:
    """Options common to several methods, without those that have no effect on this one with these losses.

    Raises `ValueError` for unknown losses.
    """
    unused = _unused(method, loss)
    found = {name: value for name, value in given.items() if name not in unused}
    entries = found.get("set")
    if isinstance(entries, tuple):
        unused_parts = _UNUSED[method].parts
        found["set"] = tuple(entry for entry in entries if entry.partition(".")[0] not in unused_parts)
    return found


def described(objective: Objective) -> dict[str, object]:
    """The parts of an objective in plain values."""
    if isinstance(objective, Regularized):
        return {
            part.name: {
                "weight": part.weight,
                "affinity": _described_affinity(part.loss),
                "relaxation": describe(getattr(part.loss, "relaxation", None)),
            }
            for part in objective.parts
        }
    found = describe(objective)
    assert isinstance(found, dict)
    return found


def _described_affinity(loss: Loss) -> object:
    """The builder of a loss's affinity in plain values; the window that the gated CRF computes by itself likewise."""
    if not isinstance(loss, GatedCRFLoss):
        return describe(getattr(loss, "affinity", None))
    (kernel,) = loss.kernels  # as `GatedCRF.build` makes it
    window = {"sigma": kernel.sigma_rgb, "sigma_xy": kernel.sigma_xy, "radius": loss.radius}
    return {"is": Window.__name__, **window}


def _check_used(options: TrainingOptions) -> None:
    """Raise `ValueError` for options without effect: they are a misunderstanding."""
    for name in _unused(options.method, options.loss):
        if getattr(options, name) != getattr(DEFAULTS, name):
            flag = "--" + name.replace("_", "-")
            losses = f" with {options.loss or DEFAULT_LOSS}" if options.method == "gd" else ""
            raise ValueError(
                f"the method {options.method}{losses} has no {flag}: leave it out, or choose another --method"
            )
    if options.method in ("pce", "full"):
        given = by_part(options.set, PARTS, "solver")
        for part in _UNUSED[options.method].parts:
            _check_none(given[part], f"the method {options.method} has no {part} to set options of")


def _check_none(given: Sequence[str], message: str) -> None:
    if given:
        raise ValueError(f"{message}: {given[0]}")
