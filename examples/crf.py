"""A dense CRF as loss, as post-processing, and as a trained layer (Tang et al., ECCV 2018, Table 4, in small).

    python examples/crf.py DATA/camvid --out runs/camvid --seeds 1

The data, network and protocol of camvid.py, whose options these are; its runs are taken over from the same OUT. Three
networks are trained from scribbles: plain, with the dense CRF loss, and with a dense CRF as the last layer. The first
two are also scored with mean field behind them, whose weight is the best on every eighth training image: 0 changes
nothing. Prints a Markdown table of mean IoU over the classes, and writes it to OUT/crf.md.
"""

import statistics
from dataclasses import replace

import torch
from camvid import METHODS
from camvid_runs import (
    CLASSES,
    SCRIBBLES,
    Method,
    data_by_seed,
    data_of,
    mean_iou,
    network_of,
    parsed,
    plain,
    protocol_of,
    run,
)

from selflabel.affinity import GaussianKernel
from selflabel.networks import MeanFieldLayer, WithMeanField
from selflabel.training import SeedsOnly, load_weights

LAYER = "trained CRF layer"
CHOSEN = (SCRIBBLES, "gradient descent, dense")
RUNS = {name: METHODS[name] for name in CHOSEN} | {LAYER: Method(SeedsOnly(), layer=True)}

WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0)
"""Of both kernels."""


def post_processed(net: torch.nn.Module, weight: float) -> torch.nn.Module:
    """The network with mean field behind it."""
    if weight == 0:
        return net
    kernels = (GaussianKernel(weight, 40.0, 10.0), GaussianKernel(weight, 3.0))
    return WithMeanField(net, MeanFieldLayer(CLASSES, kernels))


def main() -> None:
    options = parsed(__doc__, RUNS)
    torch.set_num_threads(1)
    samples, held_out = data_of(options)
    found: dict[str, list[float]] = {}
    for seed, data in data_by_seed(options, samples, held_out):
        chosen_on = replace(data, held_out=samples[::8])
        for name in options.methods:
            method = RUNS[name]
            found.setdefault(name, []).append(
                run(method, name, seed, data, options.out, protocol_of(options)).iou
            )
            if method.layer:
                continue
            net = network_of(method, protocol_of(options))
            load_weights(options.out / plain(name) / str(seed) / "last.pt", net)
            best = max(WEIGHTS, key=lambda weight: mean_iou(post_processed(net, weight), chosen_on))
            print(name, seed, "weight", best, flush=True)
            found.setdefault(f"{name}, then mean field", []).append(mean_iou(post_processed(net, best), data))
    lines = ["| method | mean IoU | runs |", "| --- | --- | --- |"]
    lines += [f"| {name} | {statistics.mean(each):.3f} | {len(each)} |" for name, each in found.items()]
    (options.out / "crf.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
