"""What a format says of validity beside its samples goes through a restoration and out again."""

import json

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import MaskFlags

from orchestrator.events import BatchCommitted
from orchestrator.run.lifecycle import resume
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir
from orchestrator.worker.level_cells import LevelCells
from storage.box import Box
from storage.errors import FormatError
from storage.export.export_image import export
from storage.readers.reader_registry import inspect, open_image
from storage.readers.zarr_arrays.any_zarr import AnyZarrReader
from tests.storage.readers import masked_images as made

ONE_LEVEL = {"tile": 64, "stride": 48, "levels": 1}
TWICE = {"name": "sr", "scale": 2}

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def grey_with_alpha(path):
    alpha = made.VALID.astype("uint8") * 255
    return made.png(path.with_suffix(".png"), np.dstack([*made.samples(1), alpha]))


def sparse(path):
    pixels = np.zeros((1, made.SIDE, made.SIDE), "uint8")
    pixels[:, :32, 32:64] = made.samples(1)[:, :32, 32:64]
    return made.write(path, pixels, tiled=True, blockxsize=32, blockysize=32, sparse_ok=True)


SOURCES = (
    made.page_of_bits,
    made.page_with_overviews,
    made.file_beside,
    made.alpha_of_16_bits,
    made.associated_alpha,
    grey_with_alpha,
    sparse,
)


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_masked_samples_stay_so_and_are_exported_as_a_mask(tmp_path, job, serially, make):
    path = make(tmp_path / "in.tif")
    reader = open_image(path)
    pixels, valid = reader.read_valid(reader.info.box)
    given = {"values": (0, 255)} if reader.info.dtype == "int16" else {}
    out = tmp_path / "out.zarr"
    serially(job(path, out, task=TWICE, tiling=ONE_LEVEL, input=given))
    found = verify_run(out)
    assert found.passed, found
    assert found.validity is not None

    fine = valid.all(axis=0).repeat(2, 0).repeat(2, 1)
    restored = open_image(out)
    again, published = restored.read_valid(restored.info.box)
    assert np.array_equal(published, np.broadcast_to(fine, published.shape))
    kept = pixels.repeat(2, 1).repeat(2, 2)
    assert np.array_equal(again[:, ~fine], kept[:, ~fine])
    elsewhere = AnyZarrReader(str(out))  # as behind a URL
    assert elsewhere.info.mask == restored.info.mask
    assert np.array_equal(elsewhere.read_valid(elsewhere.info.box)[1], published)
    export(out, tmp_path / "e.tif")
    with rasterio.open(tmp_path / "e.tif") as dataset:
        bands = list(range(1, len(again) + 1))
        assert np.array_equal(dataset.read(bands), again)
        assert np.array_equal(dataset.read_masks(1) != 0, fine)
        by_alpha = MaskFlags.alpha in dataset.mask_flag_enums[0]
    assert by_alpha == (reader.info.mask != "mask")
    assert open_image(tmp_path / "e.tif").info.mask == reader.info.mask


def test_invalid_samples_reach_no_pixel_beside_them(tmp_path, job, serially):
    """What lies under a mask, black or white, changes nothing that is valid."""
    results = []
    for name, hidden in (("black", 0), ("white", 65535)):
        pixels = np.random.default_rng(1).integers(9000, 50000, (2, 32, 32)).astype("uint16")
        mask = np.ones((32, 32), bool)
        mask[10:30, 13:21] = False
        pixels[:, ~mask] = hidden
        path = tmp_path / f"{name}.tif"
        made.write(path, pixels, mask=mask, env={"GDAL_TIFF_INTERNAL_MASK": True})
        out = tmp_path / f"{name}.zarr"
        serially(job(path, out))
        results.append(open_image(out).read(inspect(out).box)[:, mask.repeat(4, 0).repeat(4, 1)])
    assert np.array_equal(*results)


def test_a_png_is_exported_with_its_alpha(tmp_path, job, serially):
    out = tmp_path / "out.zarr"
    serially(job(grey_with_alpha(tmp_path / "in"), out, task=TWICE, tiling=ONE_LEVEL))
    export(out, tmp_path / "e.png")
    rows = imagecodecs.png_decode((tmp_path / "e.png").read_bytes())
    fine = made.VALID.repeat(2, 0).repeat(2, 1)
    assert rows.shape == (160, 160, 2)
    assert np.array_equal(rows[..., 1], fine.astype("uint8") * 255)


def test_only_what_the_mask_of_a_task_names_is_filled(tmp_path, job, serially):
    """The file's own mask keeps its exterior, the task's mask fills its gap."""
    pixels = made.samples(3)
    inside = np.ones((80, 80), bool)
    inside[:, :9] = False
    inside[30:44, 30:50] = False
    path = tmp_path / "in.tif"
    made.write(path, pixels, mask=inside, env={"GDAL_TIFF_INTERNAL_MASK": True})
    gap = np.full((80, 80), 255, "uint8")
    gap[30:44, 30:50] = 0
    made.png(tmp_path / "gap.png", gap)
    out = tmp_path / "out.zarr"
    given = {"mask": str(tmp_path / "gap.png")}
    serially(job(path, out, task={"name": "inpaint"}, tiling=ONE_LEVEL, input=given))
    found = verify_run(out)
    assert found.passed
    assert found.validity.unfilled == 0
    restored = open_image(out)
    _, valid = restored.read_valid(restored.info.box)
    assert np.array_equal(valid[0], inside | (gap == 0))


def test_verify_finds_validity_that_was_changed(tmp_path, job, serially):
    out = tmp_path / "out.zarr"
    path = made.page_of_bits(tmp_path / "in.tif")
    serially(job(path, out, task=TWICE, tiling=ONE_LEVEL))
    import zarr

    marks = zarr.open_array(str(out / "validity" / "0"), mode="r+")
    stored = marks[:]
    stored[1, 0, 100] = 0
    stored[2, 50, 70] = 255
    assert (marks[1, 0, 100], marks[2, 50, 70]) == (255, 0)
    marks[:] = stored
    found = verify_run(out)
    assert (found.validity.lost, found.validity.invented) == (1, 1)
    assert not found.passed


def test_an_image_whose_validity_lost_a_part_is_incomplete(tmp_path, job, serially):
    out = tmp_path / "out.zarr"
    serially(job(made.page_of_bits(tmp_path / "in.tif"), out, task=TWICE, tiling=ONE_LEVEL))
    document = json.loads((out / "zarr.json").read_text())
    assert document["attributes"]["raster"]["validity"] == {"path": "validity", "as": "mask"}
    (out / "validity" / "0" / "zarr.json").unlink()
    with pytest.raises(FormatError, match=r"validity/0: a folder without zarr\.json"):
        verify_run(out)


def test_a_mask_file_is_part_of_what_a_run_was_begun_with(tmp_path, job, serially):
    from orchestrator.errors import PlanError
    from orchestrator.planning.fingerprint import check_same, fingerprint
    from orchestrator.planning.resolve import plan_job

    path = made.file_beside(tmp_path / "in.tif")
    given = {"values": (0, 255)}
    spec = job(path, tmp_path / "out.zarr", task=TWICE, tiling=ONE_LEVEL, input=given)
    begun = fingerprint(plan_job(spec))
    made.write(tmp_path / "in.tif.msk", made.VALID.T[None].astype("uint8"))
    with pytest.raises(PlanError, match="valid_file was"):
        check_same(begun, fingerprint(plan_job(spec)))
    (tmp_path / "in.tif.msk").unlink()
    with pytest.raises(PlanError, match=r"input\.keep_mask was 'mask'"):
        check_same(begun, fingerprint(plan_job(spec)))


def test_tiles_without_data_are_like_what_is_near_where_neighbours_see_them(
    tmp_path, job, serially
):
    """A dark scene, a gap wider than a tile, and beside it a gap of one band."""
    pixels = np.random.default_rng(2).integers(2000, 4000, (3, 32, 40)).astype("uint16")
    pixels[:, :, :17] = 0
    pixels[0, :, :30] = 0
    path = made.write(tmp_path / "in.tif", pixels, nodata=0)
    given = {"input": {"values": (0, 65535)}, "run": {"keep_work": True}}
    outcome = serially(job(path, tmp_path / "out.zarr", tiling={"levels": 1}, **given))
    assert outcome.filled > 0
    cells = LevelCells.open(RunDir(tmp_path / "out.zarr"), outcome.plan.levels[0])
    seen = cells.read(Box(0, 40, 128, 160))
    black = -1.0
    assert np.abs(seen - (black + 2 * 3000 / 65535)).max() < 0.3


def test_what_is_no_number_enters_no_coarser_level(tmp_path, job, serially, published_pixels):
    pixels = made.samples(1, "float32")
    pixels[0, 10:21, 5:40] = np.nan
    pixels[0, 3, 3] = np.inf
    wide = np.pad(pixels, ((0, 0), (0, 0), (0, 240)), mode="wrap")
    path = made.write(tmp_path / "in.tif", wide)
    out = tmp_path / "out.zarr"
    given = {"values": (0, 255)}
    serially(job(path, out, task=TWICE, tiling=ONE_LEVEL, input=given))
    assert np.isfinite(verify_run(out).seams.overall.ratio)
    finest = published_pixels(out, 0)
    coarser = published_pixels(out, 1)
    cells = finest.reshape(1, 80, 2, 320, 2).transpose(0, 1, 3, 2, 4).reshape(1, 80, 320, 4)
    finite = np.isfinite(cells)
    expected = np.where(finite, cells, 0).sum(axis=3) / np.maximum(finite.sum(axis=3), 1)
    some = finite.any(axis=3)
    np.testing.assert_allclose(coarser[some], expected[some], rtol=1e-5)
    assert not np.isfinite(coarser[~some]).any()


class StopAt:
    """A listener that ends the run at its n-th commit."""

    def __init__(self, commits):
        self.left = commits

    def __call__(self, event):
        if isinstance(event, BatchCommitted):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_an_interrupted_run_of_a_staged_masked_image_ends_with_the_same_bytes(
    tmp_path, job, serially, published_files
):
    path = grey_with_alpha(tmp_path / "in")
    serially(job(path, tmp_path / "whole.zarr", task=TWICE, tiling=ONE_LEVEL))
    out = tmp_path / "out.zarr"
    with pytest.raises(KeyboardInterrupt):
        serially(job(path, out, task=TWICE, tiling=ONE_LEVEL), [StopAt(5)])
    path.unlink()  # its staged copy holds its validity
    resume(out, SerialExecutor())
    assert published_files(out) == published_files(tmp_path / "whole.zarr")


@pytest.mark.ray
def test_ray_workers_give_the_bytes_of_the_serial_executor(
    tmp_path, job, serially, published_files
):
    from orchestrator.ray_backend.executor import RayExecutor
    from orchestrator.run.lifecycle import start

    path = made.file_beside(tmp_path / "in.tif")
    given = {"task": TWICE, "tiling": ONE_LEVEL, "input": {"values": (0, 255)}}
    serially(job(path, tmp_path / "serial.zarr", **given))
    start(job(path, tmp_path / "ray.zarr", **given), RayExecutor(workers=2))
    found = published_files(tmp_path / "ray.zarr")
    assert any(name.startswith("validity") for name in found)
    assert found == published_files(tmp_path / "serial.zarr")


def test_colours_are_invented_only_where_the_grey_was_measured(tmp_path, job, serially):
    out = tmp_path / "out.zarr"
    path = grey_with_alpha(tmp_path / "in")
    serially(job(path, out, task={"name": "colorize"}, tiling=ONE_LEVEL))
    found = verify_run(out)
    assert found.passed, found
    assert found.validity is not None
    reader = open_image(out)
    assert reader.info.channels == 3
    _, valid = reader.read_valid(reader.info.box)
    assert np.array_equal(valid, np.broadcast_to(made.VALID, valid.shape))


def test_plan_says_what_stays_without_data(tmp_path, cli):
    path = made.file_beside(tmp_path / "in.tif")
    said = cli("plan", path, "--scale", 2).out
    assert "samples without data stay so: mask file in.tif.msk" in said
    assert "mask file in.tif.msk" in cli("info", path).out


def test_a_masked_array_is_refused_rather_than_taken_for_measured():
    from orchestrator.api.array_input import array_image
    from orchestrator.errors import PlanError

    pixels = np.ma.masked_less(made.samples(1)[0], 60)
    with pytest.raises(PlanError, match=r"the image is a masked array, .* samples are masked"):
        array_image(pixels, None)
    array_image(np.ma.masked_less(made.samples(1)[0], 0), None)


@pytest.mark.parametrize("associated", [False, True])
def test_soft_alpha_comes_out_as_soft_as_it_was(tmp_path, job, serially, associated):
    """Staged (PNG) or read by windows (TIFF), through the folder, a TIFF and a PNG."""
    colours = made.samples(3)
    alpha = np.linspace(0, 255, 80).astype("uint8")[None].repeat(80, axis=0)
    if associated:
        colours = (colours * (alpha / 255.0)).astype("uint8")
        path = tmp_path / "in.tif"
        rows = np.dstack([*colours, alpha])
        tifffile.imwrite(path, rows, photometric="rgb", extrasamples=["assocalpha"])
    else:
        path = made.png(tmp_path / "in.png", np.dstack([*colours, alpha]))
    out = tmp_path / "out.zarr"
    serially(job(path, out, task=TWICE, tiling=ONE_LEVEL))
    assert verify_run(out).passed
    fine = alpha.repeat(2, 0).repeat(2, 1)
    reader = open_image(out)
    assert np.array_equal(reader.opacity(reader.info.box)[1], fine)
    assert np.array_equal(reader.read_valid(reader.info.box)[1][2], fine > 0)

    export(out, tmp_path / "e.tif")
    with tifffile.TiffFile(tmp_path / "e.tif") as tiff:
        assert int(tiff.pages[0].extrasamples[0]) == (1 if associated else 2)
        assert np.array_equal(tiff.pages[0].asarray()[..., 3], fine)
    export(out, tmp_path / "e.png")
    rows = imagecodecs.png_decode((tmp_path / "e.png").read_bytes())
    assert np.array_equal(rows[..., 3], fine)
    stored = reader.read(reader.info.box).transpose(1, 2, 0)
    shown = rows[..., :3] * (rows[..., 3:] / 255.0) if associated else rows[..., :3]
    seen = (stored <= fine[..., None]).all(axis=2) if associated else fine > 0
    assert np.abs(shown[seen] - stored[seen].astype(float)).max() <= 0.6


def test_samples_without_data_are_not_degraded_as_if_they_were_measured(tmp_path, cli):
    path = made.page_of_bits(tmp_path / "in.tif")
    ended = cli("degrade", path, tmp_path / "small.tif", "--scale", 4)
    assert ended.code == 2
    assert "samples without data in the window" in ended.err
    assert not (tmp_path / "small.tif").exists()


def test_a_region_of_a_masked_image_keeps_what_is_not_valid(tmp_path, job, serially):
    path = made.page_of_bits(tmp_path / "in.tif")
    out = tmp_path / "out.zarr"
    regions = [{"box": (32, 32, 96, 96), "denoiser": "builtin"}]
    serially(
        job(path, out, task=TWICE, tiling={**ONE_LEVEL, "tile": 32, "stride": 24}, regions=regions)
    )
    found = verify_run(out)
    assert found.passed, found
    reader = open_image(out)
    _, valid = reader.read_valid(reader.info.box)
    assert np.array_equal(valid[0], made.VALID.repeat(2, 0).repeat(2, 1))
