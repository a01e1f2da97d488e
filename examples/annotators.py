"""Annotator models: what their labels close of the gap to full masks (Mayer et al., Fig. 5, in small: hours).

    pip install '.[pretrained]'
    python examples/annotators.py DATA/camvid --out runs/camvid --seeds 1

The data, network and protocol of camvid.py, whose options these are; runs on scribbles and on full masks are taken over
from the same OUT. All training images are labeled by three models: local (a random forest an image, on a pretrained
network's first layers), global (the network that has fitted the scribbles), and combined (the mean of both), raw, with
total variation and with a dense CRF, as `selflabel annotate` does. A network goes on from the scribbles on each of the
nine. Prints the gap between full masks and scribbles, and the share of it that each closes; writes OUT/gap.md.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path

from camvid import METHODS
from camvid_runs import FULL, SCRIBBLES, Method, arguments, run_all, scores_in

from selflabel.cli.annotate import MODELS, REGULARIZERS, AnnotateOptions, preset
from selflabel.cli.config import registry
from selflabel.reports.gap import Gap, gap_markdown
from selflabel.training import SeedsOnly

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
    return Method(SeedsOnly(), labeler, predicted=predicted)


ENDS = (FULL, SCRIBBLES)
ANNOTATED: Mapping[str, Method] = {name: METHODS[name] for name in ENDS} | {
    f"{model}, {regularizer}": annotated(model, regularizer)
    for regularizer in REGULARIZERS
    for model in MODELS
}


def main() -> None:
    options = arguments(__doc__, ANNOTATED).parse_args()
    run_all(options, ANNOTATED)
    scores = scores_in(options.out, tuple(ANNOTATED))
    means = {
        name: statistics.mean(one.iou for one in scores if one.method == name)
        for name in dict.fromkeys(one.method for one in scores)
    }
    others = [(name, mean) for name, mean in means.items() if name not in ENDS]
    text = gap_markdown(Gap(means[FULL], means[SCRIBBLES]), others)
    (options.out / "gap.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
