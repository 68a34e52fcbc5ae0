"""The noise of a file is found whatever kind it is of: colour, 16 bit, floats, with samples that
are unknown, saturated or behind a mask.
"""

import numpy as np
import pytest
import skimage.data
import tifffile

from orchestrator.job.fields.sections import InputSpec
from orchestrator.measurement.noise_survey import fit_counts, survey_noise

SIDE = 256


def picture(name, bands=1):
    """Return the middle of a real picture, (bands, SIDE, SIDE) float64, 0 to 255."""
    pixels = np.atleast_3d(getattr(skimage.data, name)()).astype(np.float64)
    y, x = ((side - SIDE) // 2 for side in pixels.shape[:2])
    cut = pixels[y : y + SIDE, x : x + SIDE].transpose(2, 0, 1)
    return cut[:bands] if len(cut) >= bands else cut.repeat(bands, axis=0)


def noisy(clean, sigma, seed=1):
    return clean + np.random.default_rng(seed).normal(0, sigma, clean.shape)


def stored(values, dtype):
    if dtype == "float32":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def write(path, pixels, **tags):
    rows = pixels[0] if len(pixels) == 1 else pixels
    options = {} if len(pixels) == 1 else {"planarconfig": "separate"}
    tifffile.imwrite(path, rows, photometric="minisblack", **options, **tags)
    return str(path)


def nodata_tag(value):
    return {"extratags": [(42113, "s", 0, str(value), True)]}


def with_gap(pixels, value):
    """Mark a slanted swath, as a scanner's gap, with a value."""
    y, x = np.mgrid[:SIDE, :SIDE]
    out = pixels.copy()
    out[:, (x + y // 3) % 90 < 25] = value
    return out


@pytest.mark.parametrize("sigma", [9, 15])
@pytest.mark.parametrize("name", ["camera", "coffee", "immunohistochemistry", "moon", "brick"])
def test_the_level_is_found_over_real_texture(tmp_path, name, sigma):
    pixels = stored(noisy(picture(name), sigma), "uint8")
    survey = survey_noise(InputSpec(path=write(tmp_path / "in.tif", pixels)))
    assert survey.largest == pytest.approx(sigma, rel=0.15)


def kinds():
    """Yield name, pixels, tags, further fields of the input, and the true level of each band."""
    scene = picture("camera")
    colour = picture("astronaut", bands=3)
    sixteen = noisy(scene * 12 + 300, 90)
    yield "16 bit", stored(sixteen, "uint16"), {}, {}, [90]
    yield "16 bit signed", stored(sixteen - 2000, "int16"), {}, {}, [90]
    yield "float", stored(noisy(scene / 255, 0.04), "float32"), {}, {}, [0.04]
    yield "colour", stored(noisy(colour, 12), "uint8"), {}, {}, [12] * 3

    each = np.array([4, 12, 30]).reshape(3, 1, 1)
    uneven = stored(noisy(colour * 0.5 + 60, each), "uint8")
    yield "bands that differ", uneven, {}, {}, [4, 12, 30]

    for value in (0, 65535):
        gap = with_gap(stored(sixteen, "uint16"), value)
        yield f"nodata {value}", gap, nodata_tag(value), {"keep_nodata": float(value)}, [90]
    below = with_gap(stored(noisy(scene, 8), "float32"), -9999)
    yield "nodata below", below, nodata_tag(-9999), {"keep_nodata": -9999.0}, [8]
    unknown = with_gap(stored(noisy(scene, 8), "float32"), np.nan)
    yield "NaN", unknown, {}, {}, [8]
    yield "asked for", with_gap(stored(noisy(scene, 8), "uint8"), 77), {}, {"nodata": 77.0}, [8]

    bright = stored(noisy(np.where(scene > 150, 400, scene), 10), "uint8")
    yield "saturated", bright, {}, {}, [10]
    dark = stored(noisy(np.where(scene < 100, -200, scene), 10), "uint8")
    yield "black", dark, {}, {}, [10]
    flat = stored(noisy(scene, 10), "uint8")
    flat[:, :, :120] = 128
    yield "an area of one value", flat, {}, {}, [10]


KINDS = {name: rest for name, *rest in kinds()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_level_is_found_in_every_kind_of_file(tmp_path, kind):
    pixels, tags, fields, sigmas = KINDS[kind]
    path = write(tmp_path / "in.tif", pixels, **tags)
    survey = survey_noise(InputSpec(path=path, **fields))
    assert list(survey.levels) == pytest.approx(sigmas, rel=0.15)
    assert survey.uneven == (kind == "bands that differ")
    assert survey.largest == max(survey.levels)


COUNTS = [(1, 0, 0), (2, 0, 0), (3, 15, 0), (3, 9, 100), (20, 0, 0)]


@pytest.mark.parametrize(("gain", "read", "offset"), COUNTS)
@pytest.mark.parametrize("name", ["camera", "immunohistochemistry", "moon"])
def test_the_noise_of_counts_is_fitted_at_the_brightness_of_every_tenth(
    tmp_path, name, gain, read, offset
):
    rng = np.random.default_rng(2)
    clean = 10 + picture(name) / 255 * 90
    samples = rng.poisson(clean) * gain + rng.normal(0, read, clean.shape) + offset
    found = fit_counts(InputSpec(path=write(tmp_path / "in.tif", stored(samples, "uint16"))))
    brightness = np.quantile(clean, np.linspace(0.1, 0.9, 9)) * gain + offset
    fitted = found.gain * (brightness - found.offset) + found.read**2
    true = gain * (brightness - offset) + read**2
    assert np.sqrt(fitted) == pytest.approx(np.sqrt(true), rel=0.15)


@pytest.mark.parametrize("scale", [1, 2])
def test_what_a_mask_calls_unknown_has_no_say(tmp_path, scale):
    mask = np.full((1, SIDE, SIDE), 255, np.uint8)
    mask = with_gap(mask, 0)
    pixels = np.where(mask == 0, 31, stored(noisy(picture("camera"), 10), "uint8"))
    fine = mask.repeat(scale, axis=1).repeat(scale, axis=2)
    given = InputSpec(
        path=write(tmp_path / "in.tif", pixels.astype(np.uint8)),
        mask=write(tmp_path / "mask.tif", fine),
        mask_white=255.0,
    )
    assert survey_noise(given).largest == pytest.approx(10, rel=0.15)


def test_the_noise_of_a_mean_of_bands_is_that_of_the_mean(tmp_path):
    pixels = stored(noisy(picture("astronaut", bands=3), 12), "uint8")
    given = InputSpec(path=write(tmp_path / "in.tif", pixels))
    assert survey_noise(given, grey=True).levels == pytest.approx([12 / 3**0.5], rel=0.2)


@pytest.mark.parametrize("value", [0, 255])
def test_a_file_of_black_or_white_alone_says_nothing(tmp_path, value):
    pixels = np.full((1, SIDE, SIDE), value, np.uint8)
    survey = survey_noise(InputSpec(path=write(tmp_path / "in.tif", pixels)))
    assert survey.largest is None
    assert "cannot be told" in str(survey)


def test_a_look_at_a_large_file_reads_windows_of_it_and_finds_the_same_twice(tmp_path):
    from orchestrator.measurement.noise_survey import noise_windows

    side = 1500
    pixels = stored(noisy(np.full((1, side, side), 100.0), 7), "uint8")
    given = InputSpec(path=write(tmp_path / "in.tif", pixels, tile=(256, 256)))
    seen = sum(samples.size for samples, _ in noise_windows(given))
    assert seen < 0.5 * pixels.size
    assert survey_noise(given) == survey_noise(given)
    assert survey_noise(given).largest == pytest.approx(7, rel=0.05)
