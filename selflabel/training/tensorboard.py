"""Histories in TensorBoard: a callback."""

from pathlib import Path

from selflabel.kinds import checked
from selflabel.training.history import Row


class TensorBoard:
    """Write every number of a row as a scalar at its step: ``train(..., callbacks=(TensorBoard(folder),))``.

    Raises `ImportError` if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        folder = checked(folder, Path, "folder")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard is not installed: pip install 'selflabel[tensorboard]'") from error
        self._writer = SummaryWriter(str(folder))

    def __call__(self, row: Row) -> None:
        """Add a row."""
        step = int(row["step"] or 0)
        for name, value in row.items():
            if value is not None and name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()
