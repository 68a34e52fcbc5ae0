"""Arrays go in and come out as they were given, with the bytes that the command makes of a file."""

import numpy as np
import pytest

import gigarestore as gr


@pytest.fixture(scope="module")
def photo(make_picture):
    """An RGB picture (C, H, W) of 8 bit."""
    return make_picture(12, 16)


@pytest.fixture(scope="module")
def photo_file(photo, write_picture, tmp_path_factory):
    return write_picture(tmp_path_factory.mktemp("file") / "photo.png", photo)


@pytest.fixture(scope="module")
def command(quick, published_files, tmp_path_factory):
    """Restore a file with the command; return the bytes that it publishes."""

    def run(path, *options):
        from cluster.cli import _run

        out = tmp_path_factory.mktemp("command") / "out.zarr"
        given = [f"--{name}={value}" for name, value in quick.items()]
        code = _run(["restore", str(path), str(out), "--executor=serial", "-q", *given, *options])
        assert code == 0
        return published_files(out)

    return run


@pytest.fixture(scope="module")
def from_file(photo_file, command):
    return command(photo_file)


@pytest.mark.parametrize("axes", ["yxc", "cyx", "xcy"])
@pytest.mark.slow
def test_an_array_in_any_order_of_axes_gives_the_bytes_that_the_command_gives_for_its_file(
    photo, from_file, published_files, quick, axes
):
    turned = photo.transpose(["cyx".index(axis) for axis in axes])

    restored = gr.restore(turned, axes=axes, **quick)

    assert published_files(restored.path) == from_file
    lengths = {"c": 3, "y": 48, "x": 64}
    assert restored.shape == tuple(lengths[axis] for axis in axes)
    assert np.asarray(restored).shape == restored.shape
    assert restored.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.slow
def test_an_array_of_every_dtype_gives_the_bytes_that_the_command_gives_for_its_file(
    make_picture, write_picture, command, published_files, quick, tmp_path, dtype
):
    grey = (make_picture(12, 16, 1)[0].astype(np.float64) * 16).astype(dtype)
    if dtype == "uint8":
        grey = make_picture(12, 16, 1)[0]
    limits = (0, 255) if dtype == "uint8" else (0, 4095)
    path = write_picture(tmp_path / "grey.tif", grey[np.newaxis])

    restored = gr.restore(grey, value_range=limits, **quick)

    assert published_files(restored.path) == command(path, f"--range={limits[0]},{limits[1]}")
    assert restored.shape == (48, 64)
    assert restored.dtype == dtype


def test_a_path_gives_the_same_bytes_and_a_picture_with_its_colours_last(
    photo_file, from_file, published_files, quick, tmp_path
):
    restored = gr.restore(photo_file, out=tmp_path / "out.zarr", **quick)

    assert published_files(restored.path) == from_file
    assert restored.shape == (48, 64, 3)
    assert restored.path == tmp_path / "out.zarr"


@pytest.mark.slow
def test_a_result_is_indexed_lazily_and_its_pyramid_halves(photo, quick):
    restored = gr.restore(photo, axes="cyx", scale=8, **{**quick, "steps": 1, "stride": 24})

    whole = np.asarray(restored)
    assert [level.shape for level in restored.pyramid] == [(3, 96, 128)]
    assert np.array_equal(np.asarray(restored.array[1, 5:20, -1]), whole[1, 5:20, -1])
    assert restored.verify().passed
    assert restored.report().tiles > 0


def test_the_temporary_folder_lives_as_long_as_the_result_or_an_array_of_it(photo, quick):
    restored = gr.restore(photo, axes="cyx", **quick)
    folder = restored.path
    pixels = restored.array

    del restored
    assert np.asarray(pixels).shape == (3, 48, 64)
    del pixels
    assert not folder.parent.exists()


def test_a_mask_as_an_array_gives_the_bytes_that_the_command_gives_for_its_file(
    photo, photo_file, command, write_picture, published_files, quick, tmp_path
):
    known = np.indices((12, 16)).sum(axis=0) % 4 > 0
    mask_file = write_picture(tmp_path / "mask.png", known[np.newaxis] * np.uint8(255))
    quick = {**quick, "tile": 16, "stride": 8}

    restored = gr.restore(photo, gr.Task.inpaint(known), axes="cyx", **quick)

    expected = command(
        photo_file, "--task=inpaint", f"--mask={mask_file}", "--tile=16", "--stride=8"
    )
    assert published_files(restored.path) == expected
    assert np.array_equal(np.asarray(restored)[:, known], photo[:, known])


def test_bands_are_chosen_and_a_grey_picture_gets_colours_behind_its_axes(photo, quick):
    one = gr.restore(photo, axes="cyx", channel=1, **quick)
    assert one.shape == (1, 48, 64)

    coloured = gr.restore(photo[0], "colorize", **{**quick, "tile": 16, "stride": 8})
    assert coloured.axes == "yxc"
    assert coloured.shape == (12, 16, 3)


def test_a_kernel_as_an_array_deblurs(photo, quick):
    kernel = np.array([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])

    restored = gr.restore(photo, gr.Task.deblur(kernel), axes="cyx", **{**quick, "stride": 24})

    assert restored.shape == photo.shape
    assert restored.verify().passed


def test_samples_without_data_stay_so(make_picture, quick):
    floats = make_picture(8, 8, 1)[0].astype(np.float32)
    floats[:2, :2] = np.nan

    restored = np.asarray(gr.restore(floats, value_range=(0, 255), **quick))

    assert np.isnan(restored[:8, :8]).all()
    assert np.isfinite(restored[8:, 8:]).all()
