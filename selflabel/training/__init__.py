"""Training: objectives, the alternation of solver and network, histories, checkpoints, several processes."""

from selflabel.training.alternator import Alternator, relabel
from selflabel.training.checkpoint import Checkpoint, load_checkpoint, load_weights
from selflabel.training.distributed import Part, current_part, process_group
from selflabel.training.evaluate import Scores, evaluate
from selflabel.training.feed import Data, Feed
from selflabel.training.history import History, Row, read_lines
from selflabel.training.labeling import Labeling
from selflabel.training.objectives import Direct, Full, Objective, Regularizer, Seeds, Term, Terms
from selflabel.training.schedule import SGD, AdamW, OptimizerFactory
from selflabel.training.self_labeling import SelfLabeling, Starter
from selflabel.training.settings import Settings
from selflabel.training.step import Labels, Report, TrainingError, advance
from selflabel.training.store import DiskStore, LabelStore, MemoryStore
from selflabel.training.tensorboard import TensorBoard
from selflabel.training.train import train
from selflabel.training.yardstick import Yardstick

__all__ = [
    "SGD",
    "AdamW",
    "Alternator",
    "Checkpoint",
    "Data",
    "Direct",
    "DiskStore",
    "Feed",
    "Full",
    "History",
    "LabelStore",
    "Labeling",
    "Labels",
    "MemoryStore",
    "Objective",
    "OptimizerFactory",
    "Part",
    "Regularizer",
    "Report",
    "Row",
    "Scores",
    "Seeds",
    "SelfLabeling",
    "Settings",
    "Starter",
    "TensorBoard",
    "Term",
    "Terms",
    "TrainingError",
    "Yardstick",
    "advance",
    "current_part",
    "evaluate",
    "load_checkpoint",
    "load_weights",
    "process_group",
    "read_lines",
    "relabel",
    "train",
]
