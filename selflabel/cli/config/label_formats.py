"""The meaning of label files from options."""

from pathlib import Path

from selflabel.files.color_maps import read_color_map
from selflabel.files.label_files import LabelFormat


def label_format(unlabeled: int, offset: int, values: str | None, colors: str | Path | None) -> LabelFormat:
    """The format that options describe: `values` as in "0,255", `colors` a file of `read_color_map`.

    Raises `ValueError` for values that are no whole numbers, and as `LabelFormat` and `read_color_map` do.
    """
    return LabelFormat(
        unlabeled,
        offset,
        _whole_numbers(values) if values is not None else (),
        read_color_map(Path(colors)) if colors is not None else (),
    )


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(
            f"expected values as whole numbers with commas, such as 0,255, got {text!r}"
        ) from error
