"""What `value_and_grad` of terms and problems return beside the value."""

from dataclasses import dataclass

from selflabel.terms.sums import Labels, Map


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient of an energy by the labels, ``value [b k *s]``, and a bound of how fast it changes.

    `curvature`, one number a pixel: the curvature of the energy in the labels of a pixel, in units of that of the
    entropy. A step over it is safe. For the Potts sum it is the degree of the reweighted affinity.
    """

    value: Labels
    curvature: Map
