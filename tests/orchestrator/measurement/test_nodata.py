"""Samples that are none stay none through a restoration, other dtypes than uint8 stay what they
are, frames stay apart.
"""

import json

import numpy as np
import pytest
import tifffile

from orchestrator.errors import PlanError
from orchestrator.planning.resolve import plan_job
from orchestrator.run.verify import verify_run
from storage.readers.reader_registry import inspect

SCALE = (33550, 12, 3, (30.0, 30.0, 0.0), True)
TIE = (33922, 12, 6, (0.0, 0.0, 0.0, 300_000.0, 5_000_000.0, 0.0), True)
KEYS = (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True)


def scene(path, pixels, nodata, names=()):
    tags = [SCALE, TIE, KEYS, (42113, 2, 0, str(nodata), True)]
    rows = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    tifffile.imwrite(
        path,
        rows,
        extratags=tags,
        metadata=None,
        photometric="minisblack",
        planarconfig="contig",
        tile=(16, 16),
    )
    return path


@pytest.fixture
def restored(job, serially, published_pixels, tmp_path):
    def run(source, **other):
        out = tmp_path / "out"
        outcome = serially(job(source, out, **other))
        found = verify_run(out)
        assert found.passed, found
        return published_pixels(out), outcome, inspect(out)

    return run


@pytest.mark.slow
def test_nodata_areas_of_a_scene_stay_untouched_and_its_means_are_the_measurement(
    make_picture, restored, tmp_path
):
    pixels = make_picture(40, 48, 2, "uint16")
    pixels[:, :20, :30] = 0
    pixels[0, 33, 7] = 0  # one band only
    found, outcome, info = restored(scene(tmp_path / "in.tif", pixels, 0))
    empty = (pixels == 0).repeat(4, 1).repeat(4, 2)
    assert not found[empty].any()
    means = found.astype(float).reshape(2, 40, 4, 48, 4).mean((2, 4))
    assert np.abs(means - pixels)[pixels > 0].max() <= 0.5
    assert outcome.filled > 0  # tiles of nothing but nodata are not restored
    assert (info.nodata, info.geo.epsg) == (0.0, 32633)
    assert info.geo.transform == (7.5, 0.0, 300_000.0, 0.0, -7.5, 5_000_000.0)


@pytest.mark.slow
def test_a_float_scene_keeps_its_nodata_and_its_values(make_picture, restored, tmp_path):
    pixels = make_picture(24, 24, 1, "uint16").astype(np.float32) / 100 - 200
    nodata = np.float32(-3.4e38)
    pixels[0, :9, :8] = nodata
    pixels[0, 20, 20] = np.nan
    found, _, info = restored(
        scene(tmp_path / "in.tif", pixels, -3.4e38), input={"values": [-200, 460]}
    )
    kept = pixels.repeat(4, 1).repeat(4, 2)
    none = ~np.isfinite(kept) | (kept == nodata)
    np.testing.assert_array_equal(found[none], kept[none])
    assert found.dtype == np.float32
    assert np.isfinite(found[~none]).all()
    assert np.abs(found[~none]).max() < 1000
    assert info.nodata == nodata


@pytest.mark.slow
def test_a_signed_image_has_no_full_range_and_keeps_its_dtype(
    make_picture, job, restored, tmp_path
):
    pixels = (make_picture(16, 16, 1, "uint16").astype(int) // 8 - 1000).astype(np.int16)
    path = scene(tmp_path / "in.tif", pixels, -32768)
    with pytest.raises(
        PlanError,
        match=r"in\.tif: int16 values have no black and white of their own; .* --range LOW,HIGH",
    ):
        plan_job(job(path, tmp_path / "out", input={"values": "full"}))
    found, _, info = restored(path, input={"values": [-1000, 7192]})
    assert found.dtype == np.int16
    means = found.astype(float).reshape(1, 16, 4, 16, 4).mean((2, 4))
    assert np.abs(means - pixels).max() <= 0.5
    assert info.nodata == -32768


def test_a_file_of_twelve_bits_has_the_range_of_twelve_bits(job, tmp_path):
    values = np.arange(16 * 16).reshape(16, 16) * 16
    rows = values.reshape(16, 8, 2)
    packed = np.stack(
        [rows[..., 0] >> 4, (rows[..., 0] & 15) << 4 | rows[..., 1] >> 8, rows[..., 1] & 255],
        axis=-1,
    )
    from storage.image import Selection

    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, packed.reshape(16, 24).astype(np.uint8), metadata=None, photometric="minisblack"
    )
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        order = file.byteorder
        tags = file.pages.first.tags
        places = {code: tags[code].valueoffset for code in (256, 258)}
        width_type = int(tags[256].dtype)
    number = "little" if order == "<" else "big"
    data[places[256] : places[256] + (2 if width_type == 3 else 4)] = (16).to_bytes(
        2 if width_type == 3 else 4, number
    )
    data[places[258] : places[258] + 2] = (12).to_bytes(2, number)
    path.write_bytes(data)
    info = inspect(path, Selection())
    assert (info.bits, info.dtype, info.limits) == (12, "uint16", (0.0, 4095.0))
    assert plan_job(job(path, tmp_path / "out")).values.high == 4095


@pytest.mark.slow
def test_a_frame_is_restored_as_if_it_were_a_file_of_its_own(
    make_picture, job, serially, published_files, tmp_path
):
    frames = np.stack([make_picture(16, 16, 1, seed=n)[0] for n in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", frames, photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "alone.tif", frames[1], photometric="minisblack", metadata=None)
    serially(job(tmp_path / "stack.tif", tmp_path / "a", input={"t": 1}))
    serially(job(tmp_path / "alone.tif", tmp_path / "b"))
    assert published_files(tmp_path / "a") == published_files(tmp_path / "b")
    with pytest.raises(PlanError, match="choose one with --t 0 to --t 2"):
        plan_job(job(tmp_path / "stack.tif", tmp_path / "c"))


def test_the_command_line_chooses_bands_and_says_what_a_url_may_not_carry(
    cli, write_picture, make_picture, tmp_path
):
    path = write_picture(tmp_path / "in.png", make_picture(16, 20))
    found = json.loads(
        cli("plan", path, "--channel", "2,0", "--tile", 32, "--stride", 16, "--json").out
    )
    assert (found["spec"]["input"]["channel"], found["spec"]["input"]["bands"]) == ([2, 0], 2)
    assert "--channel 'red' names no bands" in cli("plan", path, "--channel", "red").complaint
    assert (
        "no channel 3; the file has channels 0 to 2"
        in cli("plan", path, "--channel", "3").complaint
    )
    assert "above the limit of 100 px" in cli("plan", path, "--max-pixels", 100).complaint
    refused = cli("plan", "https://me:hunter2@example.org/a.png")
    assert refused.code == 2
    assert "hunter2" not in refused.err
