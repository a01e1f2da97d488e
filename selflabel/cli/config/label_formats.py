"""The meaning of label files from options."""

from pathlib import Path
from typing import Final

from selflabel.files.color_maps import read_color_map
from selflabel.files.label_files import LabelFormat
from selflabel.files.spelling import Spelling

OPTIONS: Final = {
    "unlabeled": "--unlabeled",
    "offset": "--seeds-offset",
    "values": "--values",
    "colors": "--colors",
    "num_classes": "--num-classes",
}
SEEDS: Final = Spelling(OPTIONS)
"""The options of the seeds of `label` and `train`."""
MASKS: Final = Spelling(
    {
        **OPTIONS,
        "unlabeled": "--masks-unlabeled",
        "offset": "--masks-offset",
        "values": "--masks-values",
        "colors": "--masks-colors",
    }
)
"""Those of the masks of `train`."""
TRUTH: Final = Spelling({**OPTIONS, "offset": "--truth-offset"})
PREDICTED: Final = Spelling({**OPTIONS, "values": "--pred-values", "colors": "--pred-colors"})
"""Those of the two folders of `score`."""
PROBABILITIES: Final = Spelling(
    {
        "channels_last": "--probs-layout",
        "channels_last=True": "--probs-layout hwk",
        "channels_last=False": "--probs-layout khw",
        "key": "--probs-key",
        "logits": "--probs-values",
        "logits=True": "--probs-values logits",
    }
)
"""Those of the predictions of `label`."""


def label_format(
    unlabeled: int, offset: int, values: str | None, colors: str | Path | None, spelling: Spelling = SEEDS
) -> LabelFormat:
    """The format that options describe: `values` as in "0,255", `colors` a file of `read_color_map`.

    spelling: how these options are called.
    Raises `ValueError` for values that are no whole numbers, and as `LabelFormat` and `read_color_map` do.
    """
    return LabelFormat(
        unlabeled,
        offset,
        _whole_numbers(values) if values is not None else (),
        read_color_map(Path(colors)) if colors is not None else (),
        spelling,
    )


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(
            f"expected values as whole numbers with commas, such as 0,255, got {text!r}"
        ) from error
