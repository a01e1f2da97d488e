"""Terms of two classes as functions of two numbers: what iso-contours are drawn of."""

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.terms.couplings import Coupling
from selflabel.terms.relaxations import Relaxation

Surface = Float[Tensor, "n n"]


def relaxation_surface(relaxation: Relaxation, values: Float[Tensor, " n"]) -> Surface:
    """``P((x, 1-x), (x', 1-x'))`` for every x (first axis) and x' of the values (Zhang & Boykov 2025, Fig. 2)."""
    return relaxation.pair(*_pairs(values))[0, 0]


def coupling_surface(coupling: Coupling, values: Float[Tensor, " n"]) -> Surface:
    """``H((y, 1-y), (s, 1-s))`` for every label y (first axis) and prediction s of the values (Fig. 3).

    Logarithms are of 1e-13 at least, so that it is finite at 0 and 1.
    """
    return coupling.value(*_pairs(values))[0, 0]


def _pairs(values: Float[Tensor, " n"]) -> tuple[Float[Tensor, "1 2 n n"], Float[Tensor, "1 2 n n"]]:
    """All pairs of distributions of two classes with these first probabilities."""
    binary = torch.stack([values, 1 - values])[None]
    n = len(values)
    return binary[..., None].expand(1, 2, n, n), binary[:, :, None].expand(1, 2, n, n)
