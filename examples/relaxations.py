"""Which relaxation, which cross-entropy? (Zhang & Boykov 2025, Table 3 and Fig. 5, in small: hours on two cores)

    python examples/relaxations.py DATA/acdc --out runs/relaxations

Soft self-labeling on acdc with each of the six relaxations of the Potts model, then (with the collision divergence)
each of the four cross-entropies, for scribbles of length 0 (a dot each), 0.3, 0.5, 0.8 and 1 of the drawn ones. Prints
mean Dice over the three structures on the validation images, and writes it to OUT as CSV and Markdown. Interrupted,
it goes on where it stopped.
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from acdc import BATCH, CLASSES, SIZE, SOFT, folders
from run_options import claim, parser_of

from selflabel.datasets.shortened import shortened
from selflabel.networks import network
from selflabel.terms import COUPLINGS, RELAXATIONS
from selflabel.training import Batches, SelfLabeling, TrainingSettings, evaluate, load_weights, train

LENGTHS = (0.0, 0.3, 0.5, 0.8, 1.0)


def run(
    objective: SelfLabeling, length: float, data: Path, out: Path, steps: int, size: int, seed: int
) -> float:
    """Mean Dice after the last step."""
    training, held_out = folders(data, size, masked=False)
    samples = (training[number] for number in range(len(training)))
    kept = [replace(sample, seeds=shortened(sample.seeds, length)) for sample in samples]
    batches = Batches(kept, CLASSES, BATCH, seed=seed, held_out=held_out, held_out_batch=24)
    settings = TrainingSettings(
        steps=steps,
        pretrain_steps=steps // 5,
        warmup_steps=steps // 10,
        learning_rate=3e-3,
        warm_start=True,
        validate_every=0,
        measure_every=0,
        first_scored=1,
        seed=seed,
    )
    torch.manual_seed(seed)
    net = network("unet:8", channels=1, classes=CLASSES, size=size)
    train(net, objective, batches, settings, out, resume=True)
    load_weights(out / "last.pt", net)
    scores = evaluate(net, batches.validation(), CLASSES, first=1)
    assert scores is not None
    return scores.mean_dice


def objectives() -> dict[str, SelfLabeling]:
    """By name: the relaxations, then the couplings."""
    found = {
        f"relaxation {r.name}": replace(SOFT, energy=replace(SOFT.energy, relaxation=r)) for r in RELAXATIONS
    }
    found |= {f"coupling {c.name}": replace(SOFT, energy=replace(SOFT.energy, coupling=c)) for c in COUPLINGS}
    return found


def table(scores: Sequence[tuple[str, float, float]]) -> str:
    """A line an objective, a column a length."""
    lines = [
        "| | " + " | ".join(f"{length:g}" for length in LENGTHS) + " |",
        "| --- |" + " --- |" * len(LENGTHS),
    ]
    for name in objectives():
        mine = {length: f"{dice:.3f}" for own, length, dice in scores if own == name}
        if mine:
            lines.append(f"| {name} | " + " | ".join(mine.get(length, "-") for length in LENGTHS) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, steps=300, size=SIZE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lengths", type=float, nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    options = parser.parse_args()
    claim(parser, options, "lengths")
    torch.set_num_threads(1)
    scores: list[tuple[str, float, float]] = []
    for length in sorted(options.lengths, reverse=True):
        known: dict[SelfLabeling, float] = {}  # the base objective is in both rows: one run
        for name, objective in objectives().items():
            if objective not in known:
                folder = options.out / name.replace(" ", "-") / f"{length:g}"
                known[objective] = run(
                    objective, length, options.data, folder, options.steps, options.size, options.seed
                )
            dice = known[objective]
            scores.append((name, length, dice))
            print(name, length, f"{dice:.3f}", flush=True)
            (options.out / "relaxations.md").write_text(table(scores), encoding="utf-8")
            with (options.out / "relaxations.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["objective", "length", "dice"])
                writer.writerows((own, at, f"{value:.4f}") for own, at, value in scores)
    print(table(scores))


if __name__ == "__main__":
    main()
