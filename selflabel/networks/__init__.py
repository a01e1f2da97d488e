"""Networks by name: each takes images ``[b c *s]`` of any size and returns logits ``[b k *s]``.

====================================  ===================================================================
name                                  network
====================================  ===================================================================
``unet``, ``unet:WIDTH``              a compact U-Net of our own (`UNet`), WIDTH channels at full size: 12
``deeplabv3plus-efficientnet-lite0``  DeepLabV3+ on an encoder with ImageNet's weights (extra ``pretrained``);
                                      ``...:8`` at output stride 8 instead of 16; lite1 and lite2 as well
``basic-unet``                        the U-Net of MONAI (extra ``networks``)
``deeplabv3plus-mobilenetv2``         DeepLabV3+ on MobileNetV2, of transformers (extra ``networks``)
``segformer``                         SegFormer B0, of transformers
``vit-linear``                        a vision transformer with a linear decoder, of transformers
``smp:ARCH:ENCODER``                  of segmentation_models_pytorch, where it is installed: ``smp:Unet:resnet34``
``crf:NAME``                          the network NAME with a dense CRF behind it, trained with it (`MeanFieldLayer`)
``package.module:factory``            the module that your ``factory(channels, classes)`` returns
====================================  ===================================================================

Weights are random, drawn from torch's global generator, but for the encoders of `VARIANTS`, whose weights come from an
installed package; no name needs a connection.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from selflabel.kinds import check_arguments
from selflabel.networks.any_size import AnySize
from selflabel.networks.deeplab import deeplab
from selflabel.networks.efficientnet import RANDOM, VARIANTS, Variant
from selflabel.networks.huggingface import DEEPLAB, SEGFORMER, VIT, Family
from selflabel.networks.mean_field_layer import MeanFieldLayer, WithMeanField
from selflabel.networks.unet import STRIDE, UNet

__all__ = [
    "NETWORKS",
    "RANDOM",
    "VARIANTS",
    "AnySize",
    "MeanFieldLayer",
    "UNet",
    "WithMeanField",
    "check_name",
    "module_of",
    "network",
]

DEFAULT_WIDTH = 12
DEFAULT_OUTPUT_STRIDE = 16
DEEPLAB_ON = "deeplabv3plus-"


@dataclass(frozen=True)
class Wanted:
    """A request for a network.

    options: the part of the name after the colon, None without one. random: no weights of a package. loaded: False if
    those of a checkpoint of our own come later.
    """

    name: str
    options: str | None
    channels: int
    classes: int
    size: tuple[int, ...] | None
    pretrained: str | None
    random: bool
    loaded: bool

    @property
    def axes(self) -> int:
        """Two or three; two if no size is known."""
        return 2 if self.size is None else len(self.size)


def network(
    name: str,
    channels: int,
    classes: int,
    size: int | tuple[int, ...] | None = None,
    *,
    pretrained: str | None = None,
    loaded: bool = True,
) -> nn.Module:
    """The network of that name, from images ``[b c *s]`` to logits ``[b k *s]``.

    size: the usual size of the images, one number if they are square; other sizes work, too. Three axes make a 3-D
    network (`unet` and `basic-unet`). pretrained: a checkpoint, for networks of transformers a folder or a name at
    huggingface.co, for `smp` the name of its encoder's weights; those of `VARIANTS` have ImageNet's anyway. `RANDOM`,
    for any network: random weights. loaded: False if a checkpoint of our own is to be loaded over the weights, so that
    no package is asked for them.

    Raises `ValueError` for an unknown name or option, and for axes or a checkpoint that the network does not take;
    `ImportError`, with the command that installs it, for a missing package.
    """
    given = {"name": name, "channels": channels, "classes": classes, "size": size, "pretrained": pretrained}
    check_arguments(network, {**given, "loaded": loaded})
    if channels < 1 or classes < 1:
        raise ValueError(f"expected at least one channel and one class, got {channels} and {classes}")
    size = (size, size) if isinstance(size, int) else size
    if size is not None and (len(size) not in (2, 3) or min(size) < 1):
        raise ValueError(f"expected a size of two or three axes with pixels, got {size}")
    head, colon, rest = name.partition(":")
    random = pretrained == RANDOM
    wanted = Wanted(
        head, rest if colon else None, channels, classes, size, None if random else pretrained, random, loaded
    )
    if head in NETWORKS:
        return NETWORKS[head](wanted)
    if colon:
        return _factory(wanted)
    raise ValueError(f"expected a network out of {_known()}, got {name!r}")


def check_name(name: str, pretrained: str | None = None) -> None:
    """Raise `ValueError` for a name that stands for no network, without making one or importing other code.

    Whether the module of a ``package.module:factory`` is there is seen here, whether it has the factory is not. Raises
    `ImportError` as `network` does if the package of ImageNet's weights is missing, unless `pretrained` is `RANDOM`.
    """
    head, _, inner = name.partition(":")
    if head == "crf" and inner:
        check_name(inner, pretrained)
        return
    if head in NETWORKS and head.removeprefix(DEEPLAB_ON) in VARIANTS and pretrained != RANDOM:
        VARIANTS[head.removeprefix(DEEPLAB_ON)].check()
    module = module_of(name)
    if module is None:
        if name.partition(":")[0] not in NETWORKS:
            raise ValueError(f"expected a network out of {_known()}, got {name!r}")
        return
    if not _is_there(module):
        raise ValueError(
            f"expected a network out of {_known()}, got {name!r}: there is no module {module!r} to import"
        )


def module_of(name: str) -> str | None:
    """The module that a network ``package.module:factory`` is imported from, and whose code runs; else None."""
    head, colon, inner = name.partition(":")
    if head == "crf" and colon:
        return module_of(inner)
    return head if colon and head not in NETWORKS else None


def _unet(wanted: Wanted) -> nn.Module:
    _check(wanted, axes=(2, 3), options="unet:WIDTH, a number")
    if wanted.options is not None and not wanted.options.isdecimal():
        raise ValueError(f"expected unet:WIDTH, a number, got {wanted.options!r}")
    width = DEFAULT_WIDTH if wanted.options is None else int(wanted.options)
    made = UNet(wanted.channels, wanted.classes, width, wanted.axes)
    return AnySize(made, wanted.channels, wanted.classes, stride=STRIDE, axes=wanted.axes)


def _basic_unet(wanted: Wanted) -> nn.Module:
    _check(wanted, axes=(2, 3))
    nets = _package("monai.networks.nets", "pip install 'selflabel[networks]'", wanted.name)
    made = nets.BasicUNet(spatial_dims=wanted.axes, in_channels=wanted.channels, out_channels=wanted.classes)
    return AnySize(made, wanted.channels, wanted.classes, stride=STRIDE, axes=wanted.axes)


def _of_transformers(family: Family) -> Callable[[Wanted], nn.Module]:
    def make(wanted: Wanted) -> nn.Module:
        _check(wanted, takes_checkpoints=True)
        side = None if wanted.size is None else max(wanted.size)
        return family.make(wanted.channels, wanted.classes, side, wanted.pretrained)

    return make


def _deeplab(variant: Variant) -> Callable[[Wanted], nn.Module]:
    def make(wanted: Wanted) -> nn.Module:
        _check(wanted, options=f"{wanted.name}:STRIDE, 8 or 16", takes_checkpoints=True)
        if wanted.options not in (None, "8", "16"):
            raise ValueError(f"expected {wanted.name}:STRIDE, 8 or 16, got {wanted.options!r}")
        if wanted.pretrained is not None:
            raise ValueError(
                f"expected no other weights for {wanted.name}, which has ImageNet's, than {RANDOM} ones, got "
                f"{wanted.pretrained!r}"
            )
        return deeplab(
            variant,
            wanted.channels,
            wanted.classes,
            stride=DEFAULT_OUTPUT_STRIDE if wanted.options is None else int(wanted.options),
            pretrained=not wanted.random,
            load=wanted.loaded,
        )

    return make


def _smp(wanted: Wanted) -> nn.Module:
    _check(wanted, options="smp:ARCH:ENCODER", takes_checkpoints=True)
    architecture, _, encoder = (wanted.options or "").partition(":")
    if not architecture or not encoder:
        raise ValueError(
            f"expected smp:ARCH:ENCODER, as in smp:Unet:resnet34, got {wanted.options!r} after smp:"
        )
    package = _package("segmentation_models_pytorch", "pip install segmentation-models-pytorch", "smp")
    made = package.create_model(
        architecture,
        encoder_name=encoder,
        encoder_weights=wanted.pretrained,
        in_channels=wanted.channels,
        classes=wanted.classes,
    )
    return AnySize(made, wanted.channels, wanted.classes, stride=32)


def _crf(wanted: Wanted) -> nn.Module:
    _check(wanted, axes=(2, 3), options="crf:NETWORK", takes_checkpoints=True)
    if not wanted.options:
        raise ValueError("expected crf:NETWORK, as in crf:unet, got no network after crf")
    made = network(
        wanted.options,
        wanted.channels,
        wanted.classes,
        wanted.size,
        pretrained=RANDOM if wanted.random else wanted.pretrained,
        loaded=wanted.loaded,
    )
    return WithMeanField(made, MeanFieldLayer(wanted.classes))


NETWORKS: Mapping[str, Callable[[Wanted], nn.Module]] = {
    "unet": _unet,
    "basic-unet": _basic_unet,
    **{DEEPLAB_ON + name: _deeplab(variant) for name, variant in VARIANTS.items()},
    "deeplabv3plus-mobilenetv2": _of_transformers(DEEPLAB),
    "segformer": _of_transformers(SEGFORMER),
    "vit-linear": _of_transformers(VIT),
    "smp": _smp,
    "crf": _crf,
}
"""Makers of networks, by the part of the name before the colon."""


def _factory(wanted: Wanted) -> nn.Module:
    _check(wanted, axes=(2, 3), options="package.module:factory")
    spelled = f"{wanted.name}:{wanted.options}"
    try:
        factory: Any = importlib.import_module(wanted.name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"expected a network out of {_known()}, got {spelled!r}: there is no module {error.name!r} to import"
        ) from error
    for part in (wanted.options or "").split("."):
        if not hasattr(factory, part):
            raise ValueError(
                f"expected {wanted.name} to hold the factory {wanted.options!r}, got no {part!r}"
            )
        factory = getattr(factory, part)
    try:
        result = factory(wanted.channels, wanted.classes)
    except TypeError as error:
        raise ValueError(
            f"expected {spelled} to be called with (channels, classes), got {type(error).__name__}: {error}"
        ) from error
    if not isinstance(result, nn.Module):
        raise ValueError(f"expected {spelled} to return a torch.nn.Module, got {type(result).__name__}")
    return AnySize(result, wanted.channels, wanted.classes, axes=wanted.axes)


def _is_there(module: str) -> bool:
    """True if a module can be found; its packages are imported, not itself."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _package(name: str, install: str, needed_by: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"cannot import {error.name}, which the network {needed_by} needs: {install}"
        ) from error


def _check(
    wanted: Wanted,
    *,
    axes: tuple[int, ...] = (2,),
    options: str | None = None,
    takes_checkpoints: bool = False,
) -> None:
    if wanted.options is not None and options is None:
        raise ValueError(f"expected {wanted.name} without options, got {wanted.name}:{wanted.options}")
    if wanted.axes not in axes:
        raise ValueError(
            f"expected images of two axes for {wanted.name}, got {wanted.size}: use unet or basic-unet"
        )
    if wanted.pretrained is not None and not takes_checkpoints:
        raise ValueError(f"expected no pretrained weights for {wanted.name}, got {wanted.pretrained!r}")


def _known() -> str:
    return ", ".join(
        [
            *(name for name in NETWORKS if name not in ("smp", "crf")),
            "smp:ARCH:ENCODER",
            "crf:NETWORK",
            "package.module:factory",
        ]
    )
