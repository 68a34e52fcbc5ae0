"""dask and xarray, where they are installed: blocks are read one by one, coordinates come back."""

import numpy as np
import pytest

import gigarestore as gr
from orchestrator.api.array_input import array_image
from orchestrator.api.array_view import ArrayView


@pytest.fixture
def photo(make_picture):
    """(H, W, C)."""
    return make_picture(12, 16).transpose(1, 2, 0)


@pytest.fixture
def expected(photo, quick):
    return np.asarray(gr.restore(photo, **quick))


@pytest.mark.slow
def test_a_dask_array_is_read_block_by_block_and_gives_one_back(photo, expected, quick):
    dask = pytest.importorskip("dask.array")
    shapes = []

    def note(block):
        shapes.append(block.shape)
        return block

    lazy = dask.from_array(photo, chunks=(6, 8, 3)).map_blocks(note, dtype=photo.dtype)
    shapes.clear()

    restored = gr.restore(lazy, **quick)

    assert set(shapes) == {(6, 8, 3)}
    assert isinstance(restored.array, dask.Array)
    assert np.array_equal(restored.array.compute(), expected)
    assert restored.array[5:9, ::2, 1].compute().shape == (4, 32)


@pytest.mark.slow
def test_a_data_array_comes_back_with_names_and_finer_coordinates(photo, expected, quick, tmp_path):
    xarray = pytest.importorskip("xarray")
    given = xarray.DataArray(
        photo.transpose(2, 0, 1),
        dims=("band", "lat", "lon"),
        coords={
            "band": ["red", "green", "blue"],
            "lat": np.linspace(50.0, 49.0, 12),
            "lon": np.arange(16) * 10.0,
        },
        name="reflectance",
        attrs={"units": "1", "sensor": "made up"},
    )

    restored = gr.restore(given, out=tmp_path / "out.zarr", **quick)

    for found in (restored.xarray, gr.open(tmp_path / "out.zarr").xarray):
        assert found.dims == ("band", "lat", "lon")
        assert found.shape == (3, 48, 64)
        assert (found.name, found.attrs) == (given.name, given.attrs)
        assert list(found.band.values) == ["red", "green", "blue"]
        # The same area: the means of the finer coordinates are the given ones.
        assert np.allclose(found.lat.values.reshape(12, 4).mean(axis=1), given.lat.values)
        assert np.allclose(found.lon.values.reshape(16, 4).mean(axis=1), given.lon.values)
        assert np.allclose(np.diff(found.lon.values), 2.5)
        assert np.array_equal(found.values.transpose(1, 2, 0), expected)


def test_dimensions_that_nobody_knows_are_asked_for(photo):
    xarray = pytest.importorskip("xarray")
    given = xarray.DataArray(photo, dims=("u", "v", "w"))

    with pytest.raises(gr.PlanError, match="has the dimensions u, v, w; say which are which"):
        gr.restore(given)


@pytest.mark.slow
def test_a_zarr_array_says_its_axes_itself(photo, expected, quick, tmp_path):
    import zarr

    stored = zarr.create_array(
        store=str(tmp_path / "in.zarr"),
        shape=(16, 3, 12),
        dtype="uint8",
        dimension_names=("x", "c", "y"),
    )
    stored[...] = photo.transpose(1, 2, 0)

    restored = gr.restore(stored, **quick)

    assert restored.axes == "xcy"
    assert np.array_equal(np.asarray(restored).transpose(2, 0, 1), expected)


@pytest.mark.slow
def test_what_only_numpy_understands_is_taken_too(photo, expected, quick):
    pillow = pytest.importorskip("PIL.Image")
    import torch

    assert np.array_equal(np.asarray(gr.restore(pillow.fromarray(photo), **quick)), expected)
    assert np.array_equal(np.asarray(gr.restore(torch.from_numpy(photo), **quick)), expected)


@pytest.mark.slow
def test_without_dask_an_array_is_a_view_with_the_same_windows(photo, quick):
    restored = gr.restore(photo, **quick)
    view = ArrayView(restored.path / "0", "yxc")
    whole = np.asarray(view)

    assert view.shape == whole.shape == (48, 64, 3)
    assert (len(view), view.ndim, view.size) == (48, 3, whole.size)
    for key in (
        (slice(3, 20), slice(None, None, 5), 1),
        (..., -1),
        (7,),
        (slice(None), 5, slice(0, 2)),
        np.int64(4),
    ):
        assert np.array_equal(view[key], whole[key])
    with pytest.raises(IndexError, match="whole numbers and forward slices"):
        view[::-1]
    with pytest.raises(IndexError, match="4 indices for 3 axes"):
        view[0, 0, 0, 0]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(view, copy=False)


@pytest.mark.parametrize("said", [{"_FillValue": np.array([7], "uint8")}, {"missing_value": 7}])
def test_a_fill_value_is_nodata_however_it_is_written(said):
    xarray = pytest.importorskip("xarray")
    given = xarray.DataArray(np.zeros((32, 32), "uint8"), dims=("y", "x"), attrs=said)
    assert array_image(given, None).nodata == 7


def test_a_fill_value_that_xarray_has_decoded_marks_no_sample_any_more():
    xarray = pytest.importorskip("xarray")
    given = xarray.DataArray(np.zeros((32, 32), "float32"), dims=("y", "x"))
    given.encoding.update({"_FillValue": 0, "scale_factor": 0.1, "dtype": "uint16"})
    assert array_image(given, None).nodata is None
