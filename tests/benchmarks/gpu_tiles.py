"""How large tiles of gradient descent should be, and how many warps work on one: a table for the GPU at hand.

    python tests/benchmarks/gpu_tiles.py
    python tests/benchmarks/gpu_tiles.py --device cpu --small        # in the interpreter, to try the script

With 4096 labels and four warps a thread needs all 255 registers (`ptxas -v` for sm_90, 21 classes), so that eight warps
fit a multiprocessor; with 1024 and eight it needs 64, and 32 fit. What is faster depends on what the memory answers
to: the table is of a step of 12 x 21 x 513² and of one of 24 x 4 x 256².
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from gpu import Clock
from gpu_base import SMALL, Sizes
from gpu_jobs import descent

from selflabel.kernels.gpu import descent as kernels
from selflabel.kernels.gpu import tiles
from selflabel.kernels.gpu.launch import Kernel

NUMBERS = (4096, 2048, 1024)
"""Labels of a tile."""

WARPS = (4, 8)


@contextmanager
def tiled(numbers: int, warps: int) -> Iterator[None]:
    """Tiles of so many labels for the steps of gradient descent."""
    measure, move = (Kernel(each._function, warps) for each in (kernels._measure, kernels._move))
    with (
        patch.object(tiles, "TILE_NUMBERS", numbers),
        patch.object(kernels, "_measure", measure),
        patch.object(kernels, "_move", move),
    ):
        yield


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a try-out")
    options = parser.parse_args()
    device, sizes = torch.device(options.device), SMALL if options.small else Sizes()
    clock = Clock(device, sizes.repeats)
    print("| labels of a tile | warps | classes | a step, ms |\n| --- | --- | --- | --- |")
    for shape in (sizes.descent, sizes.training):
        for numbers in NUMBERS:
            for warps in WARPS:
                with tiled(numbers, warps):
                    *_, step = descent(replace(sizes, descent=shape), device)
                    ms = clock.median(step.work) / step.steps
                print(f"| {numbers} | {warps} | {shape[1]} | {ms:.3f} |", flush=True)


if __name__ == "__main__":
    if torch.cuda.is_available():
        main()
    else:
        from gpu_counts import as_on_a_gpu  # which asks for the interpreter

        with as_on_a_gpu():
            main()
