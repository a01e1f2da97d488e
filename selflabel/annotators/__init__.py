"""Annotators: predictions from one image and its seeds, for when there is no network (Mayer et al.)."""

from selflabel.annotators.forest import ForestAnnotator
from selflabel.annotators.mixture import MixtureAnnotator
from selflabel.annotators.product import ProductAnnotator
from selflabel.annotators.protocol import Annotator
from selflabel.annotators.walker import WalkerAnnotator

_ALL: tuple[type[Annotator], ...] = (MixtureAnnotator, ForestAnnotator, WalkerAnnotator, ProductAnnotator)
ANNOTATORS: dict[str, type[Annotator]] = {annotator.name: annotator for annotator in _ALL}

__all__ = [
    "ANNOTATORS",
    "Annotator",
    "ForestAnnotator",
    "MixtureAnnotator",
    "ProductAnnotator",
    "WalkerAnnotator",
]
