"""Losses on single photographs: does normalized cut help a network that knows the scribbles of one image alone?

    python examples/photographs.py DATA/bsds --out runs/photographs

BSDS has regions, no classes that images share. So each photograph gets a network of its own, a small U-Net without
pretrained weights, which fits its scribbles; from there it takes as many steps more on the scribbles alone, or on them
and a loss. Mean IoU of the regions, over the photographs; those of every third one are reported apart, to choose
weights with (Tang et al., CVPR 2018, Sec. 5.1: normalized cut on photographs; forty minutes on one core for all sixty).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from camvid import regularized
from clustering import DENSE
from run_options import claim, count, parser_of

from selflabel.datasets.letterbox import Letterbox
from selflabel.datasets.samples import Batch, Folder, read_split
from selflabel.files.atomic import write_atomic
from selflabel.labels import UNLABELED
from selflabel.losses import DenseCRFLoss, NormalizedCutLoss
from selflabel.metrics.confusion import confusion, iou, mean_of_defined
from selflabel.networks import network
from selflabel.training import Objective, SeedsOnly, advance

RATE = 1e-2
CHOOSING = 3
"""Of so many photographs one is for choosing weights."""


LOSSES: Mapping[str, Objective] = {
    "scribbles alone": SeedsOnly(),
    "normalized cut, 0.1": regularized(0.1, NormalizedCutLoss(DENSE)).objective,
    "normalized cut, 0.3": regularized(0.3, NormalizedCutLoss(DENSE)).objective,
    "normalized cut, 1": regularized(1.0, NormalizedCutLoss(DENSE)).objective,
    "dense CRF, 0.3": regularized(0.3, DenseCRFLoss(DENSE)).objective,
    "dense CRF, 1": regularized(1.0, DenseCRFLoss(DENSE)).objective,
}


@dataclass(frozen=True)
class Photograph:
    """A batch of one image without padding, its mask, and the number of its regions."""

    batch: Batch
    mask: torch.Tensor
    regions: int

    @classmethod
    def read(cls, root: Path, stem: str, size: int) -> "Photograph":
        """The image, `size` pixels on its longer side."""
        full = Folder(root, (stem,), UNLABELED, None, 3, masks="masks")[0]
        box = Letterbox(full.seeds.shape[0], full.seeds.shape[1], size)
        top, left = (round(edge * size / box.side) for edge in (box.top, box.left))
        inside = slice(top, size - top), slice(left, size - left)
        assert full.mask is not None, "asked for"
        seeds, mask = box.seeds(full.seeds)[inside], box.mask(full.mask)[inside]
        regions = 1 + max(int(labels[labels != UNLABELED].max()) for labels in (seeds, mask))
        return cls(Batch((stem,), box.image(full.image)[:, *inside][None], seeds[None]), mask, regions)

    def score(self, net: torch.nn.Module) -> float:
        """Mean IoU of the regions."""
        # in the mode of training: the statistics of this image are those it was fitted with
        with torch.no_grad():
            found = net(self.batch.images).argmax(1)[0]
        return float(mean_of_defined(iou(confusion(self.mask.byte().numpy(), found.byte().numpy()))))


def fitted(
    photo: Photograph, objective: Objective, steps: int, start: Mapping[str, torch.Tensor] | None
) -> torch.nn.Module:
    """A network after the steps, from the start if there is one."""
    torch.manual_seed(1)
    net = network("unet:8", 3, photo.regions)
    if start is not None:
        net.load_state_dict(start)
    optimizer = torch.optim.AdamW(net.parameters(), RATE if start is None else RATE / 5)
    for _ in range(steps):
        advance(net, objective, optimizer, photo.batch)
    return net


def scores(photo: Photograph, steps: int) -> list[float]:
    """One for each of the losses."""
    start = fitted(photo, SeedsOnly(), steps, None).state_dict()
    return [photo.score(fitted(photo, objective, steps, start)) for objective in LOSSES.values()]


def table(found: Mapping[str, list[float]]) -> list[str]:
    """A line for each loss: of the photographs to choose with, and of the others."""
    values = np.array(list(found.values()))
    choosing = np.arange(len(values)) % CHOOSING == 0
    lines = [
        "| beside the scribbles | to choose with | others | better than without |",
        "| --- | --- | --- | --- |",
    ]
    for number, name in enumerate(LOSSES):
        own, without = values[~choosing, number], values[~choosing, 0]
        better = "" if number == 0 else f"{int((own > without).sum())} of {len(own)}"
        lines.append(f"| {name} | {values[choosing, number].mean():.3f} | {own.mean():.3f} | {better} |")
    return lines


def main() -> None:
    parser = parser_of(__doc__, steps=100, size=160)
    parser.add_argument("--count", type=count, default=60, help="photographs: 60")
    options = parser.parse_args()
    claim(parser, options, "count")
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for stem in read_split(options.data, "train")[: options.count]:
        file = options.out / f"{stem}.npy"
        if not file.exists():
            values = np.array(scores(Photograph.read(options.data, stem, options.size), options.steps))
            write_atomic(file, partial(np.save, arr=values))
        found[stem] = np.load(file).tolist()
    lines = table(found)
    (options.out / "photographs.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
