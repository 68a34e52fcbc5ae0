"""Black and white of an input: as given, as declared, or fitted to its samples."""

import numpy as np
import pytest
import tifffile

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job


def picture(shape, low, high, seed=0):
    """Smooth structure between two values, (H, W) or (H, W, C) float64."""
    rng = np.random.default_rng(seed)
    cells = rng.random((-(-shape[0] // 8), -(-shape[1] // 8), *shape[2:]))
    values = cells.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]
    return low + values * (high - low)


def planned(path, **source):
    values = {"input": {"path": str(path), **source}, "task": {"name": "sr", "scale": 2}}
    return plan_job(JobSpec.build(values))


def saved(tmp_path, pixels, name="in.tif", **how):
    planar = {"planarconfig": "contig"} if pixels.ndim == 3 and "photometric" not in how else {}
    tifffile.imwrite(tmp_path / name, pixels, **{"photometric": "minisblack", **planar, **how})
    return tmp_path / name


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint16", 300, 2100),
        ("uint16", 30_000, 30_600),  # 1 % of the dtype
        ("int16", -420, 880),
        ("float32", 0.02, 0.61),
        ("float32", -1e-6, 3e-6),
        ("float32", 1e9, 3e9),
    ],
)
def test_a_range_is_fitted_to_samples_that_use_little_of_their_dtype(tmp_path, dtype, low, high):
    pixels = picture((40, 56), low, high).astype(dtype)
    plan = planned(saved(tmp_path, pixels))
    spread = high - low
    assert low - 0.3 * spread <= plan.values.low <= pixels.min()
    assert pixels.max() <= plan.values.high <= high + 0.3 * spread
    assert plan.spec.input.values == (plan.values.low, plan.values.high)
    assert "fitted to the samples" in plan.spec.input.values_from


def test_samples_that_use_their_dtype_keep_all_of_it(tmp_path):
    plan = planned(saved(tmp_path, picture((40, 56), 900, 50_000).astype("uint16")))
    assert plan.values.full
    assert plan.spec.input.values == "full"


def test_eight_bit_keeps_its_range_unless_asked(tmp_path):
    path = saved(tmp_path, picture((40, 56), 30, 50).astype("uint8"))
    assert planned(path).values.full
    asked = planned(path, values="auto").values
    assert (asked.low, asked.high) == pytest.approx((24, 56), abs=4)


def test_full_is_all_of_the_dtype(tmp_path):
    path = saved(tmp_path, picture((40, 56), 300, 2100).astype("uint16"))
    assert planned(path, values="full").values.full
    floats = saved(tmp_path, picture((40, 56), 0, 1).astype("float32"), "f.tif")
    with pytest.raises(PlanError, match=r"float32 values have no black and white.*--range auto"):
        planned(floats, values="full")


def test_hot_pixels_and_holes_have_no_say(tmp_path):
    pixels = picture((200, 200), 300, 2100).astype("float32")
    pixels[50:90] = np.nan
    pixels[3, 7] = 60_000
    values = planned(saved(tmp_path, pixels)).values
    assert values.low == pytest.approx(300 - 450, abs=200)
    assert values.high < 300 + 3.2 * 1800


def test_an_image_of_one_value_and_one_without_data_have_a_range(tmp_path):
    constant = planned(saved(tmp_path, np.full((40, 40), 712, "uint16"))).values
    assert constant.full
    signed = planned(saved(tmp_path, np.full((40, 40), -71, "int16"), "s.tif")).values
    assert signed.low <= -71 <= signed.high
    nothing = planned(saved(tmp_path, np.full((40, 40), np.nan, "float32"), "n.tif")).values
    assert nothing.low < nothing.high


def test_a_range_that_does_not_suit_the_samples_warns_and_names_a_better_one(tmp_path):
    path = saved(tmp_path, picture((40, 56), 300, 2100).astype("uint16"))
    wide = planned(path, values=(0, 65_535)).inputs.range
    assert wide.warning.startswith("the samples use 2.")
    assert "or --range auto suits them better" in wide.warning
    beside = planned(path, values=(2000, 4000)).inputs.range
    assert "of the samples lie outside of --range 2000,4000" in beside.warning
    assert planned(path, values=(0, 4095)).inputs.range.warning is None


@pytest.mark.parametrize("bits", [12, 14])
def test_declared_bits_are_the_range_where_the_samples_use_them(tmp_path, bits):
    top = (1 << bits) - 1
    text = ome(bits)
    uses = saved(tmp_path, picture((40, 56), 0.2 * top, 0.9 * top).astype("uint16"), **text)
    plan = planned(uses)
    assert plan.values.high == top
    assert f"{bits} significant bits" in plan.spec.input.values_from


@pytest.mark.parametrize(("low", "high"), [(300, 700), (300, 9_000), (20_000, 22_000)])
def test_a_declared_range_that_the_samples_contradict_does_not_stand(tmp_path, low, high):
    """12 bits are declared: they use a tenth of it, go beyond it, or lie outside of it."""
    path = saved(tmp_path, picture((40, 56), low, high).astype("uint16"), **ome(12))
    values = planned(path).values
    assert values.high != 4095
    assert values.low <= low < high <= values.high * 1.05
    assert values.levels < 2 * (high - low)


def ome(bits):
    pixels = (
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SignificantBits="{bits}" '
        'SizeX="56" SizeY="40" SizeC="1" SizeZ="1" SizeT="1"><TiffData/></Pixels>'
    )
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    text = f'<OME xmlns="{space}"><Image ID="Image:0">{pixels}</Image></OME>'
    return {"description": text, "metadata": None}


@pytest.mark.parametrize(
    ("window", "taken"),
    [((200, 2500), True), ((900, 1100), False), ((0, 65535), False), ((5_000, 9_000), False)],
)
def test_a_display_window_is_the_range_where_it_holds_the_samples(tmp_path, window, taken):
    import zarr

    pixels = picture((40, 56), 300, 2100).astype("uint16")
    group = zarr.open_group(str(tmp_path / "in.zarr"), mode="w", zarr_format=2)
    array = group.create_array("0", shape=(1, 40, 56), chunks=(1, 40, 56), dtype="uint16")
    array[:] = pixels[None]
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space"} for a in "yx")]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    shown = {"min": 0, "max": 65535, "start": window[0], "end": window[1]}
    group.attrs.update(
        {
            "multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}],
            "omero": {"channels": [{"label": "DAPI", "window": shown}]},
        }
    )
    plan = planned(tmp_path / "in.zarr")
    assert ((plan.values.low, plan.values.high) == window) == taken
    assert plan.values.low <= 300 < 2100 <= plan.values.high
    assert plan.values.levels < 6_000


def test_the_resolved_job_keeps_its_numbers_and_is_not_looked_at_again(tmp_path):
    path = saved(tmp_path, picture((40, 56), 300, 2100).astype("uint16"))
    first = planned(path)
    saved(tmp_path, picture((40, 56), 9_000, 12_000).astype("uint16"))
    again = plan_job(JobSpec.from_toml(first.spec.to_toml()))
    assert again.values == first.values
    assert again.inputs.range is None


def two_channels(bright):
    """(H, W, 2): a dim channel and one that is so many times brighter."""
    dim = picture((40, 56), 200, 1700)
    return np.stack([picture((40, 56), 200, 1700, seed=1) * bright, dim], -1).astype("uint16")


def test_a_band_that_uses_little_of_the_others_range_has_its_own(tmp_path):
    plan = planned(saved(tmp_path, two_channels(20)))
    bright, dim = plan.values.bands
    assert bright[1] > 30_000
    assert dim[1] < 2_400
    assert plan.spec.input.values == (bright, dim)
    assert plan_job(JobSpec.from_toml(plan.spec.to_toml())).values == plan.values
    assert not planned(saved(tmp_path, two_channels(2), "like.tif")).values.bands


@pytest.mark.parametrize("value", [0, 40])
def test_a_band_of_one_value_has_the_range_of_the_others(tmp_path, value):
    bands = two_channels(2)
    bands[:, :, 1] = value
    values = planned(saved(tmp_path, bands)).values
    assert not values.bands
    assert values.high > 3_000


@pytest.mark.parametrize("dark", [0, 100])
def test_the_range_of_a_few_spots_on_black_holds_the_spots(tmp_path, dark):
    spots = np.full((64, 64), dark, "uint16")
    spots[30, 20:22] = 2_600
    alone = planned(saved(tmp_path, spots)).values
    assert 2_600 <= alone.high < 4_000
    bright = picture((64, 64), 200, 60_000)
    both = planned(saved(tmp_path, np.stack([bright, spots], -1).astype("uint16"))).values
    assert both.bands[1] == (alone.low, alone.high)


def test_a_value_far_from_all_others_is_named_where_bands_have_ranges_of_their_own(tmp_path):
    pixels = (two_channels(20) / 10_000).astype("float32")
    pixels[10:20, 5:30, 1] = -9999
    plan = planned(saved(tmp_path, pixels))
    assert plan.values.bands
    assert "many samples are -9999" in plan.inputs.warnings[0]


def test_the_bands_of_a_colour_picture_share_one_range(tmp_path):
    colour = picture((40, 56, 3), 300, 1700)
    colour[:, :, 2] /= 20
    plan = planned(saved(tmp_path, colour.astype("uint16"), photometric="rgb"))
    assert not plan.values.bands


@pytest.mark.parametrize(
    "task", [{"name": "denoise", "sigma": 20}, {"name": "colorize"}, {"name": "sr", "sigma": 5}]
)
def test_a_task_that_takes_all_bands_together_has_one_range(tmp_path, task):
    path = saved(tmp_path, np.concatenate([two_channels(20), two_channels(1)[:, :, :1]], -1))
    assert not plan_job(JobSpec.build({"input": {"path": str(path)}, "task": task})).values.bands
    pairs = ((0, 40_000), (0, 2_000), (0, 2_000))
    stated = {"input": {"path": str(path), "values": pairs}, "task": task}
    with pytest.raises(PlanError, match=r"takes one range|one level for all bands"):
        plan_job(JobSpec.build(stated))


def test_another_number_of_pairs_than_bands_is_refused(tmp_path):
    path = saved(tmp_path, two_channels(20))
    with pytest.raises(PlanError, match="of 3 bands, the image has 2"):
        planned(path, values=((0, 1), (0, 1), (0, 1)))


def test_bands_with_ranges_of_their_own_are_restored_to_their_means(cli, tmp_path):
    pixels = two_channels(20)[:24, :24]
    pixels[3:9, 4:11, 1] = 0  # what lies outside of a band's range comes back too
    path = saved(tmp_path, pixels)
    options = ("--scale", 2, "--steps", 2, "--tile", 32, "--stride", 24, "--executor", "serial")
    assert cli("restore", path, tmp_path / "o.zarr", *options, "--quiet").code == 0
    job = (tmp_path / "o.zarr" / ".gigarestore" / "job.toml").read_text()
    assert "of each band: some use little of the others' range" in job
    verified = cli("verify", tmp_path / "o.zarr")
    assert verified.code == 0, verified.out + verified.err


@pytest.mark.parametrize(
    ("dtype", "low", "high", "fill"),
    [("float32", 0.05, 0.45, -9999), ("int16", -30, 900, -32768), ("uint16", 300, 900, 65535)],
)
def test_a_value_far_from_all_others_has_no_say_and_is_named(tmp_path, dtype, low, high, fill):
    pixels = picture((48, 56), low, high).astype(dtype)
    pixels[10:20, 5:30] = fill
    plan = planned(saved(tmp_path, pixels))
    assert plan.values.levels < 2 * (high - low)
    assert f"many samples are {fill}" in plan.inputs.warnings[0]


def test_saturated_and_sparse_bright_samples_do_not_stand_apart(tmp_path):
    pixels = picture((96, 96), 100, 1500)
    pixels[10:40, 5:30] = 4095
    pixels[pixels > 1300] += np.random.default_rng(2).normal(1200, 500, (pixels > 1300).sum())
    plan = planned(saved(tmp_path, pixels.clip(0, 4095).astype("uint16")))
    assert plan.values.high >= 4095
    assert not plan.inputs.warnings


def test_a_look_at_a_huge_image_decodes_a_bounded_part_of_it(tmp_path):
    import zarr

    from orchestrator.measurement.range_survey import MOST_BYTES, windows_along
    from storage.readers.reader_registry import inspect

    for chunk, most in ((512, 8), (8192, 3)):
        path = tmp_path / f"{chunk}.zarr"
        shape = (4, 300_000, 300_000)
        zarr.create_array(
            str(path),
            shape=shape,
            chunks=(1, chunk, chunk),
            dtype="uint16",
            fill_value=700,
            dimension_names=("c", "y", "x"),
        )
        info = inspect(path)
        windows = windows_along(info)
        assert windows == most
        decoded = windows**2 * chunk**2 * 4 * 2
        assert decoded <= max(MOST_BYTES, 9 * chunk**2 * 4 * 2)
    small = planned(tmp_path / "512.zarr")
    assert small.values.low <= 700 <= small.values.high
