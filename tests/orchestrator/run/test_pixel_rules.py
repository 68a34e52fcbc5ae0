"""What samples mean under the current pixel rules: no data constrains nothing, bands that are
independent get independent detail, noise that all channels share is told as that, and black and
white keep the means.
"""

import math

import numpy as np
import pytest
import tifffile
import torch

from kernels.denoisers.analytic import GaussianDenoiser
from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job

SMALL = ("--tile", 64, "--stride", 48, "--executor", "serial", "--quiet")


def scene(side=32, bands=1, seed=0):
    """A smooth 12-bit scene in uint16, (C, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    waves = np.stack([np.sin(x / 4 + c) * np.cos(y / 5 - c) for c in range(bands)])
    return np.rint(2000 + 900 * waves + rng.normal(0, 40, waves.shape)).astype("uint16")


def write(path, pixels, nodata=None):
    tags = [] if nodata is None else [(42113, "s", 0, str(nodata), True)]
    rows = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    planar = {} if rows.ndim == 2 else {"planarconfig": "contig"}
    tifffile.imwrite(path, rows, photometric="minisblack", extratags=tags, **planar)
    return path


def first_rules(tmp_path):
    path = tmp_path / "first-rules.toml"
    path.write_text("[sampling]\npixel_rules = 1\n")
    return ("--job", path)


@pytest.fixture
def restored(cli, published_pixels, tmp_path):
    def run(source, *options, name="out.zarr"):
        ended = cli("restore", source, tmp_path / name, *options)
        assert ended.code == 0, ended.err
        return published_pixels(tmp_path / name).astype(np.float64)

    return run


@pytest.mark.parametrize("nodata", [0, 65535, 7])
def test_samples_without_data_do_not_bleed_into_those_beside_them(restored, tmp_path, nodata, cli):
    whole = scene()
    gap = np.zeros(whole.shape[1:], bool)
    gap[:, 12:18] = True
    with_gap = np.where(gap, np.uint16(nodata), whole)
    reference = restored(write(tmp_path / "whole.tif", whole), "--scale", 4, *SMALL, name="a.zarr")
    given = write(tmp_path / "gap.tif", with_gap, nodata)
    found = restored(given, "--scale", 4, *SMALL, name="b.zarr")

    fine = gap.repeat(4, 0).repeat(4, 1)
    assert (found[0][fine] == nodata).all()
    assert (found[0][~fine] != nodata).all()
    beside = np.roll(fine, 6, 1) | np.roll(fine, -6, 1)
    error = np.abs(found - reference)[0][beside & ~fine]
    assert np.sqrt(np.mean(error**2)) < 60
    assert cli("verify", tmp_path / "b.zarr").code == 0


def test_under_the_first_rules_they_bled(restored, tmp_path):
    """What the test above would miss if it could not fail."""
    whole = scene()
    with_gap = whole.copy()
    with_gap[:, :, 12:18] = 65535
    rules = first_rules(tmp_path)
    reference = restored(write(tmp_path / "whole.tif", whole), "--scale", 4, *SMALL, name="a.zarr")
    given = write(tmp_path / "gap.tif", with_gap, 65535)
    found = restored(given, "--scale", 4, *rules, *SMALL, name="b.zarr")
    beside = np.abs(found - reference)[0][:, 72:76]
    assert np.sqrt(np.mean(beside**2)) > 300


def test_gaps_of_each_band_are_filled_where_the_value_sits_and_the_rest_is_kept(restored, tmp_path):
    whole = scene(bands=3)
    given = whole.copy()
    for band in range(3):
        given[band, :, 8 + 5 * band : 11 + 5 * band] = 0
    source = write(tmp_path / "gaps.tif", given, 0)
    found = restored(source, "--task", "inpaint", "--nodata", 0, *SMALL)
    kept = given != 0
    assert np.array_equal(found[kept], given[kept])
    assert (found[~kept] > 0).all()


def test_a_mask_fills_what_it_says_and_other_samples_without_data_stay(restored, tmp_path):
    given = scene()
    given[:, :, 8:11] = 0
    given[:, 20:, :] = 0
    mask = np.full(given.shape[1:], 255, "uint8")
    mask[:20, 8:11] = 0
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    source = write(tmp_path / "swath.tif", given, 0)
    options = ("--task", "inpaint", "--mask", tmp_path / "mask.tif")
    found = restored(source, *options, *SMALL)
    assert (found[0, :20, 8:11] > 0).all()
    assert (found[0, 20:] == 0).all()


def test_floats_that_are_no_number_are_filled_when_asked(restored, tmp_path):
    given = scene().astype("float32") / 4000
    given[:, 5:9, 5:9] = np.nan
    source = write(tmp_path / "float.tif", given)
    options = ("--task", "inpaint", "--nodata", "nan", "--range", "0,1")
    found = restored(source, *options, *SMALL)
    assert np.isfinite(found).all()
    known = np.isfinite(given)
    assert np.abs(found[known] - given[known]).max() < 1e-6


def detail(pixels, scale=4):
    """Return what the measurement leaves open: every pixel less its cell's mean."""
    c, h, w = pixels.shape
    cells = pixels.reshape(c, h // scale, scale, w // scale, scale)
    return (cells - cells.mean(axis=(2, 4), keepdims=True)).reshape(c, -1)


@pytest.mark.parametrize("grouping", ["single", "groups"])
def test_bands_in_different_pictures_get_independent_detail(restored, tmp_path, grouping):
    flat = np.full((6, 24, 24), 2000, "uint16")
    source = write(tmp_path / "bands.tif", flat)
    options = ("--scale", 4, "--denoiser", "analytic:", "--intent", "paper", "--steps", 4)
    options += ("--bands-as", grouping, "--levels", 1, "--range", "full")
    found = detail(restored(source, *options, *SMALL))
    size = 1 if grouping == "single" else 3
    correlations = np.corrcoef(found)
    apart = [(i, j) for i in range(6) for j in range(i) if i // size != j // size]
    # Neighbouring pixels are alike: far fewer than all are independent.
    independent = found.shape[1] / 16
    assert max(abs(correlations[i, j]) for i, j in apart) < 4 / math.sqrt(independent)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("grouping", "bands"), [("single", 2), ("single", 4), ("groups", 4)])
def test_independent_bands_get_independent_detail_on_every_level(
    restored, tmp_path, grouping, bands, levels, seed
):
    """Two channels of a microscope: false colocalisation is what must not be invented."""
    rng = np.random.default_rng(seed)
    given = rng.integers(1000, 3000, (bands, 8, 8)).astype("uint16")
    options = ("--scale", 8, "--denoiser", "analytic:", "--intent", "paper", "--steps", 3)
    options += ("--bands-as", grouping, "--levels", levels, "--range", "full", "--seed", seed)
    found = restored(write(tmp_path / "bands.tif", given), *options, *SMALL)
    apart = [(0, bands - 1)] if grouping == "groups" else [(0, 1), (bands - 2, bands - 1)]
    for cell in (2, 4, 8):
        correlations = np.corrcoef(detail(found, cell))
        # What is alike within a cell is no sample of its own.
        error = 1 / math.sqrt(found[0].size / cell**2)
        assert max(abs(correlations[i, j]) for i, j in apart) < 4 * error


def test_under_the_first_rules_their_detail_was_the_same(restored, tmp_path):
    flat = np.full((2, 24, 24), 2000, "uint16")
    options = ("--scale", 4, "--denoiser", "analytic:", "--intent", "paper", "--steps", 4)
    options += ("--bands-as", "single", "--levels", 1, *first_rules(tmp_path))
    found = detail(restored(write(tmp_path / "bands.tif", flat), *options, *SMALL))
    assert np.corrcoef(found)[0, 1] > 0.99


def test_black_and_white_keep_the_means_of_all_cells(restored, tmp_path, cli):
    rng = np.random.default_rng(1)
    extreme = rng.choice([0, 3, 128, 252, 255], (3, 24, 24)).astype("uint8")
    rows = extreme.transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "extreme.tif", rows, photometric="rgb")
    found = restored(tmp_path / "extreme.tif", "--scale", 4, *SMALL)
    cells = found.reshape(3, 24, 4, 24, 4).mean(axis=(2, 4))
    assert np.abs(cells - extreme).max() <= 0.5
    verified = cli("verify", tmp_path / "out.zarr")
    assert verified.code == 0
    assert "over 1,728 values" in verified.out


@pytest.mark.parametrize("bands", [1, 2])
def test_noise_of_a_replicated_band_is_told_along_the_axis_on_which_it_lies(bands):
    values = {"input": {"size": (40, 40), "bands": bands}, "task": {"name": "denoise", "sigma": 9}}
    plan = plan_job(JobSpec.build(values))
    assert plan.levels[0].sigma_y == pytest.approx(9 * 2 / 255 * math.sqrt(3))
    first = {**values, "sampling": {"pixel_rules": 1}}
    assert plan_job(JobSpec.build(first)).levels[0].sigma_y == pytest.approx(9 * 2 / 255)


def test_that_level_gives_the_exact_posterior_mean_of_grey_pictures():
    """A prior of grey pictures of variance v: the mean given y is v / (v + sigma^2) y."""
    v = 0.3
    sigma = 0.2
    covariance = torch.full((3, 3), v, dtype=torch.float64) + 1e-9 * torch.eye(3)
    network = GaussianDenoiser(torch.zeros(3, 1, 1, dtype=torch.float64), covariance)
    y = torch.full((1, 3, 1, 1), 0.7, dtype=torch.float64)
    gains = []
    for told in (sigma, math.sqrt(3) * sigma):
        # The estimate of x from x + told n, by the network's covariance.
        gain = covariance @ torch.linalg.inv(covariance + told**2 * torch.eye(3))
        gains.append(float((gain @ y.reshape(3, 1))[0] / 0.7))
    assert network.info.channels == 3
    exact = v / (v + sigma**2)
    assert gains[1] == pytest.approx(exact, abs=1e-6)
    assert gains[0] > exact + 0.05


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--zeta", 0.5), "--zeta 0.5 has no effect with --method ddnm, only with dps"),
        (("--method", "dps", "--eta-b", 0.5), "--eta-b 0.5 has no effect with --method dps"),
        (("--ilvr-stop", 5), "--ilvr-stop 5 has no effect with --method ddnm, only with ilvr"),
        (
            ("--steps", 6, "--travel", "6,2", "--intent", "paper"),
            "--travel 6,2 never jumps back in 6 steps",
        ),
        (("--form", "posterior", "--eta", "0.5"), "--eta 0.5 has no effect in form posterior"),
    ],
)
def test_options_without_effect_are_refused_by_name(cli, small, tmp_path, options, said):
    ended = cli("restore", small, tmp_path / "out.zarr", *options)
    assert ended.code == 2
    assert said in ended.complaint
    assert not (tmp_path / "out.zarr").exists()


def damage(out, change):
    """Change published samples in place, all levels of the pyramid apart."""
    import zarr

    array = zarr.open_array(str(out / "0"), mode="r+")
    samples = array[:]
    change(samples)
    array[:] = samples


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((0, 3, 3), 0, "1 measured samples"),
        ((0, 2, 9), 0, "1 unknown samples were not filled"),
        ((0, 25, 3), 77, "1 samples without data were given some"),
    ],
)
def test_verify_finds_samples_lost_unfilled_and_made_up(
    restored, tmp_path, cli, place, value, said
):
    given = scene()
    given[:, :20, 8:11] = 0
    given[:, 20:, :] = 0
    mask = np.full(given.shape[1:], 255, "uint8")
    mask[:20, 8:11] = 0
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    source = write(tmp_path / "swath.tif", given, 0)
    restored(source, "--task", "inpaint", "--mask", tmp_path / "mask.tif", *SMALL)
    sound = cli("verify", tmp_path / "out.zarr")
    assert sound.code == 0
    assert [line.partition(":")[2].split()[0] for line in sound.out.splitlines()[2:5]] == ["0"] * 3

    def change(samples):
        samples[place] = value

    damage(tmp_path / "out.zarr", change)
    found = cli("verify", tmp_path / "out.zarr")
    assert found.code == 1
    assert said in found.out


def test_a_band_without_any_data_under_a_tile_does_not_end_the_run(restored, tmp_path, cli):
    given = scene(side=40, bands=3)
    given[1, :, :30] = 0
    source = write(tmp_path / "bands.tif", given, 0)
    found = restored(source, "--scale", 2, "--tile", 32, "--stride", 24, *SMALL[4:])
    assert (found[1, :, :60] == 0).all()
    assert (found[[0, 2]] > 0).all()
    assert cli("verify", tmp_path / "out.zarr").code == 0


@pytest.mark.parametrize("nodata", [0, 2000])
def test_deblurring_and_values_within_the_range_never_make_a_valid_sample_nodata(
    restored, tmp_path, cli, nodata
):
    given = scene(side=48)
    given[given == nodata] += 1
    given[:, :, 20:26] = nodata
    source = write(tmp_path / "blurred.tif", given, nodata)
    options = ("--task", "deblur", "--blur", "gaussian:1:5", "--tile", 48, "--stride", 24)
    found = restored(source, *options, "--steps", 2, *SMALL[4:])
    gap = given[0] == nodata
    assert np.array_equal(found[0] == nodata, gap)
    told = cli("verify", tmp_path / "out.zarr").out
    assert "0 measured samples have lost their data" in told
    assert "0 samples without data were given some" in told


def test_a_mask_of_the_outputs_size_and_samples_without_data_go_together(restored, tmp_path, cli):
    given = scene(side=24)
    given[:, 4:8, 4:8] = 0
    mask = np.full((48, 48), 255, "uint8")
    mask[30:36, 11:40] = 0
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    source = write(tmp_path / "gap.tif", given, 0)
    options = ("--task", "inpaint+colorize+sr", "--scale", 2, "--mask", tmp_path / "mask.tif")
    found = restored(source, *options, *SMALL)
    assert (found[:, 20:, 20:] > 0).all()
    assert cli("verify", tmp_path / "out.zarr").code == 0
