"""Made-up images: seeded, with the contract's statistics, and more like photographs than like noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekd.data import Contract
from edgekd.data.synthetic import SyntheticImages, synthetic_images

CONTRACT = Contract(
    layout="NCHW", shape=(3, 48, 64), colour="RGB", mean=(0.55, 0.45, 0.35), std=(0.15, 0.2, 0.1), input="x"
)


def pixels(contract: Contract = CONTRACT, count: int = 64, seed: int = 0) -> np.ndarray:
    return SyntheticImages(contract=contract, count=count, seed=seed).pixels(np.arange(count))


def test_an_image_depends_on_seed_and_number_alone() -> None:
    source = SyntheticImages(contract=CONTRACT, count=9)
    every = source.pixels(np.arange(9))
    assert every.shape == (9, 48, 64, 3)
    assert every.dtype == np.uint8
    np.testing.assert_array_equal(source.pixels(np.array([7, 2])), every[[7, 2]])
    assert (pixels(seed=1, count=9) != every).mean() > 0.9
    assert len({image.tobytes() for image in every}) == 9
    assert source.fingerprint != replace(source, seed=1).fingerprint
    assert source.fingerprint == replace(source, count=3).fingerprint


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_prepared_images_are_centred_as_the_contract_wants(colour: str) -> None:
    samples = synthetic_images(replace(CONTRACT, colour=colour), 64)
    batch = samples.batch(range(64))["x"]
    assert batch.shape == (64, 3, 48, 64)
    assert np.abs(batch.mean(axis=(0, 2, 3))).max() < 0.3
    deviations = batch.std(axis=(0, 2, 3))
    assert deviations.min() > 0.7
    assert deviations.max() < 1.5


def test_power_falls_with_the_square_of_the_frequency_and_white_noise_does_not() -> None:
    def slope(images: np.ndarray) -> float:
        """Of power against frequency, both as logarithms."""
        power = (np.abs(np.fft.fft2(images.astype(float), axes=(1, 2))) ** 2).mean(axis=(0, 3))
        frequency = np.hypot(np.fft.fftfreq(48)[:, None], np.fft.fftfreq(64))
        inside = (frequency > 0.03) & (frequency < 0.4)
        return float(np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0])

    assert -2.3 < slope(pixels()) < -1.4
    assert abs(slope(np.random.default_rng(0).integers(0, 256, (64, 48, 64, 3)))) < 0.1


def test_channels_vary_together_and_images_differ_in_brightness() -> None:
    images = pixels().astype(float)
    flat = images.reshape(-1, 3)
    assert np.corrcoef(flat.T)[0, 1] > 0.6
    assert images.mean(axis=(1, 2, 3)).std() > 4


def test_gray_images_of_a_single_pixel() -> None:
    contract = Contract(layout="NHWC", shape=(1, 1, 1), colour="gray", mean=(0.5,), std=(0.2,))
    assert pixels(contract, count=3).shape == (3, 1, 1, 1)
