"""Affinities: who is whose neighbor, how strongly. Operators W, built from an image or from features."""

from selflabel.affinity.dense import POST_PROCESSING, DenseAffinity, GaussianKernel
from selflabel.affinity.filters.exact import ExactFilter, SeparableFilter
from selflabel.affinity.filters.lattice import CoarseLattice, Lattice
from selflabel.affinity.grid import GridAffinity
from selflabel.affinity.protocol import Affinity, Edges, SparseAffinity
from selflabel.affinity.window import WindowAffinity, WindowKernel

__all__ = [
    "POST_PROCESSING",
    "Affinity",
    "CoarseLattice",
    "DenseAffinity",
    "Edges",
    "ExactFilter",
    "GaussianKernel",
    "GridAffinity",
    "Lattice",
    "SeparableFilter",
    "SparseAffinity",
    "WindowAffinity",
    "WindowKernel",
]
