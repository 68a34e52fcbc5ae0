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

from kernels.training.synthetic_shapes import Labels, shapes
from kernels.training.synthetic_textures import (
    Colours,
    Plane,
    blur,
    count_for,
    log_uniform,
    palette,
    spectrum,
    texture,
)

Image = NDArray[np.float32]  # (N, N, 3), nominally in [0, 1]

# Shares of the kinds of scene. Leaves are the general case and get half.
SCENES = {
    "leaves": 0.46,
    "built": 0.20,
    "fields": 0.08,
    "cells": 0.14,
    "points": 0.05,
    "spectral": 0.07,
}
# Different textures of one image.
TEXTURES = 4


def draw(seed: int, index: int, side: int = 320) -> NDArray[np.uint8]:
    """Draw image `index` of the collection `seed`: (3, side, side) uint8, sRGB-like; same numbers,
    same bytes.
    """
    rng = np.random.default_rng([seed, index])
    n = 2 * side
    kinds = list(SCENES)
    scene = str(rng.choice(kinds, p=list(SCENES.values())))
    if scene == "spectral":
        image = clouds(rng, n)
    elif scene == "points":
        image = points(rng, n)
    else:
        labels = shapes(rng, n, scene)
        image = colour(rng, labels, scene)
    developed = develop(rng, image)
    return np.ascontiguousarray(developed.transpose(2, 0, 1))


def colour(rng: Generator, labels: Labels, scene: str) -> Image:
    """Give every label (N, N) a colour, a linear shading and one of a few textures."""
    # Numbers without gaps.
    _, ranks = np.unique(labels, return_inverse=True)
    labels = ranks.reshape(labels.shape).astype(np.int32)
    count = int(labels.max()) + 1

    colours = _colours(rng, count, scene)
    shade = _shading(rng, labels, count)
    strength = rng.uniform(0.7, 1.2, 3).astype(np.float32)
    image = colours[labels] + shade[..., None] * 0.5 * strength

    grain = _grain(rng, labels, count)
    scatter = rng.normal(size=(count, 3)) * rng.uniform(0, 0.4)
    tint = (1 + scatter).astype(np.float32)
    return image + grain[..., None] * tint[labels]


def _colours(rng: Generator, count: int, scene: str) -> Colours:
    """Draw the colour of every label; label 0 of a scene of cells is a bright or a dark ground."""
    distinct = int(rng.choice([6, 12, 40, count]))
    few = palette(rng, distinct)
    which = rng.integers(0, distinct, count)
    colours = few[which]
    scatter = rng.normal(size=(count, 1)) * rng.choice([0, 0.04])
    colours = colours + scatter.astype(np.float32)
    if scene == "cells":
        bright = rng.random() < 0.5
        colours[0] = rng.uniform(0.6, 0.95) if bright else rng.uniform(0, 0.2)
    return colours


def _shading(rng: Generator, labels: Labels, count: int) -> Plane:
    """Draw a slope of light over every label, 0 on its average, (N, N) in (-1, 1)."""
    n = len(labels)
    directions = rng.normal(size=(count, 2))
    steepness = rng.uniform(0, 0.9)
    shaded = rng.random((count, 1)) < 0.6
    slopes = (directions * steepness * shaded).astype(np.float32)

    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n - 0.5
    shade = slopes[labels, 0] * y + slopes[labels, 1] * x
    flat = labels.ravel()
    sums = np.bincount(flat, shade.ravel(), count)
    sizes = np.bincount(flat, minlength=count)
    mean = (sums / sizes).astype(np.float32)
    return np.tanh(2 * (shade - mean[labels]))


def _grain(rng: Generator, labels: Labels, count: int) -> Plane:
    """Draw the texture of every label at its own strength, none for some of them, (N, N)."""
    n = len(labels)
    kinds = np.stack([texture(rng, n) for _ in range(TEXTURES)])
    spread = np.exp(rng.normal(size=count) * 0.9)
    amplitude = spread * rng.uniform(0.01, 0.1)
    lot = rng.random(count)
    smooth = lot < rng.uniform(0, 0.5)
    amplitude[smooth] = 0

    which = rng.integers(0, len(kinds), count)
    grain = np.take_along_axis(kinds, which[labels][None], 0)[0]
    strength = np.clip(amplitude, 0, 0.3).astype(np.float32)
    return grain * strength[labels]


def clouds(rng: Generator, n: int) -> Image:
    """Draw three mixed 1/f fields (n, n, 3): the second-order statistics of images and nothing
    else.
    """
    exponent = rng.uniform(0.8, 1.7)
    fields = np.stack([spectrum(rng, n, exponent) for _ in range(3)], -1)
    own = np.eye(3) * rng.uniform(0.05, 0.5)
    mix = own + rng.uniform(0.5, 1)
    contrast = rng.uniform(0.08, 0.2)
    return (0.5 + contrast * (fields @ mix)).astype(np.float32)


def points(rng: Generator, n: int) -> Image:
    """Draw points of light of three sizes on a dim, cloudy ground (n, n, 3): stars, beads."""
    cloud = spectrum(rng, n, 1.6) * rng.uniform(0, 0.06)
    glow = cloud[..., None] * rng.uniform(0.3, 1, 3)
    ground = palette(rng, 1) * rng.uniform(0.02, 0.3)
    image = (ground + glow).astype(np.float32)

    for _ in range(3):
        count = count_for(int(log_uniform(rng, 20, 1500)), n)
        light = np.zeros_like(image)
        brightness = np.exp(rng.normal(size=(count, 1)))
        tint = np.clip(palette(rng, count) + 0.3, 0, 1.5)
        rows = rng.integers(0, n, count)
        columns = rng.integers(0, n, count)
        light[rows, columns] = brightness * tint

        size = rng.uniform(1.5, 7)
        # The area of the blurred point times its brightness: a large one is as bright as a small.
        gain = np.float32(2 * np.pi * size**2 * rng.uniform(0.2, 0.8))
        image = image + blur(light, size) * gain
    return image


def develop(rng: Generator, image: Image) -> NDArray[np.uint8]:
    """Light, defocus, halve, soften, tone and expose: (2N, 2N, 3) in about [0, 1] -> (N, N, 3)
    uint8.
    """
    n = len(image)
    if rng.random() < 0.5:
        cloud = spectrum(rng, n, 1.8)
        contrast = np.float32(rng.uniform(0, 0.35))
        image = image * np.exp(cloud * contrast)[..., None]
    if rng.random() < 0.35:
        image = _defocused(rng, image)

    image = image.reshape(n // 2, 2, n // 2, 2, 3).mean((1, 3))
    if rng.random() < 0.8:
        image = blur(image, rng.uniform(0.2, 1.0))

    image = np.clip(image, 0, 1)
    if rng.random() < 0.3:
        gamma = np.exp(rng.normal() * 0.3)
        image = image ** np.float32(gamma)
    grain = rng.normal(size=image.shape)
    image = image + grain * rng.choice([0, 0, 0.004, 0.01])
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _defocused(rng: Generator, image: Image) -> Image:
    """Mix an image with its blurred copy where a cloudy depth says so."""
    cloud = spectrum(rng, len(image), 2.2)
    raised = cloud + rng.normal()
    steepness = rng.uniform(1, 12)
    depth = np.clip(raised * steepness, 0, 1).astype(np.float32)[..., None]
    blurred = blur(image, log_uniform(rng, 1.5, 8))
    return image * (1 - depth) + blurred * depth
