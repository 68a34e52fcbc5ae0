"""Draw synthetic training images: occluding shapes of all sizes with colour, shading, texture and
blur.

The model is "dead leaves" (Matheron; Lee, Mumford & Huang 2001): opaque shapes with power-law sizes
painted over one another give the edges, the scales and the occlusions of natural images. Structures
of slides and scenes are added: nuclei and fibres, fields and facades, roofs and roads, points of
light, 1/f clouds. Nothing photographed is used, so that no licence and no test image can leak into
a prior. Shapes are rasterised here, at twice the size, and averaged.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (N, N, 3), nominally in [0, 1]
Plane = NDArray[np.float32]  # (N, N)
Labels = NDArray[np.int32]  # (N, N), one number per shape

# Shares of the kinds of scene. Leaves are the general case and get half.
SCENES = {
    "leaves": 0.46,
    "built": 0.20,
    "fields": 0.08,
    "cells": 0.14,
    "points": 0.05,
    "spectral": 0.07,
}
# Share of disc, ellipse, rectangle, polygon, blob in each scene that is made of shapes.
SHAPES = {
    "leaves": (0.12, 0.2, 0.18, 0.25, 0.25),
    "built": (0.03, 0.05, 0.62, 0.25, 0.05),
    "fields": (0.1, 0.2, 0.3, 0.2, 0.2),
    "cells": (0.25, 0.45, 0.0, 0.0, 0.3),
}


def draw(seed: int, index: int, side: int = 320) -> NDArray[np.uint8]:
    """Draw image `index` of the collection `seed`: (3, side, side) uint8, sRGB-like; same numbers,
    same bytes.
    """
    rng = np.random.default_rng([seed, index])
    n = 2 * side
    scene = str(rng.choice(list(SCENES), p=list(SCENES.values())))
    if scene == "spectral":
        image = clouds(rng, n)
    elif scene == "points":
        image = points(rng, n)
    else:
        image = colour(rng, shapes(rng, n, scene), scene)
    return np.ascontiguousarray(develop(rng, image).transpose(2, 0, 1))


# ---- fields of numbers


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def spectrum(
    rng: Generator, n: int, exponent: float, stretch: float = 1.0, angle: float = 0.0
) -> Plane:
    """Draw a periodic Gaussian field with amplitude 1/f^exponent, mean 0, variance 1, stretched
    along `angle`.
    """
    fy = np.fft.fftfreq(n)[:, None]
    fx = np.fft.rfftfreq(n)[None, :]
    u = fx * np.cos(angle) + fy * np.sin(angle)
    v = fy * np.cos(angle) - fx * np.sin(angle)
    f = np.sqrt((u * stretch) ** 2 + (v / stretch) ** 2)
    f[0, 0] = 1
    amplitude = f**-exponent
    amplitude[0, 0] = 0
    z = np.fft.irfft2(
        amplitude * rng.rayleigh(1, f.shape) * np.exp(2j * np.pi * rng.random(f.shape)), s=(n, n)
    )
    return ((z - z.mean()) / (z.std() + 1e-9)).astype(np.float32)


def share(count: int, n: int) -> int:
    """Return how many of `count` things, meant for 640 x 640 px, belong on n x n px; at least one."""
    return max(1, round(count * (n / 640) ** 2))


def rotated(rng: Generator, n: int, angle: float | None = None) -> tuple[Plane, Plane]:
    """Return the two coordinates of every pixel, px, in a frame turned by `angle` (random by
    default).
    """
    angle = rng.random() * np.pi if angle is None else angle
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    c = np.float32(np.cos(angle))
    s = np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur (H, W, C) by a Gaussian of `sigma` px, borders reflected."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = np.pad(image, pad, mode="reflect")
        length = image.shape[axis]
        image = sum(w * np.take(padded, range(i, i + length), axis) for i, w in enumerate(weights))
    return image


def texture(rng: Generator, n: int) -> Plane:
    """Draw one texture of about unit variance: noise, gratings, lattices, marks, ridges."""
    kind = rng.integers(0, 7)
    if kind <= 2:
        return spectrum(
            rng, n, rng.uniform(0.3, 2.0), rng.choice([1, 1, 1.5, 3]), rng.random() * np.pi
        )
    if kind == 3:
        return grating(rng, n)
    if kind == 4:
        return lattice(rng, n)
    if kind == 5:
        return np.tanh(
            spectrum(rng, n, rng.uniform(0.8, 2.0)) * rng.uniform(1, 8) + rng.normal() * 0.7
        )
    ridges = np.abs(spectrum(rng, n, rng.uniform(1.0, 2.0))) ** rng.uniform(0.5, 1.0)
    return (ridges * 2 - 1.3).astype(np.float32)


def grating(rng: Generator, n: int) -> Plane:
    """Draw warped waves, half of them with hard edges: furrows, tiles, hair, fabric."""
    u, _ = rotated(rng, n)
    warped = u + spectrum(rng, n, 2.0) * rng.uniform(0, 12)
    wave = np.sin(2 * np.pi * warped / log_uniform(rng, 4, 48) + rng.random() * 6)
    return (np.sign(wave - rng.uniform(-0.7, 0.7)) if rng.random() < 0.5 else wave).astype(
        np.float32
    )


def lattice(rng: Generator, n: int) -> Plane:
    """Draw rows of equal cells, in line or offset: bricks, windows, dots."""
    u, v = rotated(rng, n)
    across = log_uniform(rng, 6, 40)
    along = log_uniform(rng, 6, 40)
    row = np.floor(v / along)
    u = u + (row % 2) * across * rng.choice([0, 0.5])
    inside = (u / across % 1 < rng.uniform(0.3, 0.9)) & (v / along % 1 < rng.uniform(0.3, 0.9))
    shade = rng.normal(size=(97, 89)).astype(np.float32)[
        row.astype(int) % 97, np.floor(u / across).astype(int) % 89
    ]
    return (inside * 1.5 - 0.7 + rng.choice([0, 0.5]) * shade).astype(np.float32)


def palette(rng: Generator, count: int) -> NDArray[np.float32]:
    """Draw `count` colours (count, 3): broad in luminance, chroma small and correlated along a few
    hues.
    """
    luminance = np.clip(
        rng.uniform(0.1, 0.9) + rng.normal(size=count) * rng.uniform(0.08, 0.35), 0, 1
    )
    if rng.random() < 0.3:
        luminance = rng.random(count)
    saturation = 0.0 if rng.random() < 0.12 else log_uniform(rng, 0.02, 0.25)
    hues = rng.normal(size=(3, 3))
    hues -= hues.mean(1, keepdims=True)
    hues /= np.linalg.norm(hues, axis=1, keepdims=True) + 1e-6
    weights = rng.normal(size=(count, 3)) * [1, 0.5, 0.25] + rng.normal(size=(1, 3)) * rng.choice(
        [0, 1]
    )
    colours = luminance[:, None] + saturation * weights @ hues
    return (rng.random((count, 3)) if rng.random() < 0.1 else colours).astype(np.float32)


# ---- outlines and their rasterisation


def fill(labels: Labels, outline: NDArray[np.float64], value: int) -> None:
    """Set the pixels whose centres lie inside a closed polygon (M, 2) of (x, y), px; nonzero
    winding.
    """
    n_rows, n_cols = labels.shape
    x0, y0 = np.floor(outline.min(0)).astype(int)
    x1, y1 = np.ceil(outline.max(0)).astype(int)
    x0 = max(x0, 0)
    y0 = max(y0, 0)
    x1 = min(x1, n_cols)
    y1 = min(y1, n_rows)
    if x0 >= x1 or y0 >= y1:
        return
    (xa, ya), (xb, yb) = outline.T, np.roll(outline, -1, 0).T
    centre = np.arange(y0, y1)[:, None] + 0.5
    crosses = (ya <= centre) != (yb <= centre)
    row, edge = np.nonzero(crosses)
    x = xa[edge] + (centre[row, 0] - ya[edge]) * (xb - xa)[edge] / (yb - ya)[edge]
    column = np.clip(np.ceil(x - 0.5).astype(int) - x0, 0, x1 - x0)
    turns = np.zeros((y1 - y0, x1 - x0 + 1), np.int8)
    np.add.at(turns, (row, column), np.where(ya[edge] < yb[edge], 1, -1).astype(np.int8))
    inside = np.cumsum(turns[:, :-1], 1, dtype=np.int8) != 0
    labels[y0:y1, x0:x1][inside] = value


def outline(
    rng: Generator, kind: int, centre: NDArray[np.float64], radius: float, angle: float
) -> NDArray[np.float64]:
    """Return a closed polygon (M, 2) of (x, y): disc, ellipse, rectangle, random polygon or smooth
    blob.
    """
    if kind == 2:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [1, log_uniform(rng, 0.08, 1)]
    elif kind == 3:
        sides = int(rng.integers(3, 8))
        phi = np.sort(rng.random(sides)) * 2 * np.pi
        reach = rng.uniform(0.4, 1.2, sides)
        corners = np.stack([reach * np.cos(phi), reach * np.sin(phi) * rng.uniform(0.4, 1)], 1)
    else:
        phi = np.linspace(0, 2 * np.pi, int(np.clip(radius, 8, 56)), endpoint=False)
        reach = np.ones_like(phi)
        if kind == 4:
            for harmonic in range(2, 7):
                reach = reach + rng.normal() * 0.5 / harmonic * np.cos(
                    harmonic * phi + rng.random() * 6.3
                )
        flat = 1.0 if kind == 0 else rng.uniform(0.15 if kind == 1 else 0.4, 1)
        corners = np.stack([reach * np.cos(phi), flat * reach * np.sin(phi)], 1)
    c = np.cos(angle)
    s = np.sin(angle)
    return corners @ np.array([[c, s], [-s, c]]) * radius + centre


def stroke(
    rng: Generator, n: int, length: float, width: float, heading: float, straight: bool
) -> NDArray[np.float64]:
    """Return the outline of a line of constant width (hair, wire, road, fibre), straight or
    wandering.
    """
    steps = 2 if straight else 24
    bend = 0.0 if straight else rng.normal() * 0.1
    direction = heading + np.cumsum(bend + rng.normal(size=steps) * (0.0 if straight else 0.06))
    path = np.cumsum(np.stack([np.cos(direction), np.sin(direction)], 1) * length / steps, 0)
    path += rng.random(2) * n * 1.2 - 0.1 * n
    normal = np.stack([-np.sin(direction), np.cos(direction)], 1) * width / 2
    return np.concatenate([path + normal, (path - normal)[::-1]])


# ---- scenes


def shapes(rng: Generator, n: int, scene: str) -> Labels:
    """Paint shapes and strokes back to front; return (n, n) labels, 0 the background."""
    divided = scene == "fields" or (scene == "built" and rng.random() < 0.3)
    labels = parcels(rng, n) if divided else np.zeros((n, n), np.int32)
    value = int(labels.max())
    smallest = log_uniform(rng, 3, 18)
    largest = n * rng.uniform(0.15, 0.5)
    count = int(np.clip(rng.choice([0.5, 1, 2, 3]) * 9000 / smallest, 200, 3000))
    if scene == "cells":
        smallest = rng.uniform(6, 24)
        largest = smallest * rng.uniform(1.5, 4)
        count = int(rng.integers(60, 800))
    elif value:
        count //= 6
    count = share(count, n)
    # Sizes follow radius^-exponent; exponent 3 is scale invariant, as natural images about are.
    power = 1 - rng.uniform(2.2, 3.2)
    radii = (smallest**power + rng.random(count) * (largest**power - smallest**power)) ** (
        1 / power
    )
    if rng.random() < 0.35:
        radii = np.sort(radii)[::-1]
    main = rng.random() * np.pi
    aligned = scene in ("built", "fields") and rng.random() < 0.6
    for i, radius in enumerate(radii):
        kind = int(rng.choice(5, p=SHAPES[scene])) if i % 7 else int(rng.integers(0, 5))
        centre = rng.random(2) * n * 1.2 - 0.1 * n
        angle = (
            main + rng.choice([0, np.pi / 2]) + rng.normal() * 0.02
            if aligned
            else rng.random() * 2 * np.pi
        )
        value += 1
        fill(labels, outline(rng, kind, centre, radius, angle), value)
        if scene == "cells" and rng.random() < 0.6:
            value += 1
            fill(
                labels,
                outline(rng, 4, centre + rng.normal(size=2) * radius * 0.15, radius * 0.4, angle),
                value,
            )
        elif (
            scene == "built" and kind == 2 and rng.random() < 0.4
        ):  # the other side of a roof, or a door
            value += 1
            fill(
                labels,
                outline(rng, 2, centre + rng.normal(size=2) * radius * 0.3, radius * 0.5, angle),
                value,
            )
    for heading, width in strokes(rng, n, main):
        value += 1
        straight = scene in ("built", "fields") and rng.random() < 0.5
        fill(labels, stroke(rng, n, log_uniform(rng, 30, n), width, heading, straight), value)
    return labels


def strokes(rng: Generator, n: int, main: float) -> list[tuple[float, float]]:
    """Draw headings, rad, and widths, px, of the lines of a picture: none in two of five; parallel
    in one of three.
    """
    count = 0 if rng.random() < 0.4 else share(int(log_uniform(rng, 1, 300)), n)
    spread = 0.15 if rng.random() < 0.35 else np.pi
    headings = main + rng.normal(size=count) * spread
    return list(
        zip(headings, np.clip(np.exp(rng.normal(size=count) * 0.7 + 1), 1.2, 24), strict=True)
    )


def parcels(rng: Generator, n: int) -> Labels:
    """Divide the plane into strips, and each strip into parcels at its own places: fields, streets,
    facades, books.
    """
    u, v = rotated(rng, n)
    strips = int(rng.integers(3, 24))
    strip = np.searchsorted(np.sort(rng.uniform(u.min(), u.max(), strips)), u)
    shift = rng.uniform(0, n, strips + 1).astype(np.float32)[strip]
    cuts = np.sort(rng.uniform(v.min(), v.max() + n, int(rng.integers(6, 60))))
    return (strip * (len(cuts) + 1) + np.searchsorted(cuts, v + shift) + 1).astype(np.int32)


def colour(rng: Generator, labels: Labels, scene: str) -> Image:
    """Give every label a colour, a linear shading and one of a few textures."""
    labels = (
        np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
    )  # numbers without gaps
    n = len(labels)
    count = int(labels.max()) + 1
    distinct = int(rng.choice([6, 12, 40, count]))
    colours = palette(rng, distinct)[rng.integers(0, distinct, count)]
    colours = colours + (rng.normal(size=(count, 1)) * rng.choice([0, 0.04])).astype(np.float32)
    if scene == "cells":
        colours[0] = rng.uniform(0.6, 0.95) if rng.random() < 0.5 else rng.uniform(0, 0.2)
    slopes = (
        rng.normal(size=(count, 2)) * rng.uniform(0, 0.9) * (rng.random((count, 1)) < 0.6)
    ).astype(np.float32)
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n - 0.5
    shade = slopes[labels, 0] * y + slopes[labels, 1] * x
    mean = np.bincount(labels.ravel(), shade.ravel(), count) / np.bincount(
        labels.ravel(), minlength=count
    )
    shade = np.tanh(2 * (shade - mean.astype(np.float32)[labels]))
    image = colours[labels] + shade[..., None] * 0.5 * rng.uniform(0.7, 1.2, 3).astype(np.float32)
    kinds = np.stack([texture(rng, n) for _ in range(4)])
    amplitude = np.exp(rng.normal(size=count) * 0.9) * rng.uniform(0.01, 0.1)
    amplitude[rng.random(count) < rng.uniform(0, 0.5)] = 0
    grain = np.take_along_axis(kinds, rng.integers(0, len(kinds), count)[labels][None], 0)[0]
    grain = grain * np.clip(amplitude, 0, 0.3).astype(np.float32)[labels]
    tint = (1 + rng.normal(size=(count, 3)) * rng.uniform(0, 0.4)).astype(np.float32)
    return image + grain[..., None] * tint[labels]


def clouds(rng: Generator, n: int) -> Image:
    """Draw three mixed 1/f fields: the second-order statistics of images and nothing else."""
    exponent = rng.uniform(0.8, 1.7)
    fields = np.stack([spectrum(rng, n, exponent) for _ in range(3)], -1)
    mix = np.eye(3) * rng.uniform(0.05, 0.5) + rng.uniform(0.5, 1)
    return (0.5 + rng.uniform(0.08, 0.2) * (fields @ mix)).astype(np.float32)


def points(rng: Generator, n: int) -> Image:
    """Draw points of light of three sizes on a dim, cloudy ground: stars, beads, spots."""
    glow = (spectrum(rng, n, 1.6) * rng.uniform(0, 0.06))[..., None] * rng.uniform(0.3, 1, 3)
    image = (palette(rng, 1) * rng.uniform(0.02, 0.3) + glow).astype(np.float32)
    for _ in range(3):
        count = share(int(log_uniform(rng, 20, 1500)), n)
        light = np.zeros_like(image)
        brightness = np.exp(rng.normal(size=(count, 1)))
        tint = np.clip(palette(rng, count) + 0.3, 0, 1.5)
        light[rng.integers(0, n, count), rng.integers(0, n, count)] = brightness * tint
        size = rng.uniform(1.5, 7)
        image = image + blur(light, size) * np.float32(2 * np.pi * size**2 * rng.uniform(0.2, 0.8))
    return image


def develop(rng: Generator, image: Image) -> NDArray[np.uint8]:
    """Light, defocus, halve, soften, tone and expose: (2N, 2N, 3) in about [0, 1] -> (N, N, 3)
    uint8.
    """
    n = len(image)
    if rng.random() < 0.5:
        image = image * np.exp(spectrum(rng, n, 1.8) * np.float32(rng.uniform(0, 0.35)))[..., None]
    if rng.random() < 0.35:
        depth = np.clip((spectrum(rng, n, 2.2) + rng.normal()) * rng.uniform(1, 12), 0, 1).astype(
            np.float32
        )[..., None]
        image = image * (1 - depth) + blur(image, log_uniform(rng, 1.5, 8)) * depth
    image = image.reshape(n // 2, 2, n // 2, 2, 3).mean((1, 3))
    if rng.random() < 0.8:
        image = blur(image, rng.uniform(0.2, 1.0))
    image = np.clip(image, 0, 1)
    if rng.random() < 0.3:
        image = image ** np.float32(np.exp(rng.normal() * 0.3))
    image = image + rng.normal(size=image.shape) * rng.choice([0, 0, 0.004, 0.01])
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
