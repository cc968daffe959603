# SPDX-License-Identifier: Apache-2.0
"""How an image becomes the input, to the bit as where the model was trained and judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_BITS = 22  # of a weight behind the point
_A = -0.5


def prepare_image(pixels: Any, image: dict[str, Any]) -> Any:
    """Turn pixels into the input.

    Args:
        pixels: uint8, height x width x 3, RGB.
        image: The manifest's `image`.

    Returns:
        float32, with a batch axis of 1.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"expected uint8 pixels of shape (height, width, 3), found {pixels.dtype} {pixels.shape}")
    if image["colour"] == "gray":
        red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
        pixels = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[..., None]
    pixels = _cover(pixels, image["height"], image["width"])
    if image["colour"] == "BGR":
        pixels = pixels[..., ::-1]
    mean, std = (np.asarray(image[key], dtype=np.float32) for key in ("mean", "std"))
    values = pixels.astype(np.float32) / (std * np.float32(255)) - mean / std
    return np.ascontiguousarray(values.transpose(2, 0, 1) if image["layout"] == "NCHW" else values)[None]


def _cover(pixels: Any, height: int, width: int) -> Any:
    """Scale an image until it just covers the size, and cut out the middle."""
    tall, wide = pixels.shape[:2]
    if (tall, wide) == (height, width):
        return pixels
    scale = max(height / tall, width / wide)
    rows, columns = max(height, round(tall * scale)), max(width, round(wide * scale))
    pixels = _resize(pixels.transpose(1, 0, 2), columns).transpose(1, 0, 2)
    pixels = _resize(pixels, rows)
    top, left = (rows - height) // 2, (columns - width) // 2
    return pixels[top : top + height, left : left + width]


def _resize(pixels: Any, extent: int) -> Any:
    """Scale the first axis, bicubic."""
    if len(pixels) == extent:
        return pixels
    firsts, weights = _weights(len(pixels), extent)
    total = np.full((extent, *pixels.shape[1:]), 1 << (_BITS - 1), dtype=np.int32)
    for tap in range(weights.shape[1]):
        rows = np.minimum(firsts + tap, len(pixels) - 1)  # beyond the end the weight is 0
        total += pixels[rows] * weights[:, tap, None, None]
    return (total >> _BITS).clip(0, 255).astype(np.uint8)


def _weights(extent_in: int, extent_out: int) -> tuple[Any, Any]:
    """Return for each output pixel the first input pixel, and the weights from there on, zeros behind them."""
    scale = extent_in / extent_out
    widened = max(scale, 1.0)
    firsts, found = [], []
    for x in range(extent_out):
        centre = (x + 0.5) * scale
        first = max(0, int(centre - 2 * widened + 0.5))
        last = min(extent_in, int(centre + 2 * widened + 0.5))
        shares = [_keys((i - centre + 0.5) * (1 / widened)) for i in range(first, last)]
        total = 0.0
        for share in shares:
            total += share
        firsts.append(first)
        found.append([int(math.copysign(0.5, share) + share / total * (1 << _BITS)) for share in shares])
    weights = np.zeros((extent_out, max(map(len, found))), dtype=np.int32)
    for x, taps in enumerate(found):
        weights[x, : len(taps)] = taps
    return np.asarray(firsts), weights


def _keys(u: float) -> float:
    t = abs(u)
    if t < 1:
        return ((_A + 2) * t - (_A + 3)) * t * t + 1
    if t < 2:
        return (((t - 5) * t + 8) * t - 4) * _A
    return 0.0
