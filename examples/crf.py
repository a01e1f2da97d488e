"""A dense CRF as loss, as post-processing, and as a trained layer (Tang et al., ECCV 2018, Table 4, in small).

    python examples/crf.py DATA/camvid --out runs/camvid --seeds 1

The data, network and protocol of camvid.py, whose options these are; its runs are taken over from the same OUT. Three
networks are trained from scribbles: plain, with the dense CRF loss, and with a dense CRF as the last layer. The first
two are also scored with mean field behind them, whose weight is the best on every eighth training image: 0 changes
nothing. Prints a Markdown table of mean IoU over the classes, and writes it to OUT/crf.md.
"""

import statistics

import torch
from camvid import METHODS
from camvid_runs import (
    CLASSES,
    SCRIBBLES,
    Method,
    arguments,
    data_of,
    network_of,
    plain,
    protocol_of,
    run,
)

from selflabel.affinity import GaussianKernel
from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Sample
from selflabel.networks import MeanFieldLayer, WithMeanField
from selflabel.training import Batches, SeedsOnly, evaluate, load_weights

LAYER = "trained CRF layer"
CHOSEN = (SCRIBBLES, "gradient descent, dense")
RUNS = {name: METHODS[name] for name in CHOSEN} | {LAYER: Method(SeedsOnly(), layer=True)}

WEIGHTS = (0.0, 0.3, 1.0, 3.0)
"""Of both kernels."""


def score(net: torch.nn.Module, samples: list[Sample]) -> float:
    """The mean IoU of some samples."""
    found = evaluate(net, Batches(samples, CLASSES, 4, held_out=samples).validation(), CLASSES)
    assert found is not None
    return found.mean_iou


def post_processed(net: torch.nn.Module, weight: float) -> torch.nn.Module:
    """The network with mean field behind it."""
    if weight == 0:
        return net
    kernels = (GaussianKernel(weight, 40.0, 10.0), GaussianKernel(weight, 3.0))
    return WithMeanField(net, MeanFieldLayer(CLASSES, kernels))


def main() -> None:
    options = arguments(__doc__, RUNS).parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    samples, held_out = data_of(options)
    found: dict[str, list[float]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        data = Batches(samples, CLASSES, options.batch, seed, Augmentation(), held_out, options.batch)
        for name in options.methods:
            method = RUNS[name]
            found.setdefault(name, []).append(
                run(method, name, seed, data, options.out, protocol_of(options)).iou
            )
            if method.layer:
                continue
            net = network_of(method, protocol_of(options))
            load_weights(options.out / plain(name) / str(seed) / "last.pt", net)
            best = max(WEIGHTS, key=lambda weight: score(post_processed(net, weight), samples[::8]))
            print(name, seed, "weight", best, flush=True)
            found.setdefault(f"{name}, then mean field", []).append(
                score(post_processed(net, best), held_out)
            )
    lines = ["| method | mean IoU | runs |", "| --- | --- | --- |"]
    lines += [f"| {name} | {statistics.mean(each):.3f} | {len(each)} |" for name, each in found.items()]
    (options.out / "crf.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
