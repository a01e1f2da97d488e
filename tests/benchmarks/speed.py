"""This project and its peers, on the same inputs in one run: one Markdown table.

    pip install -c constraints.txt '.[fast]' -r tests/benchmarks/requirements.txt
    SELFLABEL_DATA=… python tests/benchmarks/speed.py --images 8 --out docs/speed.md

Calls take turns; seconds are medians over images and repeats, the ratio is the median of the ratios. Every job looks
at errors or energies before it says how long it took. `--jobs` chooses some. Exit code 1 if an answer is wrong.
`--keep-memory` keeps the memory that the process frees, as the command `selflabel` does: peers gain by it, too.
"""

import argparse
import platform
import sys
from pathlib import Path

import torch
from pictures import spaced
from speed_dense import gated_crf, loss, mean_field
from speed_folder import folder
from speed_monai import monai
from speed_sparse import potts, soft, walker
from timing import Row

from selflabel.kernels.malloc import keep_freed_memory

JOBS = {
    "mean-field": mean_field,
    "loss": loss,
    "monai": monai,
    "gated": gated_crf,
    "potts": potts,
    "soft": soft,
    "walker": walker,
    "folder": folder,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument(
        "--folder-images", type=int, default=60, help="of the folder job, 100 with mirrored ones"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--keep-memory", action="store_true", help="call `keep_freed_memory` first")
    options = parser.parse_args()
    if options.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    pictures = list(spaced("bsds", options.images))
    rows: list[Row] = []
    print(Row.head(), flush=True)
    for name in options.jobs:
        many = name == "folder"
        given = list(spaced("bsds", options.folder_images)) if many else pictures
        for row in JOBS[name](given, 1 if many else options.repeats):
            rows.append(row)
            print(row, flush=True)
    if options.out:
        about = (
            f"{options.images} photographs of 481x321, {options.repeats} repeats, {options.threads} threads, "
            f"Python {platform.python_version()}, torch {torch.__version__}.\n\n"
        )
        options.out.write_text(about + "\n".join([Row.head(), *map(str, rows)]) + "\n", encoding="utf-8")
    if not all(row.fine for row in rows):
        sys.exit("some answers are wrong")


if __name__ == "__main__":
    main()
