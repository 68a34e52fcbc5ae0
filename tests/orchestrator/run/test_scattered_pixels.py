"""Where pixels are missing one by one, a restoration is never below the spline that it starts
from, nor below linear interpolation over triangles, with a hierarchy of levels and without.
"""

import tomllib

import numpy as np
import pytest
import tifffile

from kernels.interpolation import spline_fill

SIDE = 64
SERIAL = ("--executor", "serial", "--quiet", "--tile", 48, "--stride", 32)
# What the network may lose: a hundredth of the error, and a quarter of the rounding to a level.
SLACK = 1.01
ROUNDING = 0.25


def smooth(y, x):
    return 128 + 60 * np.sin(x / 9) * np.cos(y / 11)


def edges(y, x):
    discs = (y - 40) ** 2 + (x - 50) ** 2 < 500
    return np.where((x > 60) ^ discs, 180.0, 70.0) + y / 4


def textured(y, x):
    return 120 + 35 * np.sin(x / 2.2 + np.sin(y / 6)) + 25 * np.cos(y / 3.1)


def grainy(y, x):
    return smooth(y, x) + np.random.default_rng(5).normal(0, 12, x.shape)


PICTURES = {"smooth": smooth, "edges": edges, "textured": textured, "grainy": grainy}


def drawn(name):
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.rint(PICTURES[name](y, x).clip(0, 255)).astype("uint8")


def known_pixels(share):
    return np.random.default_rng(0).random((SIDE, SIDE)) < share


def error(found, truth):
    return np.sqrt(np.mean((found.astype(float) - truth) ** 2))


def spline(image, known):
    picture = np.where(known, image / 127.5 - 1, np.nan).astype("float32")[None]
    return np.rint((spline_fill(picture)[0] + 1) * 127.5)


@pytest.fixture
def inpainted(cli, published_pixels, tmp_path):
    def run(image, known, *options):
        tifffile.imwrite(tmp_path / "in.tif", np.where(known, image, 0).astype("uint8"))
        tifffile.imwrite(tmp_path / "mask.tif", known.astype("uint8") * 255)
        given = ("--task", "inpaint", "--mask", tmp_path / "mask.tif")
        ended = cli("restore", tmp_path / "in.tif", tmp_path / "o.zarr", *given, *SERIAL, *options)
        assert ended.code == 0, ended.err
        return published_pixels(tmp_path / "o.zarr")[0]

    return run


@pytest.mark.parametrize(
    ("name", "share", "levels"),
    [
        *((name, 0.1, 2) for name in PICTURES),
        *((name, 0.5, 2) for name in PICTURES),
        *(("textured", 0.1, 1), ("edges", 0.06, 2), ("grainy", 0.25, 2)),
    ],
)
def test_a_restoration_is_never_below_its_own_start(inpainted, name, share, levels):
    image = drawn(name)
    known = known_pixels(share)
    found = inpainted(image, known, "--levels", levels)
    assert np.array_equal(found[known], image[known])
    assert error(found, image) < SLACK * error(spline(image, known), image) + ROUNDING


@pytest.mark.parametrize("options", [("--levels", 1), ()], ids=["one-level", "levels"])
def test_a_hole_that_whole_tiles_lie_in_is_filled_from_what_is_around(inpainted, options):
    side = 144
    y, x = np.mgrid[:side, :side]
    image = np.rint(215 + 20 * np.sin(x / 30) * np.cos(y / 25)).astype("uint8")
    known = np.ones((side, side), bool)
    known[12:132, 12:132] = False
    found = inpainted(image, known, *options, "--tile", 32, "--stride", 24, "--steps", 2)
    assert found.min() > image.min() - 10
    assert found.max() < image.max() + 10


@pytest.mark.parametrize("shape", [(63, 64), (64, 65), (65, 65)])
def test_a_mask_that_differs_by_a_pixel_is_refused_with_the_next_step(cli, tmp_path, shape):
    tifffile.imwrite(tmp_path / "in.tif", drawn("smooth"))
    tifffile.imwrite(tmp_path / "mask.tif", np.tri(*shape, dtype="uint8") * 255)
    given = ("--task", "inpaint", "--mask", tmp_path / "mask.tif", *SERIAL)
    ended = cli("restore", tmp_path / "in.tif", tmp_path / "o.zarr", *given)
    assert ended.code == 2
    assert f"is {shape[0]}x{shape[1]} px and the input 64x64" in ended.complaint
    assert "give a mask of the input's size" in ended.complaint


def test_a_run_goes_on_with_the_start_that_it_was_begun_with(
    cli, inpainted, published_pixels, tmp_path
):
    image = drawn("edges")
    first = inpainted(image, known_pixels(0.1))
    written = tomllib.loads((tmp_path / "o.zarr" / ".gigarestore" / "job.toml").read_text())
    assert written["sampling"]["start"] == 5
    job = tmp_path / "again.toml"
    job.write_text((tmp_path / "o.zarr" / ".gigarestore" / "job.toml").read_text())
    ended = cli("restore", tmp_path / "in.tif", tmp_path / "b.zarr", "--job", job)
    assert ended.code == 0, ended.err
    second = published_pixels(tmp_path / "b.zarr")[0]
    assert np.array_equal(first, second)
