"""Training: objectives, the alternation of solver and network, histories, checkpoints, several processes."""

from selflabel.training.alternator import Alternator, relabel
from selflabel.training.batches import Batches, DataSource
from selflabel.training.checkpoint import Checkpoint, load_checkpoint, load_weights
from selflabel.training.distributed import Process, current_process, process_group
from selflabel.training.evaluate import Scores, evaluate
from selflabel.training.history import History, Row, read_history
from selflabel.training.monitor import Monitor
from selflabel.training.objectives import (
    FullMasks,
    Objective,
    Regularized,
    SeedsOnly,
    Terms,
    WeightedLoss,
    WeightedMean,
)
from selflabel.training.presets import default_objective
from selflabel.training.pseudo_labels import PseudoLabels
from selflabel.training.schedule import SGD, AdamW, OptimizerFactory
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.settings import TrainingSettings
from selflabel.training.starters import InitialLabels, KeptLabels
from selflabel.training.step import LabelSource, StepReport, TrainingError, advance
from selflabel.training.store import DiskStore, LabelStore, MemoryStore
from selflabel.training.tensorboard import TensorBoard
from selflabel.training.train import train

__all__ = [
    "SGD",
    "AdamW",
    "Alternator",
    "Batches",
    "Checkpoint",
    "DataSource",
    "DiskStore",
    "FullMasks",
    "History",
    "InitialLabels",
    "KeptLabels",
    "LabelSource",
    "LabelStore",
    "MemoryStore",
    "Monitor",
    "Objective",
    "OptimizerFactory",
    "Process",
    "PseudoLabels",
    "Regularized",
    "Row",
    "Scores",
    "SeedsOnly",
    "SelfLabeling",
    "StepReport",
    "TensorBoard",
    "Terms",
    "TrainingError",
    "TrainingSettings",
    "WeightedLoss",
    "WeightedMean",
    "advance",
    "current_process",
    "default_objective",
    "evaluate",
    "load_checkpoint",
    "load_weights",
    "process_group",
    "read_history",
    "relabel",
    "train",
]
