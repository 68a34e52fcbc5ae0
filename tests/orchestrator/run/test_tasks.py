"""Every task end to end on small pictures: sizes, dtypes, what the measurement promises, and no
nonsense.
"""

import numpy as np
import pytest

from kernels.metrics import psnr
from kernels.resample import bicubic_upsample
from orchestrator.run.verify import verify_run
from storage.readers.reader_registry import inspect


def measured(image, task, mask=None):
    """Return what a task's measurement of a picture is, (C, H, W), in the picture's dtype."""
    y = image.astype(float)
    if (scale := task.get("scale", 1)) > 1:
        channels, height, width = image.shape
        y = y.reshape(channels, height // scale, scale, width // scale, scale).mean(axis=(2, 4))
    if "colorize" in task["name"]:
        y = y.mean(axis=0, keepdims=True)
    y = np.rint(y)
    return y.astype(image.dtype) if mask is None else np.where(mask != 0, y, 0).astype(image.dtype)


def apply(restored, task):
    """Return A x of restored pixels as floats."""
    x = restored.astype(float)
    if (scale := task.get("scale", 1)) > 1:
        channels, height, width = restored.shape
        x = x.reshape(channels, height // scale, scale, width // scale, scale).mean(axis=(2, 4))
    return x.mean(axis=0, keepdims=True) if "colorize" in task["name"] else x


@pytest.fixture
def restore(write_picture, job, serially, published_pixels, tmp_path):
    """Restore a picture by a task and return (published pixels, verification)."""

    def run(y, task, suffix="png", mask=None, **options):
        source = None if y is None else write_picture(tmp_path / f"in.{suffix}", y)
        extra = options.pop("input", {})
        if mask is not None:
            extra["mask"] = str(write_picture(tmp_path / "mask.png", mask))
        sampling = {"intent": "faithful", "steps": 3, **options.pop("sampling", {})}
        tiling = {"levels": None, "stride": None, **options.pop("tiling", {})}
        spec = job(
            source,
            tmp_path / "out",
            task=task,
            sampling=sampling,
            tiling=tiling,
            input=extra,
            **options,
        )
        serially(spec)
        return published_pixels(tmp_path / "out"), verify_run(tmp_path / "out")

    return run


HOLES = (np.random.default_rng(2).random((1, 48, 60)) > 0.3).astype(np.uint8) * 255


def holes(height, width):
    return HOLES[:, :height, :width]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.slow
def test_super_resolution_beats_pixel_replication_and_keeps_the_measurement(
    scale, restore, make_picture
):
    image = make_picture(48, 60)
    task = {"name": "sr", "scale": scale}
    y = measured(image, task)
    restored, found = restore(y, task, tiling={"tile": 48 if scale == 3 else 32})
    assert restored.shape == image.shape
    assert np.abs(apply(restored, task) - y).max() <= 0.5
    assert found.passed
    replicated = y.repeat(scale, axis=1).repeat(scale, axis=2)
    bicubic = np.clip(np.rint(bicubic_upsample(y.astype(np.float32), scale)), 0, 255)
    assert psnr(restored, image, 255) > psnr(replicated, image, 255) + 1
    assert psnr(restored, image, 255) > psnr(bicubic, image, 255) - 0.5


def test_colorization_keeps_the_grey_picture(restore, make_picture):
    y = make_picture(40, 52, channels=1)
    restored, found = restore(y, {"name": "colorize"})
    assert restored.shape == (3, 40, 52)
    assert np.abs(apply(restored, {"name": "colorize"}) - y).max() <= 0.5
    assert found.passed


def test_colorization_of_a_colour_picture_measures_its_mean(restore, make_picture):
    y = make_picture(40, 52)
    restored, found = restore(y, {"name": "colorize"})
    assert np.abs(restored.astype(float).mean(axis=0) - y.astype(float).mean(axis=0)).max() <= 0.5
    assert found.passed


@pytest.mark.slow
def test_inpainting_keeps_every_known_pixel_and_fills_the_rest_sensibly(restore, make_picture):
    image = make_picture(48, 60)
    mask = holes(48, 60)
    y = measured(image, {"name": "inpaint"}, mask)
    restored, found = restore(y, {"name": "inpaint"}, mask=mask)
    known = np.broadcast_to(mask != 0, image.shape)
    assert (restored[known] == image[known]).all()
    assert found.passed
    error = np.abs(restored[~known].astype(float) - image[~known]).mean()
    flat = np.abs(image[known].mean() - image[~known].astype(float)).mean()
    assert error < 0.4 * flat


@pytest.mark.slow
def test_coarser_levels_do_not_spoil_what_the_pixels_around_a_gap_say(
    restore, make_picture, tmp_path
):
    image = make_picture(48, 60)
    mask = holes(48, 60)
    known = np.broadcast_to(mask != 0, image.shape)
    errors = {}
    for levels in (1, 2):
        restored, _ = restore(
            measured(image, {"name": "inpaint"}, mask),
            {"name": "inpaint"},
            mask=mask,
            tiling={"levels": levels},
        )
        errors[levels] = np.abs(restored[~known].astype(float) - image[~known]).mean()
        (tmp_path / "out").rename(tmp_path / f"levels{levels}")
    assert errors[2] < 1.25 * errors[1]


@pytest.mark.slow
def test_inpainting_a_hole_larger_than_a_tile_and_a_wholly_unknown_corner(restore, make_picture):
    image = make_picture(48, 60)
    mask = np.full((1, 48, 60), 255, np.uint8)
    mask[:, 4:44, 8:50] = 0
    mask[:, :8, :8] = 0
    restored, found = restore(
        measured(image, {"name": "inpaint"}, mask), {"name": "inpaint"}, mask=mask
    )
    known = np.broadcast_to(mask != 0, image.shape)
    assert (restored[known] == image[known]).all()
    assert found.passed
    assert restored[~known].std() > 1, "the hole is filled with something"


@pytest.mark.slow
def test_denoising_lowers_the_noise(restore, make_picture):
    image = make_picture(48, 60)
    noise = np.random.default_rng(3).normal(0, 25, image.shape)
    noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    restored, found = restore(noisy, {"name": "denoise", "sigma": 25})
    assert psnr(restored, image, 255) > psnr(noisy, image, 255) + 2
    assert found.noisy
    assert found.passed


@pytest.mark.slow
def test_noise_given_as_a_share_of_the_range_is_the_same_noise(restore, make_picture, tmp_path):
    noisy = make_picture(20, 24)
    first, _ = restore(noisy, {"name": "denoise", "sigma": 25.5})
    (tmp_path / "out").rename(tmp_path / "first")
    second, _ = restore(noisy, {"name": "denoise", "sigma": 0.1, "sigma_unit": "fraction"})
    assert np.abs(first.astype(int) - second).max() <= 1


@pytest.mark.slow
def test_generation_makes_a_picture_of_the_size_asked_for_and_each_seed_another(restore, tmp_path):
    pictures = []
    for seed in (0, 1):
        sampling = {"intent": "detail", "steps": 8, "seed": seed}
        restored, found = restore(
            None, {"name": "generate"}, input={"size": (40, 72)}, sampling=sampling
        )
        assert restored.shape == (3, 40, 72)
        assert found.consistency is None
        assert found.passed
        assert restored.std() > 1
        pictures.append(restored)
        (tmp_path / "out").rename(tmp_path / f"seed{seed}")
    assert (pictures[0] != pictures[1]).mean() > 0.5


@pytest.mark.slow
def test_grey_enlarged_and_coloured_in_one_go(restore, make_picture):
    image = make_picture(48, 60)
    task = {"name": "sr+colorize", "scale": 2}
    y = measured(image, task)
    assert y.shape == (1, 24, 30)
    restored, found = restore(y, task)
    assert np.abs(apply(restored, task) - y).max() <= 0.5
    assert found.passed


@pytest.mark.slow
def test_an_old_photograph_enlarged_coloured_and_mended_in_one_go(restore, make_picture):
    image = make_picture(48, 60)
    task = {"name": "inpaint+colorize+sr", "scale": 2}
    mask = holes(24, 30)
    y = measured(image, task, mask)
    restored, found = restore(y, task, mask=mask)
    assert restored.shape == image.shape
    known = mask != 0
    assert np.abs(apply(restored, task) - y)[known].max() <= 0.5
    assert found.passed


KINDS = [
    (1, "uint8", "png"),
    (1, "uint16", "png"),
    (3, "uint16", "png"),
    (1, "uint8", "tif"),
    (3, "uint8", "tif"),
    (1, "uint16", "tif"),
    (3, "uint16", "tif"),
    (1, "uint8", "jpg"),
    (3, "uint8", "jpg"),
]


@pytest.mark.parametrize(("channels", "dtype", "suffix"), KINDS, ids=str)
@pytest.mark.slow
def test_every_kind_of_file_keeps_its_bands_and_depth(
    channels, dtype, suffix, restore, make_picture, tmp_path
):
    task = {"name": "sr", "scale": 2}
    restored, found = restore(make_picture(19, 23, channels, dtype), task, suffix)
    assert (restored.shape, restored.dtype) == ((channels, 38, 46), dtype)
    assert found.passed
    assert found.consistency.max <= 0.5 + 1e-9
    info = inspect(tmp_path / "out")
    assert (info.channels, info.dtype) == (channels, dtype)


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (47, 1)], ids=str)
@pytest.mark.parametrize("name", ["colorize", "denoise", "inpaint"])
def test_sizes_that_nothing_divides_work_in_every_task(size, name, restore, make_picture):
    task = {"name": name, "sigma": 25 if name == "denoise" else 0}
    mask = None
    if name == "inpaint":
        size = (1, 2) if size == (1, 1) else size  # a hole needs something known beside it
        mask = np.full((1, *size), 255, np.uint8)
        mask[0, -1, -1] = 0
    restored, found = restore(
        make_picture(*size, channels=1 if name == "colorize" else 3), task, mask=mask
    )
    assert restored.shape == (3, *size)
    assert found.passed


@pytest.mark.slow
def test_black_and_white_stay_within_the_range(restore):
    """A checkerboard of the extremes: rounding and clipping happen once, at the end."""
    y = (np.indices((20, 24)).sum(axis=0) % 2 * 255).astype(np.uint8)[None].repeat(3, axis=0)
    y[:, :, 12:] = 128
    restored, found = restore(y, {"name": "sr", "scale": 2})
    assert found.passed
    assert found.consistency.clipped == 0
    assert found.consistency.cells == y.size
    assert restored.min() == 0
    assert restored.max() == 255


@pytest.mark.slow
def test_a_16_bit_picture_uses_its_depth(restore, make_picture):
    restored, found = restore(make_picture(20, 24, 1, "uint16"), {"name": "sr", "scale": 2})
    assert len(np.unique(restored)) > 600
    assert found.consistency.max <= 0.5 + 1e-9


@pytest.mark.parametrize("intent", ["detail", "paper"])
@pytest.mark.slow
def test_samples_keep_the_measurement_as_well(intent, restore, make_picture):
    task = {"name": "sr", "scale": 4}
    y = make_picture(12, 15)
    restored, found = restore(y, task, sampling={"intent": intent, "steps": 6})
    assert found.passed
    assert np.abs(apply(restored, task) - y).max() <= 0.5
