"""From a name to a model: the built-in architectures and, by `package.module:factory`, a user's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekd.errors import ModelError, UsageError
from edgekd.models import factory
from edgekd.models.mlp import mlp
from edgekd.models.mobilenetv2 import mobilenetv2
from edgekd.models.resnet import resnet
from edgekd.models.wide_resnet import wide_resnet
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

SMALLEST_SIDE = 4  # pixels; a quarter of it is what the last stage of a ResNet sees


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture in all its sizes.

    Attributes:
        form: How its names are written, for messages.
        pattern: Matches the whole of such a name.
        names: The ones to suggest: those of the literature and small students.
        make: Builds a model of (match, classes, shape).
    """

    form: str
    pattern: re.Pattern[str]
    names: tuple[str, ...]
    make: Callable[[re.Match[str], int, tuple[int, ...]], nn.Module]


def _resnet(match: re.Match[str], classes: int, shape: tuple[int, ...]) -> nn.Module:
    channels = _image_channels(match.string, shape)
    return resnet(int(match["depth"]), float(match["width"] or 1), classes=classes, channels=channels)


def _wide_resnet(match: re.Match[str], classes: int, shape: tuple[int, ...]) -> nn.Module:
    channels = _image_channels(match.string, shape)
    return wide_resnet(int(match["depth"]), int(match["width"]), classes=classes, channels=channels)


def _mobilenetv2(match: re.Match[str], classes: int, shape: tuple[int, ...]) -> nn.Module:
    return mobilenetv2(float(match["width"] or 1), classes=classes, channels=_image_channels(match.string, shape))


def _mlp(match: re.Match[str], classes: int, shape: tuple[int, ...]) -> nn.Module:
    return mlp([int(width) for width in match["hidden"].split("-")], classes=classes, shape=shape)


_NUMBER = r"[0-9]{1,3}(?:\.[0-9]{1,4})?"
_FAMILIES = (
    Family(
        form="resnetD or resnetDxK, D = 6n+2 layers, K times as wide",
        pattern=re.compile(rf"resnet(?P<depth>[0-9]{{1,4}})(?:x(?P<width>{_NUMBER}))?"),
        names=(
            *(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
            *(f"resnet{depth}x{width}" for depth in (8, 14, 20, 32) for width in ("0.25", "0.5", "2", "4")),
        ),
        make=_resnet,
    ),
    Family(
        form="wrn-D-K, a wide ResNet, D = 6n+4 layers, K times as wide",
        pattern=re.compile(r"wrn-(?P<depth>[0-9]{1,4})-(?P<width>[0-9]{1,3})"),
        names=("wrn-16-1", "wrn-16-2", "wrn-28-10", "wrn-40-1", "wrn-40-2"),
        make=_wide_resnet,
    ),
    Family(
        form="mobilenetv2 or mobilenetv2-xK, K times as wide",
        pattern=re.compile(rf"mobilenetv2(?:-x(?P<width>{_NUMBER}))?"),
        names=("mobilenetv2", "mobilenetv2-x0.25", "mobilenetv2-x0.5", "mobilenetv2-x0.75", "mobilenetv2-x1.4"),
        make=_mobilenetv2,
    ),
    Family(
        form="mlp-A-B-..., hidden layers of A, B, ... neurons",
        pattern=re.compile(r"mlp-(?P<hidden>[0-9]{1,6}(?:-[0-9]{1,6})*)"),
        names=("mlp-64", "mlp-128", "mlp-256-128"),
        make=_mlp,
    ),
)
NAMES = tuple(name for family in _FAMILIES for name in family.names)


def build(
    name: str,
    *,
    classes: int,
    shape: tuple[int, ...],
    arguments: Mapping[str, object] | None = None,
    folder: Path | None = None,
) -> nn.Module:
    """Return a new model of that name, with weights drawn from torch's global generator (seed it first).

    Args:
        name: A built-in name such as those in `NAMES`, or `"package.module:factory"` for a user's own model. That
            module may lie in `folder` or in the current working directory.
        classes: Number of logits, at least 2.
        shape: Shape of one sample as the model takes it: (channels, height, width) for image nets.
        arguments: What a user's factory is called with, by keyword; built-in names take none.
        folder: The recipe's, where a user's module is looked for first.

    Returns:
        A module that takes float32 of shape (N, *shape) and gives logits of shape (N, classes). A user's own is
        tried once, in eval mode, to see that it does.

    Raises:
        UsageError: no such name, or arguments that do not fit.
        ModelError: the model cannot take such samples or give such logits, or a user's factory failed.
    """
    if classes < 2:
        raise ModelError(f"{name}: a model that tells classes apart needs at least 2 of them, found {classes}")
    if not shape or min(shape) < 1:
        raise ModelError(f"{name}: every extent of a sample must be positive, found shape {tuple(shape)}")
    if factory.is_factory(name):
        return factory.build(name, classes=classes, shape=shape, arguments=arguments or {}, folder=folder)
    family, match = _find(name)
    if arguments:
        given = ", ".join(arguments)
        raise UsageError(f"{name}: a built-in model takes no arguments, found {given}; its name says it all")
    try:
        return family.make(match, classes, shape)
    except (MemoryError, RuntimeError) as error:  # torch's own word for a lack of memory is RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{name}: it cannot be built for samples of shape {tuple(shape)}: {reason}") from error


def source_digest(name: str, folder: Path | None = None) -> str | None:
    """Return what changes when the code behind a name does.

    Returns:
        For `"package.module:factory"` the hex sha256 over that module's source files (`factory.source_digest`). None
        for a built-in name, whose code edgekd's version stands for.

    Raises:
        UsageError: no such name or module.
        ModelError: importing the module failed.
    """
    if factory.is_factory(name):
        return factory.source_digest(name, folder)
    _find(name)
    return None


def _find(name: str) -> tuple[Family, re.Match[str]]:
    for family in _FAMILIES:
        match = family.pattern.fullmatch(name)
        if match:
            return family, match
    forms = "\n".join(f"  {form}" for form in (*(family.form for family in _FAMILIES), factory.FORM))
    raise UsageError(f"no model is named {name!r}{nearest(name.lower(), NAMES)}; the names are:\n{forms}")


def _image_channels(name: str, shape: tuple[int, ...]) -> int:
    if len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE:
        raise ModelError(
            f"{name}: it takes images of shape (channels, height, width), at least {SMALLEST_SIDE} pixels high "
            f"and wide, found {tuple(shape)}; for other data use mlp-A-B or a model of your own"
        )
    return shape[0]
