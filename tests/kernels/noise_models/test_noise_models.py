"""Noise of an image: its level is found within a few percent, and counts and speckle keep their
mean.
"""

import math

import numpy as np
import pytest

from kernels.noise_models.counts import CountNoise
from kernels.noise_models.gaussian_level import block_levels, noise_level
from kernels.noise_models.mean_variance import block_moments, fit_line
from kernels.noise_models.speckle import SpeckleNoise, digamma, trigamma


def scene(side=512, seed=0):
    """A smooth scene of 40 to 200 levels with edges and, in its right half, strong texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    values = 120 + 50 * np.sin(x / 40) * np.cos(y / 55) + 30 * ((x // 90 + y // 70) % 2)
    texture = rng.normal(0, 12, (side, side))
    return values + texture * (x > side * 0.6)


@pytest.mark.parametrize("sigma", [2.0, 10.0, 25.0])
def test_the_level_of_white_noise_is_found_beside_texture(sigma):
    rng = np.random.default_rng(1)
    noisy = scene() + rng.normal(0, sigma, (512, 512))
    assert noise_level(block_levels(noisy)) == pytest.approx(sigma, rel=0.06)


def test_a_picture_without_noise_has_next_to_none():
    y, x = np.mgrid[:256, :256]
    assert noise_level(block_levels(100 + 40 * np.sin(x / 30) * np.cos(y / 41))) < 0.02


def test_unknown_and_saturated_samples_have_no_say():
    rng = np.random.default_rng(2)
    noisy = rng.normal(100, 5, (256, 256))
    valid = np.ones(noisy.shape, bool)
    valid[:, 60:140] = False
    noisy[:, 60:140] = 65535
    assert noise_level(block_levels(noisy, valid)) == pytest.approx(5, rel=0.06)
    assert noise_level(block_levels(noisy, np.zeros(noisy.shape, bool))) is None


@pytest.mark.parametrize(("gain", "read", "offset"), [(1, 0, 0), (4, 12, 100), (0.5, 0.2, 0)])
@pytest.mark.parametrize("mean", [0.3, 2, 9, 60, 900])
def test_the_inverse_of_stabilised_counts_is_unbiased(gain, read, offset, mean):
    rng = np.random.default_rng(3)
    noise = CountNoise(gain=gain, read=read, offset=offset)
    samples = rng.poisson(mean, 400_000) * gain + rng.normal(0, read, 400_000) + offset
    stabilised = noise.stabilise(samples)
    back = noise.invert(np.array([stabilised.mean()]))[0]
    scatter = math.sqrt(mean * gain**2 + read**2) / math.sqrt(len(samples))
    assert back == pytest.approx(mean * gain + offset, abs=5 * scatter + 2e-3 * gain)
    if mean >= 9:
        assert stabilised.std() == pytest.approx(1, rel=0.03)


def test_the_algebraic_inverse_would_be_biased():
    stabilised = CountNoise(gain=1).stabilise(np.random.default_rng(4).poisson(2, 400_000))
    assert (stabilised.mean() / 2) ** 2 - 0.375 < 2 - 0.15


@pytest.mark.parametrize(("gain", "read"), [(2.0, 0.0), (5.0, 20.0)])
def test_gain_and_read_noise_are_fitted(gain, read):
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:768, :768]
    counts = 20 + 150 * (x / 768) + 20 * np.sin(y / 50)
    samples = rng.poisson(counts) * gain + rng.normal(0, read, counts.shape)
    found = fit_line(block_moments(samples))
    assert found is not None
    assert found.gain == pytest.approx(gain, rel=0.1)
    base = found.read**2 - found.gain * found.offset
    assert base == pytest.approx(read**2, abs=0.12 * gain**2 * counts.mean())


def test_noise_of_one_brightness_allows_no_line():
    assert fit_line(block_moments(np.full((256, 256), 7.0))) is None


@pytest.mark.parametrize("looks", [1, 4, 12.5])
def test_speckle_keeps_its_mean(looks):
    rng = np.random.default_rng(6)
    speckle = SpeckleNoise(looks)
    intensities = 0.07 * rng.gamma(looks, 1 / looks, 500_000)
    logs = speckle.stabilise(intensities, floor=1e-12)
    assert speckle.invert(np.array([logs.mean()]))[0] == pytest.approx(0.07, rel=0.01)
    assert logs.std() == pytest.approx(speckle.deviation, rel=0.01)


def test_digamma_and_trigamma_have_their_known_values():
    assert digamma(1) == pytest.approx(-0.5772156649015329, abs=1e-12)
    assert trigamma(1) == pytest.approx(math.pi**2 / 6, abs=1e-12)
    assert digamma(0.5) == pytest.approx(-1.9635100260214235, abs=1e-11)
    assert trigamma(0.5) == pytest.approx(math.pi**2 / 2, abs=1e-11)


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan])
def test_what_is_no_gain_and_no_looks_is_refused(wrong):
    with pytest.raises(ValueError, match="gain"):
        CountNoise(gain=wrong)
    with pytest.raises(ValueError, match="looks"):
        SpeckleNoise(wrong)
