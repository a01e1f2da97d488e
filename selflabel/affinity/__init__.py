"""Affinities: who is whose neighbor, how strongly. Operators W, built from an image or from features."""

from selflabel.affinity.builders import (
    AffinityBuilder,
    Contrast,
    Dense,
    EdgeStop,
    Grid,
    SparseNonlocal,
    Window,
)
from selflabel.affinity.dense import DENSE_CRF_KERNELS, POST_PROCESSING, DenseAffinity
from selflabel.affinity.filters.exact import Exact
from selflabel.affinity.filters.lattice import COARSE, FINE, Lattice
from selflabel.affinity.filters.protocol import FilterBuilder
from selflabel.affinity.gaussian import GaussianKernel
from selflabel.affinity.grid import GridAffinity
from selflabel.affinity.protocol import Affinity, Edges, SparseAffinity
from selflabel.affinity.sparse_nonlocal import SparseNonlocalAffinity
from selflabel.affinity.window import GATED_CRF_KERNELS, WindowAffinity

__all__ = [
    "COARSE",
    "DENSE_CRF_KERNELS",
    "FINE",
    "GATED_CRF_KERNELS",
    "POST_PROCESSING",
    "Affinity",
    "AffinityBuilder",
    "Contrast",
    "Dense",
    "DenseAffinity",
    "EdgeStop",
    "Edges",
    "Exact",
    "FilterBuilder",
    "GaussianKernel",
    "Grid",
    "GridAffinity",
    "Lattice",
    "SparseAffinity",
    "SparseNonlocal",
    "SparseNonlocalAffinity",
    "Window",
    "WindowAffinity",
]
