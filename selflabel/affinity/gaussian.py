"""The Gaussian kernel of place and features: one record for windows and for all pairs."""

from dataclasses import dataclass

from selflabel.affinity.stencil import check_positive


@dataclass(frozen=True)
class GaussianKernel:
    """``weight · exp(-½ d² / sigma_xy² - ½ ‖f_i - f_j‖² / sigma_rgb²)``; a sigma of None leaves its part out.

    `sigma_xy` in pixels (in units of the spacing, if one is given), `sigma_rgb` in 0..255 units for images and
    in the features' own otherwise. Raises `ValueError` unless the weight and the sigmas are positive and finite.
    """

    weight: float
    sigma_xy: float | None
    sigma_rgb: float | None

    def __post_init__(self) -> None:
        check_positive("weight of every kernel", self.weight)
        for name, sigma in (("sigma_xy", self.sigma_xy), ("sigma_rgb", self.sigma_rgb)):
            if sigma is not None:
                check_positive(name, sigma)
