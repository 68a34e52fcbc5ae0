"""Whatever is wrong with a call is one line that names the argument as it was typed."""

import numpy as np
import pytest

import gigarestore as gr
from orchestrator.api.array_input import mask_image

RGB = np.zeros((20, 24, 3), np.uint8)
GREY = np.zeros((20, 24), np.uint8)

REFUSED = {
    "unknown argument": (
        RGB,
        {"scal": 2},
        "unknown argument scal=; did you mean scale=?",
    ),
    "scale 0": (RGB, {"scale": 0}, "scale=0: input should be greater than or equal to 1"),
    "scale 1": (
        RGB,
        {"scale": 1},
        "task sr needs scale= of at least 2, found 1; give for example scale=4",
    ),
    "unknown task": (RGB, {"task": "sharpen"}, "task='sharpen': input should be 'sr', "),
    "denoise without sigma": (RGB, {"task": "denoise"}, "task denoise needs sigma= above 0"),
    "denoise with scale": (
        RGB,
        {"task": gr.Task.denoise(5), "scale": 3},
        "task denoise has no scale, found scale=3; leave it out or use task='sr'",
    ),
    "no noise level": (
        RGB,
        {"sigma": "much"},
        "sigma='much' is no noise level; give grey levels (25), a percentage ('10%') or 'auto'",
    ),
    "order block": (
        RGB,
        {"order": "raster", "order_block": 4},
        "order_block= is for the order bridge; leave it out with order='raster'",
    ),
    "all of float": (
        GREY.astype(np.float32),
        {"value_range": "full"},
        "say which they are: value_range=(LOW, HIGH)",
    ),
    "float64": (
        GREY.astype(np.float64),
        {},
        "the image has dtype float64; supported: int8, float16, uint8, uint16, int16, float32; "
        "convert it first with astype('float32') and value_range=(LOW, HIGH)",
    ),
    "four axes": (RGB[None], {}, "the image has shape (1, 20, 24, 3); give two axes, y and x"),
    "axes that could be either": (
        np.zeros((3, 24, 3), np.uint8),
        {},
        "say which: axes='yxc' or axes='cyx'",
    ),
    "bands that nobody names": (
        np.zeros((8, 24, 12), np.uint8),
        {},
        "say which: axes='yxc' or axes='cyx'",
    ),
    "axes that are none": (RGB, {"axes": "hwc"}, "axes='hwc' are none; give y and x"),
    "axes too few": (RGB, {"axes": "yx"}, "axes='yx' name 2 axes and the image has 3"),
    "no pixel": (np.zeros((0, 4), np.uint8), {}, "it needs a pixel at least"),
    "inpaint without mask": (RGB, {"task": "inpaint"}, "task inpaint needs mask="),
    "mask of another size": (
        RGB,
        {"task": gr.Task.inpaint(np.ones((10, 10)))},
        "mask= has shape (10, 10) and the image (20, 24); give (20, 24)",
    ),
    "mask of three axes": (
        RGB,
        {"task": gr.Task.inpaint(np.ones((20, 24, 3)))},
        "mask= has shape (20, 24, 3); give one of (height, width)",
    ),
    "mask without a hole to fill": (RGB, {"mask": GREY}, "takes no mask=; use task='inpaint'"),
    "kernel that sums to 2": (
        RGB,
        {"task": gr.Task.deblur(np.array([[0.0, 1.0, 1.0]]))},
        "blur=: blur kernel sums to 2 instead of 1; divide it by its sum",
    ),
    "image for generate": (
        RGB,
        {"task": gr.Task.generate((64, 64))},
        "task generate takes no image; leave it out, or give another task",
    ),
    "no image": (None, {"scale": 2}, "no image; give an array, a path or a URL"),
    "coefficients as an array": (RGB, {"task": gr.Task.cs()}, "task cs takes no array"),
    "no region": (RGB, {"region": [(1, 2)]}, "region=[(1, 2)] cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_argument_is_one_line_that_names_it(case, tmp_path):
    image, options, wanted = REFUSED[case]

    with pytest.raises(gr.PlanError) as refusal:
        gr.restore(image, out=tmp_path / "out.zarr", **options)

    message = str(refusal.value)
    assert wanted in message
    assert "--" not in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == [], "nothing is written for what is refused"


def test_plan_refuses_what_restore_refuses():
    with pytest.raises(gr.PlanError, match="scale=0"):
        gr.plan(RGB, scale=0)


@pytest.mark.slow
def test_a_folder_that_is_taken_is_left_alone_without_overwrite(quick, make_picture, tmp_path):
    photo = make_picture(8, 8).transpose(1, 2, 0)
    out = tmp_path / "out.zarr"
    first = np.asarray(gr.restore(photo, out=out, **quick))

    with pytest.raises(gr.PlanError, match="exists; choose another OUT, or overwrite=True"):
        gr.restore(photo, out=out, **quick)
    assert np.array_equal(np.asarray(gr.open(out)), first)

    again = gr.restore(255 - photo, out=out, overwrite=True, **quick)
    assert not np.array_equal(np.asarray(again), first)
    assert again.verify().passed
    assert len(list((out / ".gigarestore" / "arrays").iterdir())) == 1  # the replaced one is gone


def test_what_is_no_output_is_refused_and_its_name_said(tmp_path):
    with pytest.raises(gr.PlanError, match="is not a run's output"):
        gr.open(tmp_path)
    with pytest.raises(gr.PlanError, match="does not exist"):
        gr.resume(tmp_path / "nothing.zarr")


def test_an_option_that_would_change_pixels_is_refused_on_resuming(quick, make_picture, tmp_path):
    gr.restore(make_picture(8, 8), axes="cyx", out=tmp_path / "out.zarr", **quick)

    with pytest.raises(gr.PlanError, match=r"cannot resume: sampling\.seed was 0"):
        gr.resume(tmp_path / "out.zarr", seed=1)


class Windows:
    """What is lazy, and gives masked arrays when it is sliced, as a netCDF variable does."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.shape = pixels.shape
        self.dtype = pixels.dtype

    def __getitem__(self, place):
        return self.pixels[place]


def test_masked_windows_of_lazy_arrays_are_refused():
    pixels = np.arange(480, dtype="uint16").reshape(20, 24)
    masked = np.ma.masked_less(pixels, 40)
    with pytest.raises(gr.PlanError, match="is a masked array"):
        gr.restore(Windows(masked), scale=2, steps=1)
    dask = pytest.importorskip("dask.array")
    with pytest.raises(gr.PlanError, match="is a masked array"):
        gr.restore(dask.from_array(masked, chunks=8, asarray=False), scale=2, steps=1)


@pytest.mark.parametrize("white", [True, 1, 255, 1.0])
def test_the_values_of_a_mask_mean_what_those_of_a_file_do(white):
    """Black that a codec has made a little grey is a hole, and so is a soft edge."""
    mask = np.full((20, 24), white)
    mask[5:12, 6:14] = False
    photo = (np.arange(480) % 251).astype("uint8").reshape(20, 24)
    exact = mask_image(mask)
    assert exact.dtype == ("float32" if isinstance(white, float) else "uint8")
    filled = np.asarray(gr.restore(photo, "inpaint", mask=mask, steps=1))
    if white == 255:
        mask[5:12, 6:14] = np.random.default_rng(0).integers(0, 90, (7, 8))
        assert np.array_equal(np.asarray(gr.restore(photo, "inpaint", mask=mask, steps=1)), filled)


def test_a_mask_of_values_that_no_file_has_is_refused():
    with pytest.raises(gr.PlanError, match="mask= has dtype int64"):
        gr.restore(GREY, "inpaint", mask=np.full((20, 24), -1), steps=1)


def test_the_polarity_of_a_mask_that_is_not_there_is_refused():
    with pytest.raises(gr.PlanError, match="has no effect without mask="):
        gr.restore(GREY, scale=2, mask_holes="white")
