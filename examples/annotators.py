"""Annotator models: what their labels close of the gap to full masks (Mayer et al., Fig. 5, in small: hours).

    pip install '.[pretrained]'
    python examples/annotators.py DATA/camvid --out runs/camvid --seeds 1

The data, network and protocol of camvid.py, whose options these are; runs on scribbles and on full masks are taken over
from the same OUT. All training images are labeled by three models: local (a random forest an image, on a pretrained
network's first layers), global (the network that has fitted the scribbles), and combined (the mean of both), raw, with
total variation and with a dense CRF, as `selflabel annotate` does. A network goes on from the scribbles on each of the
nine. All dense labels, masks among them, weigh classes as the scribbles do, or the gap would be one of class balance.
Prints the gap between full masks and scribbles, and the share of it that each closes, over the seeds that all have;
writes OUT/gap.md.
"""

import hashlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from camvid import BALANCE, METHODS
from camvid_runs import BALANCED, SCRIBBLES, Method, parsed, run_all, scores_in

from selflabel.affinity.image import ImageLike, as_image
from selflabel.annotators import Annotator
from selflabel.cli.annotate import MODELS, REGULARIZERS, AnnotateOptions, preset
from selflabel.cli.config import registry
from selflabel.files.atomic import write_atomic
from selflabel.reports.gap import Gap, gap_markdown
from selflabel.training import SeedsOnly


@dataclass(frozen=True)
class Kept:
    """An annotator that predicts an image once: six of the nine label by the same forests.

    folder: has a file of the prediction, in half precision, for each image and its seeds.
    """

    annotator: Annotator
    folder: Path
    name: ClassVar[str] = "kept"

    def check(self) -> None:
        """As the annotator does."""
        self.annotator.check()

    def predict(self, image: ImageLike, seeds: torch.Tensor, num_classes: int) -> torch.Tensor:
        """As the annotator does, or did."""
        seen = as_image(image).unit.numpy().tobytes() + seeds.numpy().tobytes()
        file = self.folder / f"{hashlib.sha256(seen).hexdigest()[:20]}.npy"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            made = self.annotator.predict(image, seeds, num_classes)
            write_atomic(file, lambda part: np.save(part, made.half().numpy()))
        return torch.from_numpy(np.load(file)).float()


def with_kept(method: Method, folder: Path) -> Method:
    """The method, whose annotator's predictions are kept."""
    if method.labeler is None or method.labeler.annotator is None:
        return method
    return replace(method, labeler=replace(method.labeler, annotator=Kept(method.labeler.annotator, folder)))


ANY = Path()
"""The labels are of arrays: no file is looked at."""


def annotated(model: str, regularizer: str) -> Method:
    """The network fits the labels of a model."""
    predicted = "probs" in MODELS[model].needs
    probs = ANY if predicted else None
    options = AnnotateOptions(
        images=ANY, out=ANY, seeds=ANY, probs=probs, model=model, regularizer=regularizer
    )
    labeler = registry.labeler(preset(options), predicted=predicted)
    return Method(SeedsOnly(BALANCE), labeler, predicted=predicted)


ENDS = (BALANCED, SCRIBBLES)
ANNOTATED: Mapping[str, Method] = {name: METHODS[name] for name in ENDS} | {
    f"{model}, {regularizer}": annotated(model, regularizer)
    for regularizer in REGULARIZERS
    for model in MODELS
}


def main() -> None:
    options = parsed(__doc__, ANNOTATED)
    run_all(
        options,
        {name: with_kept(method, options.out / "predictions") for name, method in ANNOTATED.items()},
    )
    scores = scores_in(options.out, tuple(ANNOTATED))
    by_method = {
        name: {one.seed: one.iou for one in scores if one.method == name}
        for name in dict.fromkeys(one.method for one in scores)
    }
    common = set.intersection(*(set(each) for each in by_method.values()))
    if not common or not set(ENDS) <= by_method.keys():
        print(f"no gap yet: a seed of all of {', '.join((*ENDS, *options.methods))} is missing")
        return
    means = {name: statistics.mean(each[seed] for seed in common) for name, each in by_method.items()}
    others = [(name, mean) for name, mean in means.items() if name not in ENDS]
    text = gap_markdown(Gap(means[BALANCED], means[SCRIBBLES]), others)
    (options.out / "gap.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
