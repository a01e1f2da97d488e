"""What the short examples share: a pretrained network that is trained several times from one start."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from camvid_runs import mean_iou

from selflabel.datasets.augment import Augmentation
from selflabel.datasets.samples import Sample
from selflabel.networks import network
from selflabel.training import SGD, Batches, Objective, TrainingSettings, load_weights, train


@dataclass(frozen=True)
class ShortRuns:
    """Runs of as many steps each, in folders of `out`, with batches of as many images; name: of the network."""

    out: Path
    steps: int
    name: str
    pretrained: str | None
    learning_rate: float
    classes: int
    batch: int

    @classmethod
    def of(cls, options: argparse.Namespace, classes: int, batch: int) -> "ShortRuns":
        """As the options of `camvid_runs.network_parser` say."""
        return cls(
            options.out,
            options.steps,
            options.network,
            options.pretrained,
            options.learning_rate,
            classes,
            batch,
        )

    def weights(self, name: str) -> Path:
        """The file of the weights after a run."""
        return self.out / name / "last.pt"

    def loaded(self, name: str) -> torch.nn.Module:
        """The network after a run."""
        net = network(self.name, 3, self.classes, pretrained=self.pretrained)
        load_weights(self.weights(name), net)
        return net

    def trained(
        self, name: str, objective: Objective, samples: list[Sample], start: str | None = None
    ) -> torch.nn.Module:
        """The network after the steps, begun from the weights of another run if one is named."""
        torch.manual_seed(1)
        net = network(self.name, 3, self.classes, pretrained=self.pretrained)
        if start is not None:
            load_weights(self.weights(start), net)
        settings = TrainingSettings(
            self.steps,
            learning_rate=self.learning_rate,
            optimizer=SGD(),
            validate_every=0,
            measure_every=0,
        )
        data = Batches(samples, self.classes, self.batch, 1, Augmentation())
        train(net, objective, data, settings, self.out / name, resume=True)
        return self.loaded(name)

    def mean_iou(self, net: torch.nn.Module, samples: list[Sample]) -> float:
        """Over the classes of some samples."""
        return mean_iou(net, Batches(samples, self.classes, self.batch, held_out=samples))
