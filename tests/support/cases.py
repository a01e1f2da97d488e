"""Small images with seeds and masks, small networks and a data set of them, for the tests of training."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from selflabel.datasets.samples import Batch, Sample, collate
from selflabel.losses.modules import PottsLoss
from selflabel.solvers import GradientDescent
from selflabel.training import (
    Alternator,
    Batches,
    LabelStore,
    Process,
    Regularized,
    SelfLabeling,
    TrainingSettings,
    WeightedLoss,
)

CLASSES = 3
SOFT = SelfLabeling(
    replace(GradientDescent.default_energy, pairwise_weight=1.3), GradientDescent(), max_steps=20
)
GRID = Regularized((WeightedLoss("potts", 0.5, PottsLoss()),))
QUICK = TrainingSettings(
    steps=6,
    pretrain_steps=2,
    warmup_steps=2,
    learning_rate=0.01,
    validate_every=3,
    measure_every=2,
    checkpoint_every=3,
)


def sample(number: int, *, size: int = 16, mask: bool = True) -> Sample:
    """A square and a bar on a dark ground, with a stroke on each; the place depends on the number."""
    generator = torch.Generator().manual_seed(2 * number + 1)
    true = torch.zeros(size, size, dtype=torch.int64)
    top = 5 + number % 4
    true[top : top + 6, 2:9] = 1
    true[1:4, 11:15] = 2
    noise = 0.05 * torch.randn(size, size, generator=generator)
    image = (torch.tensor([0.2, 0.6, 0.9])[true] + noise).clamp(0, 1)[None]
    seeds = torch.full((size, size), 255)
    seeds[top + 2, 3 : 4 + number % 4] = 1  # strokes differ in length, so that shares of processes differ
    seeds[2, 12:14] = 2
    seeds[size - 1, :] = 0
    return Sample(f"im{number}", image, seeds, true if mask else None)


def samples(count: int, *, mask: bool = True) -> list[Sample]:
    """The first `count` samples."""
    return [sample(number, mask=mask) for number in range(count)]


def batch(count: int = 3, *, double: bool = False) -> Batch:
    """The first `count` samples as a batch."""
    found = collate(samples(count))
    return Batch(found.stems, found.images.double(), found.seeds, found.masks) if double else found


def network(
    seed: int = 3, *, norm: bool = False, dropout: float = 0.0, double: bool = False
) -> nn.Sequential:
    """Two convolutions; without `norm`, images of a batch are independent."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Dropout2d(dropout),
        nn.Conv2d(6, CLASSES, 3, padding=1),
    )
    return net.double() if double else net


def batches(count: int = 6, size: int = 3) -> Batches:
    """The first samples, two of them to validate with."""
    return Batches(samples(count), CLASSES, size, seed=5, held_out=samples(2))


@dataclass(frozen=True)
class Constant:
    """Data whose batch is always the same one."""

    batch: Batch
    classes: int = CLASSES
    fixed: bool = True

    def training(self, step: int, process: Process) -> Batch:
        """The batch."""
        return self.batch

    def images(self, process: Process) -> Iterator[Batch]:
        """The batch."""
        yield self.batch

    def validation(self, process: Process) -> Iterator[Batch]:
        """Nothing."""
        return iter(())


def alternator(net: nn.Module, store: LabelStore | None = None) -> Alternator:
    """Soft self-labeling of weight 1, with plain gradient descent on the network."""
    objective = SelfLabeling(SOFT.energy, GradientDescent(), weight=1.0)
    return Alternator(net, objective, torch.optim.SGD(net.parameters(), 0.1), store=store)
