"""Deblurring beside samples without data: what is not there constrains nothing, and the picture
beside it does not ring.
"""

import numpy as np
import pytest
import tifffile

SIDE = 56
SERIAL = ("--executor", "serial", "--quiet", "--tile", 48, "--stride", 24, "--steps", 2)
BLUR = ("--task", "deblur", "--blur", "gaussian:1:5")


def sharp(bands):
    """Return edges that gaps will cross, in [0.2, 0.8], (bands, SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = (y - 30) ** 2 + (x - 26) ** 2 < 200
    values = 0.35 + 0.3 * disc + 0.15 * (x > y) - 0.15 * (np.abs(y + x - 70) < 4)
    return np.stack([values * (1 - 0.05 * band) for band in range(bands)])


def blurred(values):
    bell = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    weights = bell / bell.sum()
    wide = np.pad(values, ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = sum(w * wide[:, i : i + SIDE] for i, w in enumerate(weights))
    return sum(w * rows[:, :, i : i + SIDE] for i, w in enumerate(weights))


def gaps(bands, apart):
    empty = np.zeros((bands, SIDE, SIDE), bool)
    for band in range(bands):
        first = 14 + (7 * band if apart else 0)
        empty[band, 24:40, first : first + 6] = True
    return empty


def write(path, values, empty, dtype):
    pixels = np.where(empty, 0, np.rint(values)).astype(dtype)
    rows = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    planar = {} if rows.ndim == 2 else {"planarconfig": "contig"}
    tags = [(42113, "s", 0, "0", True)]
    tifffile.imwrite(path, rows, photometric="minisblack", extratags=tags, **planar)
    return path


@pytest.mark.parametrize(
    ("dtype", "white", "bands", "noise", "apart"),
    [
        *(("uint8", 255, 1, 0, False), ("uint8", 255, 4, 0, True)),
        *(("uint16", 10000, 4, 0, True), ("uint8", 255, 1, 4, False)),
    ],
)
def test_the_picture_beside_a_gap_does_not_ring(
    cli, published_pixels, tmp_path, dtype, white, bands, noise, apart
):
    truth = sharp(bands) * white
    empty = gaps(bands, apart)
    y = blurred(truth) + np.random.default_rng(0).normal(0, noise, truth.shape)
    source = write(tmp_path / "in.tif", y, empty, dtype)
    extra = ("--sigma", noise) if noise else ()
    ended = cli("restore", source, tmp_path / "out.zarr", *BLUR, *extra, *SERIAL)
    assert ended.code == 0, ended.err
    verified = cli("verify", tmp_path / "out.zarr")
    assert verified.code == 0, verified.out
    found = published_pixels(tmp_path / "out.zarr").astype(float)
    assert np.array_equal(found == 0, empty)
    beside = ~empty & (np.abs(found - truth) > 0.5 * white)
    assert not beside.any()
    # Two steps do not remove noise.
    error = np.sqrt(np.mean((found - truth)[~empty] ** 2))
    assert noise or error < np.sqrt(np.mean((y - truth)[~empty] ** 2))
