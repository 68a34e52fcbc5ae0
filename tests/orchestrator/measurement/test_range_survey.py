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
    photometric = "rgb" if pixels.ndim == 3 and pixels.shape[2] == 3 else "minisblack"
    planar = {"planarconfig": "contig"} if pixels.ndim == 3 else {}
    tifffile.imwrite(tmp_path / name, pixels, photometric=photometric, **planar, **how)
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
    assert low - 0.2 * spread <= plan.values.low <= pixels.min()
    assert pixels.max() <= plan.values.high <= high + 0.2 * spread
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
    assert (asked.low, asked.high) == pytest.approx((29, 51), abs=2)


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
    assert (values.low, values.high) == pytest.approx((300, 2100), abs=200)


def test_an_image_of_one_value_and_one_without_data_have_a_range(tmp_path):
    constant = planned(saved(tmp_path, np.full((40, 40), 712, "uint16"))).values
    assert constant.low <= 712 <= constant.high
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


def test_the_resolved_job_keeps_its_numbers_and_is_not_looked_at_again(tmp_path):
    path = saved(tmp_path, picture((40, 56), 300, 2100).astype("uint16"))
    first = planned(path)
    saved(tmp_path, picture((40, 56), 9_000, 12_000).astype("uint16"))
    again = plan_job(JobSpec.from_toml(first.spec.to_toml()))
    assert again.values == first.values
    assert again.inputs.range is None
