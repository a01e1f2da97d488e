"""Losses of a network's logits, means per pixel: functions, and modules that training treats alike."""

from selflabel.losses.cross_entropy import (
    class_frequencies,
    click_weights,
    entropy_loss,
    partial_cross_entropy,
)
from selflabel.losses.dense_crf import dense_crf_loss, kernel_cut_loss, normalized_cut_loss
from selflabel.losses.gated_crf import GatedCRFLoss, gated_crf_loss
from selflabel.losses.image_tags import (
    ConstrainToBoundaryLoss,
    ExpansionLoss,
    constrain_to_boundary_loss,
    expansion_loss,
)
from selflabel.losses.modules import (
    DenseCRFLoss,
    EntropyLoss,
    KernelCutLoss,
    KMeansLoss,
    Loss,
    NonExistLoss,
    NormalizedCutLoss,
    PartialCrossEntropy,
    PottsLoss,
    SelfLabelingLoss,
)
from selflabel.losses.potts import potts_loss
from selflabel.losses.regions import kmeans_loss, non_exist_loss
from selflabel.losses.self_labeling import self_labeling_loss

__all__ = [
    "ConstrainToBoundaryLoss",
    "DenseCRFLoss",
    "EntropyLoss",
    "ExpansionLoss",
    "GatedCRFLoss",
    "KMeansLoss",
    "KernelCutLoss",
    "Loss",
    "NonExistLoss",
    "NormalizedCutLoss",
    "PartialCrossEntropy",
    "PottsLoss",
    "SelfLabelingLoss",
    "class_frequencies",
    "click_weights",
    "constrain_to_boundary_loss",
    "dense_crf_loss",
    "entropy_loss",
    "expansion_loss",
    "gated_crf_loss",
    "kernel_cut_loss",
    "kmeans_loss",
    "non_exist_loss",
    "normalized_cut_loss",
    "partial_cross_entropy",
    "potts_loss",
    "self_labeling_loss",
]
