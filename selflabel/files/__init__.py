"""What is on disk: images, label files, predictions, folders. numpy only, no torch."""

from typing import Final

UNLABELED: Final = 255
"""The value of a pixel without a label, in every index and every file."""
