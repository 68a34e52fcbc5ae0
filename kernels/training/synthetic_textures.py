"""Draw the fields of numbers that synthetic images are made of: 1/f noise, gratings, lattices,
palettes of colours.

Every function takes the generator first and draws from it in a fixed order: the order is part of
what an image is.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.float32]  # (N, N)
Colours = NDArray[np.float32]  # (count, 3)

# Side of the image that counts of things are meant for, px.
MEANT_SIDE = 640
# Rows and columns of the table of shades that a lattice's cells repeat: primes, so that the
# repetition does not show.
SHADES = (97, 89)


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    logarithm = rng.uniform(np.log(low), np.log(high))
    return float(np.exp(logarithm))


def count_for(count: int, n: int) -> int:
    """Return how many of `count` things, meant for 640 x 640 px, belong on n x n px; 1 at least."""
    area = (n / MEANT_SIDE) ** 2
    return max(1, round(count * area))


def spectrum(
    rng: Generator,
    n: int,
    exponent: float,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Plane:
    """Draw a periodic Gaussian field (n, n) with amplitude 1/f^exponent, mean 0, variance 1.

    stretch: factor by which it is stretched along `angle`, rad.
    """
    fy = np.fft.fftfreq(n)[:, None]
    fx = np.fft.rfftfreq(n)[None, :]
    u = fx * np.cos(angle) + fy * np.sin(angle)
    v = fy * np.cos(angle) - fx * np.sin(angle)
    frequency = np.sqrt((u * stretch) ** 2 + (v / stretch) ** 2)
    frequency[0, 0] = 1

    amplitude = frequency**-exponent
    amplitude[0, 0] = 0
    scatter = rng.rayleigh(1, frequency.shape)
    phase = np.exp(2j * np.pi * rng.random(frequency.shape))
    modes = amplitude * scatter * phase

    z = np.fft.irfft2(modes, s=(n, n))
    centred = z - z.mean()
    deviation = z.std() + 1e-9
    return (centred / deviation).astype(np.float32)


def rotated(rng: Generator, n: int) -> tuple[Plane, Plane]:
    """Return the two coordinates of every pixel, each (n, n) px, in a frame turned by a random
    angle.
    """
    angle = rng.random() * np.pi
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    cos = np.float32(np.cos(angle))
    sin = np.float32(np.sin(angle))
    along = x * cos + y * sin
    across = y * cos - x * sin
    return along, across


def blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur (H, W, C) by a Gaussian of `sigma` px, borders reflected."""
    radius = int(np.ceil(3 * sigma))
    places = np.arange(-radius, radius + 1)
    bell = np.exp(-0.5 * (places / max(sigma, 1e-6)) ** 2)
    weights = (bell / bell.sum()).astype(np.float32)

    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="reflect")
        length = image.shape[axis]
        image = sum(
            weight * np.take(padded, range(i, i + length), axis) for i, weight in enumerate(weights)
        )
    return image


def texture(rng: Generator, n: int) -> Plane:
    """Draw one texture (n, n) of about unit variance: noise, gratings, lattices, marks, ridges."""
    kind = rng.integers(0, 7)
    if kind <= 2:
        return _noise(rng, n)
    if kind == 3:
        return grating(rng, n)
    if kind == 4:
        return lattice(rng, n)
    if kind == 5:
        return _marks(rng, n)
    return _ridges(rng, n)


def _noise(rng: Generator, n: int) -> Plane:
    exponent = rng.uniform(0.3, 2.0)
    stretch = rng.choice([1, 1, 1.5, 3])
    angle = rng.random() * np.pi
    return spectrum(rng, n, exponent, stretch, angle)


def _marks(rng: Generator, n: int) -> Plane:
    """Draw a field pushed towards two values: marks on a ground."""
    exponent = rng.uniform(0.8, 2.0)
    field = spectrum(rng, n, exponent)
    steepness = rng.uniform(1, 8)
    shift = rng.normal() * 0.7
    return np.tanh(field * steepness + shift)


def _ridges(rng: Generator, n: int) -> Plane:
    """Draw the distance of a field from 0: ridges, veins."""
    exponent = rng.uniform(1.0, 2.0)
    field = spectrum(rng, n, exponent)
    sharpness = rng.uniform(0.5, 1.0)
    ridges = np.abs(field) ** sharpness
    return (ridges * 2 - 1.3).astype(np.float32)


def grating(rng: Generator, n: int) -> Plane:
    """Draw warped waves (n, n), half of them with hard edges: furrows, tiles, hair, fabric."""
    along, _ = rotated(rng, n)
    warp = spectrum(rng, n, 2.0)
    warped = along + warp * rng.uniform(0, 12)
    wavelength = log_uniform(rng, 4, 48)
    start = rng.random() * 6
    wave = np.sin(2 * np.pi * warped / wavelength + start)

    if rng.random() < 0.5:
        threshold = rng.uniform(-0.7, 0.7)
        wave = np.sign(wave - threshold)
    return wave.astype(np.float32)


def lattice(rng: Generator, n: int) -> Plane:
    """Draw rows of equal cells (n, n), in line or offset: bricks, windows, dots."""
    u, v = rotated(rng, n)
    width = log_uniform(rng, 6, 40)
    height = log_uniform(rng, 6, 40)
    row = np.floor(v / height)
    offset = rng.choice([0, 0.5])
    u = u + (row % 2) * width * offset

    filled_across = u / width % 1 < rng.uniform(0.3, 0.9)
    filled_along = v / height % 1 < rng.uniform(0.3, 0.9)
    inside = filled_across & filled_along

    shades = rng.normal(size=SHADES).astype(np.float32)
    shade_row = row.astype(int) % SHADES[0]
    shade_column = np.floor(u / width).astype(int) % SHADES[1]
    shade = shades[shade_row, shade_column]
    contrast = rng.choice([0, 0.5])
    return (inside * 1.5 - 0.7 + contrast * shade).astype(np.float32)


def palette(rng: Generator, count: int) -> Colours:
    """Draw `count` colours (count, 3), about in [0, 1].

    They are broad in luminance; their chroma is small and correlated along a few hues.
    """
    middle = rng.uniform(0.1, 0.9)
    scatter = rng.normal(size=count)
    breadth = rng.uniform(0.08, 0.35)
    luminance = np.clip(middle + scatter * breadth, 0, 1)
    if rng.random() < 0.3:
        luminance = rng.random(count)

    saturation = 0.0 if rng.random() < 0.12 else log_uniform(rng, 0.02, 0.25)
    hues = rng.normal(size=(3, 3))
    hues -= hues.mean(1, keepdims=True)
    hues /= np.linalg.norm(hues, axis=1, keepdims=True) + 1e-6

    own = rng.normal(size=(count, 3)) * [1, 0.5, 0.25]
    common = rng.normal(size=(1, 3)) * rng.choice([0, 1])
    weights = own + common
    colours = luminance[:, None] + saturation * weights @ hues

    if rng.random() < 0.1:
        colours = rng.random((count, 3))
    return colours.astype(np.float32)
