"""Outline shapes, strokes and parcels of synthetic images, and paint them over one another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kernels.training.synthetic_textures import count_for, log_uniform, rotated

Labels = NDArray[np.int32]  # (N, N), one number per shape
Points = NDArray[np.float64]  # (M, 2), x before y, px

DISC = 0
ELLIPSE = 1
RECTANGLE = 2
POLYGON = 3
BLOB = 4
KINDS = 5

# Shares of the kinds above in each scene that is made of shapes.
SHAPES = {
    "leaves": (0.12, 0.2, 0.18, 0.25, 0.25),
    "built": (0.03, 0.05, 0.62, 0.25, 0.05),
    "fields": (0.1, 0.2, 0.3, 0.2, 0.2),
    "cells": (0.25, 0.45, 0.0, 0.0, 0.3),
}
# Scenes whose shapes and lines may follow one direction.
STRAIGHT = ("built", "fields")


class Canvas:
    """Hold what has been painted: labels (n, n), 0 the background, and the greatest of them."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.value = int(labels.max())

    def paint(self, shape: Points) -> None:
        """Paint a closed polygon over everything before, with a label of its own."""
        self.value += 1
        fill(self.labels, shape, self.value)


def fill(labels: Labels, shape: Points, value: int) -> None:
    """Set the pixels whose centres lie inside a closed polygon (M, 2) of (x, y), px; nonzero
    winding.
    """
    n_rows, n_cols = labels.shape
    x0, y0 = np.floor(shape.min(0)).astype(int)
    x1, y1 = np.ceil(shape.max(0)).astype(int)
    x0 = max(x0, 0)
    y0 = max(y0, 0)
    x1 = min(x1, n_cols)
    y1 = min(y1, n_rows)
    if x0 >= x1 or y0 >= y1:
        return

    # Edges run from a to b; a row of pixel centres crosses those whose ends lie on either side.
    xa, ya = shape.T
    xb, yb = np.roll(shape, -1, 0).T
    centre = np.arange(y0, y1)[:, None] + 0.5
    crosses = (ya <= centre) != (yb <= centre)
    row, edge = np.nonzero(crosses)
    rise = centre[row, 0] - ya[edge]
    run = (xb - xa)[edge]
    x = xa[edge] + rise * run / (yb - ya)[edge]
    column = np.clip(np.ceil(x - 0.5).astype(int) - x0, 0, x1 - x0)

    # Crossings downwards count +1, upwards -1: a pixel is inside where their sum is not 0.
    turns = np.zeros((y1 - y0, x1 - x0 + 1), np.int8)
    direction = np.where(ya[edge] < yb[edge], 1, -1).astype(np.int8)
    np.add.at(turns, (row, column), direction)
    winding = np.cumsum(turns[:, :-1], 1, dtype=np.int8)
    labels[y0:y1, x0:x1][winding != 0] = value


def outline(
    rng: Generator,
    kind: int,
    centre: Points,
    radius: float,
    angle: float,
) -> Points:
    """Return a closed polygon (M, 2) of (x, y): disc, ellipse, rectangle, random polygon or smooth
    blob.

    kind: one of the kinds above. centre: (2,) px. radius: px. angle: rad.
    """
    if kind == RECTANGLE:
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        corners = square * [1, log_uniform(rng, 0.08, 1)]
    elif kind == POLYGON:
        corners = _polygon(rng)
    else:
        corners = _rounded(rng, kind, radius)
    cos = np.cos(angle)
    sin = np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    return corners @ turn * radius + centre


def _polygon(rng: Generator) -> Points:
    sides = int(rng.integers(3, 8))
    phi = np.sort(rng.random(sides)) * 2 * np.pi
    reach = rng.uniform(0.4, 1.2, sides)
    flatness = rng.uniform(0.4, 1)
    x = reach * np.cos(phi)
    y = reach * np.sin(phi) * flatness
    return np.stack([x, y], 1)


def _rounded(rng: Generator, kind: int, radius: float) -> Points:
    """Return a disc, an ellipse or a blob of about unit radius; a large one has more points."""
    points = int(np.clip(radius, 8, 56))
    phi = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = np.ones_like(phi)
    if kind == BLOB:
        for harmonic in range(2, 7):
            height = rng.normal() * 0.5 / harmonic
            start = rng.random() * 6.3
            reach = reach + height * np.cos(harmonic * phi + start)

    flatness = 1.0
    if kind != DISC:
        flattest = 0.15 if kind == ELLIPSE else 0.4
        flatness = rng.uniform(flattest, 1)
    x = reach * np.cos(phi)
    y = flatness * reach * np.sin(phi)
    return np.stack([x, y], 1)


def stroke(
    rng: Generator,
    n: int,
    length: float,
    width: float,
    heading: float,
    straight: bool,
) -> Points:
    """Return the outline of a line of constant width (hair, wire, road, fibre), straight or
    wandering.

    length, width: px. heading: rad.
    """
    steps = 2
    bend = 0.0
    wander = 0.0
    if not straight:
        steps = 24
        bend = rng.normal() * 0.1
        wander = 0.06
    turns = bend + rng.normal(size=steps) * wander
    direction = heading + np.cumsum(turns)

    forward = np.stack([np.cos(direction), np.sin(direction)], 1)
    path = np.cumsum(forward * length / steps, 0)
    path += _anywhere(rng, n)
    sideways = np.stack([-np.sin(direction), np.cos(direction)], 1)
    margin = sideways * width / 2
    there = path + margin
    back = (path - margin)[::-1]
    return np.concatenate([there, back])


def _anywhere(rng: Generator, n: int) -> Points:
    """Draw a place (2,) on the plane or a tenth of its side beside it, px."""
    return rng.random(2) * n * 1.2 - 0.1 * n


def shapes(rng: Generator, n: int, scene: str) -> Labels:
    """Paint shapes and strokes back to front; return (n, n) labels, 0 the background."""
    divided = scene == "fields" or (scene == "built" and rng.random() < 0.3)
    canvas = Canvas(parcels(rng, n) if divided else np.zeros((n, n), np.int32))
    radii = _radii(rng, n, scene, divided)
    main = rng.random() * np.pi
    aligned = scene in STRAIGHT and rng.random() < 0.6

    for i, radius in enumerate(radii):
        # One in seven is of any kind, so that no scene lacks one.
        usual = i % 7 != 0
        kind = int(rng.choice(KINDS, p=SHAPES[scene]) if usual else rng.integers(0, KINDS))
        centre = _anywhere(rng, n)
        if aligned:
            quarter = rng.choice([0, np.pi / 2])
            angle = main + quarter + rng.normal() * 0.02
        else:
            angle = rng.random() * 2 * np.pi
        canvas.paint(outline(rng, kind, centre, radius, angle))
        for part in _parts(rng, scene, kind, centre, radius, angle):
            canvas.paint(part)

    for heading, width in strokes(rng, n, main):
        straight = scene in STRAIGHT and rng.random() < 0.5
        length = log_uniform(rng, 30, n)
        canvas.paint(stroke(rng, n, length, width, heading, straight))
    return canvas.labels


def _radii(
    rng: Generator,
    n: int,
    scene: str,
    divided: bool,
) -> NDArray[np.float64]:
    """Draw the sizes of a scene's shapes, px, in the order of their painting."""
    smallest = log_uniform(rng, 3, 18)
    largest = n * rng.uniform(0.15, 0.5)
    density = rng.choice([0.5, 1, 2, 3])
    count = int(np.clip(density * 9000 / smallest, 200, 3000))
    if scene == "cells":
        smallest = rng.uniform(6, 24)
        largest = smallest * rng.uniform(1.5, 4)
        count = int(rng.integers(60, 800))
    elif divided:
        count //= 6
    count = count_for(count, n)

    # Sizes follow radius^-exponent; exponent 3 is scale invariant, as natural images about are.
    power = 1 - rng.uniform(2.2, 3.2)
    low = smallest**power
    high = largest**power
    radii = (low + rng.random(count) * (high - low)) ** (1 / power)
    if rng.random() < 0.35:
        radii = np.sort(radii)[::-1]
    return radii


def _parts(
    rng: Generator,
    scene: str,
    kind: int,
    centre: Points,
    radius: float,
    angle: float,
) -> Iterator[Points]:
    """Yield what lies within a shape: a cell's nucleus; the other side of a roof, or a door."""
    if scene == "cells" and rng.random() < 0.6:
        nucleus = centre + rng.normal(size=2) * radius * 0.15
        yield outline(rng, BLOB, nucleus, radius * 0.4, angle)
    elif scene == "built" and kind == RECTANGLE and rng.random() < 0.4:
        door = centre + rng.normal(size=2) * radius * 0.3
        yield outline(rng, RECTANGLE, door, radius * 0.5, angle)


def strokes(rng: Generator, n: int, main: float) -> list[tuple[float, float]]:
    """Draw headings, rad, and widths, px, of the lines of a picture: none in two of five; parallel
    in one of three.
    """
    count = 0
    if rng.random() >= 0.4:
        count = count_for(int(log_uniform(rng, 1, 300)), n)
    spread = 0.15 if rng.random() < 0.35 else np.pi
    headings = main + rng.normal(size=count) * spread
    logarithms = rng.normal(size=count) * 0.7 + 1
    widths = np.clip(np.exp(logarithms), 1.2, 24)
    return list(zip(headings, widths, strict=True))


def parcels(rng: Generator, n: int) -> Labels:
    """Divide the plane into strips, and each strip into parcels at its own places: fields, streets,
    facades, books. Return labels (n, n) from 1 on.
    """
    u, v = rotated(rng, n)
    strips = int(rng.integers(3, 24))
    borders = np.sort(rng.uniform(u.min(), u.max(), strips))
    strip = np.searchsorted(borders, u)
    shifts = rng.uniform(0, n, strips + 1).astype(np.float32)
    shift = shifts[strip]

    count = int(rng.integers(6, 60))
    cuts = np.sort(rng.uniform(v.min(), v.max() + n, count))
    parcel = np.searchsorted(cuts, v + shift)
    return (strip * (len(cuts) + 1) + parcel + 1).astype(np.int32)
