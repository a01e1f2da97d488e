"""Seconds of a network's training step, an image, on one core of the CPU.

    python tests/benchmarks/network_steps.py --shares 1 0.5 --batches 1 4 8

A step: logits, partial cross entropy from 4 % of the pixels, gradients, SGD. Images are 480 x 360 pixels (camvid's)
times each share. Times are processor seconds of this process alone, the least of three steps after one that is not
counted; other processes that share caches and memory make them longer. Prints a Markdown table. Peak: memory of the
largest step so far, of the whole process.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from selflabel.labels import UNLABELED
from selflabel.networks import network

CAMVID, CLASSES, SEEDED = (360, 480), 11, 0.04
NETWORKS = ("unet", "deeplabv3plus-efficientnet-lite0", "deeplabv3plus-efficientnet-lite0:8")


def stepping(name: str, batch: int, size: tuple[int, int]) -> Callable[[], None]:
    """A function that takes one step."""
    torch.manual_seed(3)
    net = network(name, 3, CLASSES, size)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, 0.9)
    images = torch.rand(batch, 3, *size)
    seeds = torch.randint(CLASSES, (batch, *size))
    seeds[torch.rand(batch, *size) > SEEDED] = UNLABELED

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(images), seeds, ignore_index=UNLABELED))
        optimizer.step()

    return step


def least(step: Callable[[], None], repeats: int) -> float:
    """Processor seconds."""
    step()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--shares", nargs="+", type=float, default=[1.0, 0.5], help="of camvid's sides")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | pixels | batch | seconds an image | peak, GB |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.networks:
        for share in options.shares:
            size = (round(share * CAMVID[0]), round(share * CAMVID[1]))
            for batch in options.batches:
                seconds = least(stepping(name, batch, size), options.repeats) / batch
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                print(
                    f"| {name} | {size[1]} x {size[0]} | {batch} | {seconds:.2f} | {peak:.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
