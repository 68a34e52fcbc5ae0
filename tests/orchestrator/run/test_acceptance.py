"""Every check of `verify` finds the damage that it is for, and only that one fails."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from orchestrator.planning.resolve import load_plan
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir
from storage.zarr_format.downsample import halve

TILES = {"levels": 1, "tile": 64, "stride": 32}
QUICK = {"intent": "faithful", "steps": 1}
NODATA = 7
HOLE = np.s_[:, 40:50, 6:14]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, make_picture, write_picture, job, serially):
    """Finished outputs, by their kind."""
    folder = tmp_path_factory.mktemp("outputs")

    def source(name, pixels):
        tags = [(42113, "s", 0, str(NODATA), True)]
        path = folder / name
        options = {"photometric": "minisblack", "planarconfig": "separate"}
        tifffile.imwrite(path, pixels, extratags=tags, tile=(64, 64), **options)
        return path

    tall = make_picture(140, 24, 3, "uint16") // 2 + 1000
    tall[HOLE] = NODATA
    small = make_picture(64, 72)
    small[HOLE] = NODATA
    noisy = make_picture(64, 72)
    jobs = {
        "enlarged": (source("tall.tif", tall), {"task": {"name": "sr", "scale": 4}}),
        "filled": (
            source("small.tif", small),
            {"task": {"name": "inpaint"}, "input": {"nodata": NODATA}},
        ),
        "drawn": (None, {"task": {"name": "generate"}, "input": {"size": (192, 96)}}),
        "denoised": (
            write_picture(folder / "noisy.png", noisy),
            {"task": {"name": "denoise", "sigma": 10}},
        ),
    }
    for name, (path, options) in jobs.items():
        serially(job(path, folder / name, sampling=QUICK, tiling=TILES, **options))
    return folder


@pytest.fixture
def damaged(outputs, tmp_path):
    """Copy an output, change its pixels and make its pyramid anew."""

    def make(name, change):
        root = Path(shutil.copytree(outputs / name, tmp_path / name))
        array = zarr.open_array(str(root / "0"), mode="r+")
        pixels = array[:]
        change(pixels)
        array[:] = pixels
        levels = sorted(path.name for path in root.iterdir() if path.name.isdigit())
        for level in levels[1:]:
            pixels = halve(pixels, NODATA)
            zarr.open_array(str(root / level), mode="r+")[:] = pixels
        return root

    return make


def failing(root):
    return {check.name for check in verify_run(root).checks if not check.passed}


def told(root, cli):
    """Return the exit code and {check: verdict} of the printed lines."""
    ended = cli("verify", root)
    lines = [line.split(maxsplit=1) for line in ended.out.splitlines()]
    return ended.code, {rest.partition(":")[0]: verdict for verdict, rest in lines}


@pytest.mark.parametrize("name", ["enlarged", "filled", "drawn", "denoised"])
def test_outputs_pass_as_they_are(name, outputs, cli):
    assert failing(outputs / name) == set()
    code, verdicts = told(outputs / name, cli)
    assert code == 0
    assert set(verdicts.values()) == {"pass"}


@pytest.mark.parametrize(
    ("dtype", "scale", "mark"), [("float32", 1e-4, np.nan), ("int16", 0.003, -32768)]
)
def test_what_marks_unknown_samples_is_no_part_of_the_input(
    dtype, scale, mark, tmp_path, make_picture, job, serially, cli
):
    pixels = (make_picture(64, 72, 1, "uint16") * scale).astype(dtype)
    pixels[:, 8:24, 6:40] = mark
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="minisblack")
    unknown = {"nodata": "nan" if np.isnan(mark) else mark}
    task = {"name": "inpaint"}
    out = tmp_path / "out"
    serially(job(tmp_path / "in.tif", out, sampling=QUICK, tiling=TILES, task=task, input=unknown))
    code, verdicts = told(out, cli)
    assert (code, set(verdicts.values())) == (0, {"pass"})
    found = verify_run(out).values
    assert found.input_used == pytest.approx(found.output_used, abs=0.1)
    assert found.input_near < 0.01


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_samples_without_a_logarithm_are_no_samples_of_the_output(
    dtype, tmp_path, make_picture, job, serially, cli
):
    pixels = make_picture(64, 72, 1, "uint16").astype(dtype)
    pixels[:, :, :30] = 0
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="minisblack")
    task = {"name": "denoise", "noise": "speckle:50"}
    out = tmp_path / "out"
    serially(job(tmp_path / "in.tif", out, sampling=QUICK, tiling=TILES, task=task))
    code, verdicts = told(out, cli)
    assert (code, set(verdicts.values())) == (0, {"pass"})
    assert verify_run(out).values.output_cut == 0


def test_the_pyramid_that_the_tests_make_is_the_published_one(damaged):
    assert failing(damaged("enlarged", lambda pixels: None)) == set()


def stored_objects(root, level):
    return sorted(path for path in (root / str(level) / "c").rglob("*") if path.is_file())


def test_a_lost_object_of_a_coarser_level(damaged, cli):
    root = damaged("enlarged", lambda pixels: None)
    stored_objects(root, 1)[0].unlink()
    assert failing(root) == {"complete"}
    code, verdicts = told(root, cli)
    assert code == 1
    assert verdicts["complete"] == "FAIL"
    assert [verdict for name, verdict in verdicts.items() if name != "complete"].count("FAIL") == 0


def test_a_coarser_level_of_other_pixels(damaged):
    root = damaged("enlarged", lambda pixels: None)
    array = zarr.open_array(str(root / "1"), mode="r+")
    array[1, 100, 20] += 9
    assert failing(root) == {"pyramid"}


def test_a_damaged_object_of_a_coarser_level(damaged):
    root = damaged("enlarged", lambda pixels: None)
    path = stored_objects(root, 1)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(bytes(data))
    assert failing(root) == {"pyramid"}


def test_pixels_that_measure_something_else(damaged):
    def change(pixels):
        pixels[0, 300:304, 16:20] += 30

    assert failing(damaged("enlarged", change)) == {"consistency"}


def test_a_measured_sample_without_data(damaged):
    def change(pixels):
        pixels[1, 333, 11] = NODATA

    assert "valid kept" in failing(damaged("enlarged", change))


def test_a_sample_without_data_that_was_given_some(damaged):
    def change(pixels):
        pixels[1, 4 * 44, 4 * 10] = 3000

    assert failing(damaged("enlarged", change)) == {"none made up"}


def test_a_hole_that_was_not_filled(damaged):
    def change(pixels):
        pixels[HOLE] = NODATA

    assert failing(damaged("filled", change)) == {"filled"}


def edges(root, axis):
    grid = load_plan(RunDir(root)).levels[0].grid
    along = (grid.rows, grid.cols)[axis]
    return [along.owned(i)[0] for i in range(1, along.count)]


@pytest.mark.parametrize("which", [0, 4])
@pytest.mark.parametrize("step", [3000, 6000])
def test_a_step_along_one_edge_between_tiles(which, step, outputs, damaged):
    """The means of all cells stay: nothing but the seam is wrong."""
    edge = edges(outputs / "enlarged", 0)[which]
    ramp = np.array([-0.2, 0.0, 0.0, 0.2])

    def change(pixels):
        for before, sign in ((edge - 4, 1), (edge, 1)):
            rows = pixels[:, before : before + 4].astype(float)
            empty = rows == NODATA
            rows += step * sign * (ramp if before < edge else -ramp[::-1])[:, None]
            pixels[:, before : before + 4] = np.where(empty, NODATA, rows.clip(8, 65535))

    assert failing(damaged("enlarged", change)) == {"seams"}


def test_a_step_at_an_edge_of_a_hole_is_a_seam(tmp_path, make_picture, job, serially):
    """What stands in the hole of the input is no step that the picture has itself."""
    pixels = make_picture(300, 24, 1, "uint16")
    pixels[:, 112:140] = NODATA
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="minisblack")
    options = {"task": {"name": "inpaint"}, "input": {"nodata": NODATA}}
    out = tmp_path / "out"
    serially(job(tmp_path / "in.tif", out, sampling=QUICK, tiling=TILES, **options))
    assert failing(out) == set()
    edge = edges(out, 0)[2]
    assert edge == 112
    array = zarr.open_array(str(out / "0"), mode="r+")
    array[:, edge:140] = np.clip(array[:, edge:140].astype(int) + 12_000, 0, 65535)
    for level in sorted(path.name for path in out.iterdir() if path.name.isdigit())[1:]:
        zarr.open_array(str(out / level), mode="r+")[:] = halve(array[:])
    assert failing(out) == {"seams"}


def test_a_brighter_part_of_what_was_drawn(outputs, damaged):
    edge = edges(outputs / "drawn", 0)[2]

    def change(pixels):
        pixels[:, edge:] = np.clip(pixels[:, edge:].astype(int) + 60, 1, 254)

    assert failing(damaged("drawn", change)) == {"seams"}


def test_samples_that_were_cut_off(damaged):
    def change(pixels):
        pixels[:, ::4, ::2] = 255

    assert failing(damaged("drawn", change)) == {"not cut off"}


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_an_output_that_has_lost_its_contrast(share, damaged):
    def change(pixels):
        flat = 128 + share * (pixels.astype(float) - 128)
        pixels[:] = flat.round()

    assert failing(damaged("denoised", change)) == {"range used", "consistency"}


def test_a_denoised_picture_of_another_brightness(damaged):
    def change(pixels):
        pixels[:] = np.clip(pixels.astype(int) + 25, 1, 254)

    assert failing(damaged("denoised", change)) == {"consistency"}


def test_a_few_hot_pixels_are_no_other_brightness(damaged):
    def change(pixels):
        pixels[:, ::8, ::8] = 250

    assert "consistency" not in failing(damaged("denoised", change))


def test_the_json_holds_the_same_checks_under_a_version(outputs, cli):
    told = json.loads(cli("verify", outputs / "enlarged", "--json").out)
    assert told["version"] == 3
    assert [check["name"] for check in told["checks"]] == [
        "complete",
        "pyramid",
        "consistency",
        "valid kept",
        "filled",
        "none made up",
        "seams",
        "not cut off",
        "range used",
    ]
    assert all(check["passed"] for check in told["checks"])
    assert told["checks"][2]["value"] == told["consistency"]["max"]
