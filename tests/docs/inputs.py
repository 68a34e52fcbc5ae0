"""Small images under the names that the documentation's commands use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from tests.conftest import make_picture, write_picture

# The part of the astronaut's picture that the pages call photo.png: reduced four times.
PHOTO_SIDE = 128
# Everything else is as small as it may be.
HEIGHT = 40
WIDTH = 48


def write_inputs(folder: Path, photo_side: int) -> None:
    """Write every image that the pages name; photo.png has `photo_side` px, at most 128."""
    picture = make_picture(HEIGHT, WIDTH)
    grey = make_picture(HEIGHT, WIDTH, channels=1)
    known = _known()
    torn = np.where(known[None] > 0, picture, 0).astype(np.uint8)

    write_picture(folder / "photo.png", photo()[:, :photo_side, :photo_side].copy())
    write_picture(folder / "clean.png", make_picture(96, 96))
    for name in ("small.png", "noisy.png", "soft.png"):
        write_picture(folder / name, picture)
    write_picture(folder / "torn.png", torn)
    write_picture(folder / "grey.png", grey)
    write_picture(folder / "old.png", np.where(known[None] > 0, grey, 0).astype(np.uint8))
    write_picture(folder / "known.png", known[None])
    write_picture(folder / "slide.tif", picture, tile=(16, 16), resolution=(20000, 20000))
    write_picture(folder / "scan.tif", make_picture(64, 64))
    write_picture(folder / "a.tif", picture)
    _write_noisy(folder)
    _write_folders(folder, picture, torn, known)
    _write_stack(folder / "cells.ome.tif")
    _write_maps(folder)


def photo() -> NDArray[np.uint8]:
    """Return the astronaut reduced four times, (3, 128, 128); a drawn picture without the extra
    `demo`.
    """
    try:
        from skimage import data
    except ImportError:
        return make_picture(PHOTO_SIDE, PHOTO_SIDE)
    clean = data.astronaut().astype(np.float64)
    cells = clean.reshape(PHOTO_SIDE, 4, PHOTO_SIDE, 4, 3)
    return np.rint(cells.mean((1, 3))).astype(np.uint8).transpose(2, 0, 1)


def _known() -> NDArray[np.uint8]:
    """Return a mask, 0 along a scratch and in a hole."""
    known = np.full((HEIGHT, WIDTH), 255, np.uint8)
    known[:, 20:22] = 0
    known[10:16, 30:36] = 0
    return known


def _write_noisy(folder: Path) -> None:
    """Write photon counts on a ramp, and speckle of four looks."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 200, 96)[None, None].repeat(96, axis=1)
    counts = rng.poisson(ramp) * 2.5 + 100
    write_picture(folder / "counts.tif", np.rint(counts).astype(np.uint16))
    power = 500 * rng.gamma(4, 1 / 4, (1, HEIGHT, WIDTH)) + 1
    write_picture(folder / "sar.tif", np.rint(power).astype(np.uint16))


def _write_folders(
    folder: Path, picture: NDArray[np.uint8], torn: NDArray[np.uint8], known: NDArray[np.uint8]
) -> None:
    for name in ("scans", "old"):
        (folder / name).mkdir()
    for number, name in enumerate(("a.tif", "b.tif")):
        write_picture(folder / "scans" / name, make_picture(24, 28, seed=number))
    write_picture(folder / "old" / "b.png", torn)
    write_picture(folder / "old" / "b_known.png", known[None])


def _write_stack(path: Path) -> None:
    """Write two channels and two planes of a 12-bit camera."""
    planes = make_picture(HEIGHT, WIDTH, channels=4, dtype="uint16") // 16
    stack = planes.reshape(2, 2, HEIGHT, WIDTH)
    metadata = {"axes": "CZYX", "Channel": {"Name": ["nuclei", "membrane"]}}
    metadata |= {"PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3}
    tifffile.imwrite(path, stack, metadata=metadata)


def _write_maps(folder: Path) -> None:
    """Write a scene of four bands, one with gaps, and heights, all 10 m in UTM 33N."""
    bands = make_picture(HEIGHT, WIDTH, channels=4, dtype="uint16") // 8
    gaps = bands.copy()
    gaps[:, 12:18, 20:30] = 0
    heights = make_picture(HEIGHT, WIDTH, channels=1, dtype="uint16").astype(np.int32) // 32
    _write_map(folder / "scene.tif", bands)
    _write_map(folder / "gaps.tif", gaps)
    _write_map(folder / "dem.tif", heights.astype(np.int16))


def _write_map(path: Path, pixels: NDArray[np.integer]) -> None:
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 600000.0, 5700000.0, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(
        path,
        pixels if len(pixels) > 1 else pixels[0],
        photometric="minisblack",
        planarconfig="separate" if len(pixels) > 1 else None,
        extratags=tags,
        metadata=None,
    )
