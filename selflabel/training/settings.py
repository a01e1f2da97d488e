"""The settings of a training run."""

from dataclasses import dataclass, fields
from math import inf

from selflabel.kinds import check_fields
from selflabel.training.schedule import AdamW, OptimizerFactory


@dataclass(frozen=True)
class TrainingSettings:
    """The schedule of a run. A step is one batch: a solve (if any) and its network steps.

    steps: of the whole run; the first `pretrain_steps` are on the seeds alone, and over the next `warmup_steps`
    the weight of labels or regularizers rises evenly to its full value. learning_rate: of the first step, decays
    as ``(1 - step/steps)^power``. new_layers_rate: a factor on it for layers without pretrained weights.
    network_steps: for each batch.

    relabel_every: the steps (an epoch, say) between two labelings of all images, whose stored labels are fitted in
    between; None: new labels for every batch. warm_start: solves start from the last labels of an image. Both need
    data whose images always come in the same geometry.

    validate_every, measure_every (the monitor), checkpoint_every: in steps, 0 for never; the last step is
    validated, measured and saved in any case. first_scored: means over classes start here (1 leaves the background
    out). average: the decay of an exponential moving average of the weights, which is then validated.
    bfloat16: automatic mixed precision. seed: of everything drawn at random in the network.

    workers: processes that load batches (`loading.default_workers`: a number for a GPU; a script that gives one begins
    with ``if __name__ == "__main__":``, as the processes import it). read_every: steps after which the losses are read
    from the device and become rows of the history, at the latest; None: 1 on the CPU, 10 on a GPU, which the host then
    need not wait for in between.
    """

    steps: int = 1000
    pretrain_steps: int = 0
    warmup_steps: int = 0
    learning_rate: float = 1e-3
    new_layers_rate: float = 1.0
    power: float = 0.9
    optimizer: OptimizerFactory = AdamW()
    network_steps: int = 1
    relabel_every: int | None = None
    warm_start: bool = False
    validate_every: int = 100
    measure_every: int = 10
    checkpoint_every: int = 100
    first_scored: int = 0
    average: float | None = None
    bfloat16: bool = False
    seed: int = 1
    workers: int = 0
    read_every: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (
            ("steps", 1),
            ("pretrain_steps", 0),
            ("warmup_steps", 0),
            ("power", 0),
            ("network_steps", 1),
            ("validate_every", 0),
            ("measure_every", 0),
            ("checkpoint_every", 0),
            ("first_scored", 0),
            ("seed", 0),
            ("workers", 0),
        ):
            if not least <= getattr(self, name) < inf:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < inf:
            raise ValueError(f"expected a learning rate > 0, got {self.learning_rate}")
        if not 0 < self.new_layers_rate < inf:
            raise ValueError(
                f"expected a factor > 0 on the learning rate of new layers, got {self.new_layers_rate}"
            )
        if self.relabel_every is not None and self.relabel_every < 1:
            raise ValueError(f"expected relabel_every >= 1 steps, or None, got {self.relabel_every}")
        if self.read_every is not None and self.read_every < 1:
            raise ValueError(f"expected read_every >= 1 step, or None, got {self.read_every}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"expected the decay of the average in (0, 1), or None, got {self.average}")

    def plain(self) -> dict[str, str]:
        """Every setting as text, for checkpoints."""
        return {field.name: repr(getattr(self, field.name)) for field in fields(self)}
