"""Viewers open a result between its own black and white: percentiles of its pixels."""

import json

import numpy as np
import pytest
import tifffile

SMALL = ("--scale", 2, "--steps", 2, "--tile", 32, "--stride", 24)
SERIAL = ("--executor", "serial", "--quiet")


def scene(low, high, bands=1, seed=0):
    cells = np.random.default_rng(seed).random((6, 6, bands)).repeat(4, 0).repeat(4, 1)
    pixels = low + cells * (high - low)
    return pixels[:, :, 0] if bands == 1 else pixels


@pytest.fixture
def windows(cli, tmp_path):
    """Restore pixels (H, W) or (H, W, C) and return the windows and the published samples."""

    def run(pixels, *options, photometric="minisblack", out="out.zarr"):
        planar = {"planarconfig": "contig"} if pixels.ndim == 3 else {}
        tifffile.imwrite(tmp_path / "in.tif", pixels, photometric=photometric, **planar)
        ended = cli("restore", tmp_path / "in.tif", tmp_path / out, *SMALL, *SERIAL, *options)
        assert ended.code == 0, ended.err
        import zarr

        group = json.loads((tmp_path / out / "zarr.json").read_text())
        channels = group["attributes"]["ome"]["omero"]["channels"]
        samples = zarr.open_array(str(tmp_path / out / "0"), mode="r")[:]
        return [channel["window"] for channel in channels], samples

    return run


def test_a_window_is_that_of_the_pixels_band_by_band(windows):
    pixels = np.stack([scene(300, 2000), scene(6_000, 40_000, seed=1)], -1).astype("uint16")
    shown, samples = windows(pixels)
    for window, band in zip(shown, samples, strict=True):
        wanted = np.quantile(band, (0.001, 0.999), method="nearest")
        assert (window["start"], window["end"]) == tuple(wanted)
        assert (window["min"], window["max"]) == (0, 65535)


def test_the_bands_of_a_colour_picture_share_theirs(windows):
    colour = scene(300, 2000, bands=3)
    colour[:, :, 2] /= 2
    shown, _ = windows(colour.astype("uint16"), photometric="rgb")
    assert shown[0] == shown[1] == shown[2]
    assert shown[0]["end"] < 3_000


def test_samples_without_data_have_no_say(windows):
    pixels = scene(0.1, 0.4).astype("float32")
    pixels[:, 12:] = np.nan
    shown, _ = windows(pixels)
    assert 0.05 < shown[0]["start"] < shown[0]["end"] < 0.5


def test_eight_bit_and_the_first_rules_keep_the_range_of_the_dtype(windows, tmp_path):
    shown, _ = windows(scene(30, 90).astype("uint8"))
    assert (shown[0]["start"], shown[0]["end"]) == (0, 255)
    job = tmp_path / "rules-1.toml"
    job.write_text("[sampling]\npixel_rules = 1\n")
    shown, _ = windows(scene(300, 2000).astype("uint16"), "--job", job, out="first.zarr")
    assert (shown[0]["start"], shown[0]["end"]) == (0, 65535)


def test_a_repeated_restoration_has_the_same_window(windows, tmp_path):
    pixels = scene(300, 2000).astype("uint16")
    first, _ = windows(pixels, out="a/out.zarr")
    second, _ = windows(pixels, out="b/out.zarr")
    assert first == second
