"""Annotators: predictions for when there is no network.

An annotator here is no person but an appearance model that turns an image and its scribbles into a prediction: a local
"predictive annotator model" of Mayer et al., *Towards Closing the Gap in Weakly Supervised Semantic Segmentation with
DCNNs*, Sec. 2.3.1.
"""

from selflabel.annotators.filter_forest import FilterForestAnnotator
from selflabel.annotators.forest import ForestAnnotator
from selflabel.annotators.grab_cut import Box, GrabCutAnnotator, box_seeds
from selflabel.annotators.mixture import MixtureAnnotator
from selflabel.annotators.product import ProductAnnotator
from selflabel.annotators.protocol import Annotator
from selflabel.annotators.walker import WalkerAnnotator

_ALL: tuple[type[Annotator], ...] = (
    MixtureAnnotator,
    ForestAnnotator,
    FilterForestAnnotator,
    WalkerAnnotator,
    ProductAnnotator,
    GrabCutAnnotator,
)
ANNOTATORS: dict[str, type[Annotator]] = {annotator.name: annotator for annotator in _ALL}

__all__ = [
    "ANNOTATORS",
    "Annotator",
    "Box",
    "FilterForestAnnotator",
    "ForestAnnotator",
    "GrabCutAnnotator",
    "MixtureAnnotator",
    "ProductAnnotator",
    "WalkerAnnotator",
    "box_seeds",
]
