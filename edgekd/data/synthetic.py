"""Made-up images, for who has no data: random, seeded, and with the statistics of photographs that matter to ranges.

Power falls about with the square of the spatial frequency, as in natural scenes (Field 1987, "Relations between the
statistics of natural images and the response properties of cortical cells"), regions end in sharp edges, colour
channels vary mostly together, and images differ in brightness and contrast. White noise has none of that, and drives
a network's activations where photographs never do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekd.artifact import canonical_json
from edgekd.data.counter_random import Stream, random_words
from edgekd.data.samples import ImageSamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd.data.contract import Contract

VERSION: Final = 1  # of the recipe below: other pixels, another fingerprint
# What a channel is the sum of: standard deviation, and by which power of the frequency the amplitude falls.
_TEXTURE, _REGIONS, _COLOUR = (0.5, 1.0), (0.75, 2.0), (0.4, 1.5)
_BRIGHTNESS: Final = 0.5  # of a whole image, in standard deviations of the contract
_CONTRAST: Final = (0.5, 1.25)


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticImages:
    """A source of made-up images; each depends on the seed and its number alone.

    Attributes:
        contract: Says their size, and the mean and standard deviation of each channel.
        count: How many there are.
        seed: Of all that is random.
    """

    contract: Contract
    count: int
    seed: int = 0

    name = "synthetic images"
    classes: tuple[str, ...] = ()
    labels = None
    predefined_test = None
    is_images = True

    def __len__(self) -> int:
        return self.count

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return (*self.contract.size, self.contract.channels)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides the pixels."""
        decides = [VERSION, self.seed, self.sample_shape, self.contract.mean, self.contract.std]
        return hashlib.sha256(canonical_json(decides)).hexdigest()

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Make images.

        Returns:
            uint8 of shape (n, height, width, channels), RGB or gray.
        """
        return np.stack([self._image(int(index)) for index in indices])

    def _image(self, index: int) -> NDArray[np.uint8]:
        height, width = self.contract.size
        channels = self.contract.channels
        count = (channels + 2) * height * (width // 2 + 1)
        words = random_words(count + 2, seed=self.seed, stream=Stream.SYNTHETIC, epoch=index)
        uniform: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        powers = np.array([_TEXTURE[1], _REGIONS[1]] + [_COLOUR[1]] * channels)
        fields = _fields(uniform[:count].reshape(channels + 2, height, -1), powers, (height, width))
        shared = _TEXTURE[0] * fields[0] + _REGIONS[0] * np.sign(fields[1])
        contrast = _CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * uniform[count]
        brightness = _BRIGHTNESS * np.sqrt(12) * (uniform[count + 1] - 0.5)
        image = brightness + contrast * (shared + _COLOUR[0] * fields[2:])
        mean, std = (np.array(values)[:, None, None] for values in (self.contract.mean, self.contract.std))
        if self.contract.colour == "BGR":
            mean, std = mean[::-1], std[::-1]
        scaled = np.clip(np.rint(255 * (mean + std * image)), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(scaled.transpose(1, 2, 0))


def _fields(phases: NDArray[np.float64], powers: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return fields (n, height, width) of mean 0 and variance 1 whose amplitude falls with a power of the frequency.

    Args:
        phases: Of each frequency, in turns, shape (n, height, width // 2 + 1).
        powers: Shape (n,).
        size: Height and width.
    """
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency[0, 0] = np.inf
    fields = np.fft.irfft2(np.exp(2j * np.pi * phases) / frequency ** powers[:, None, None], size)
    spread = np.maximum(fields.std(axis=(1, 2), keepdims=True), np.finfo(np.float64).tiny)
    normal: NDArray[np.float64] = (fields - fields.mean(axis=(1, 2), keepdims=True)) / spread
    return normal


def synthetic_images(contract: Contract, count: int, seed: int = 0) -> ImageSamples:
    """Return so many made-up images, prepared as the contract of a model of images says."""
    return ImageSamples(
        name="synthetic images",
        source=SyntheticImages(contract=contract, count=count, seed=seed),
        indices=np.arange(count, dtype=np.int64),
        contract=contract,
    )
