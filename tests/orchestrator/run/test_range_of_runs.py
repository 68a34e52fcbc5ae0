"""A run keeps the black and white that it was begun with, and all of its parts have the same."""

import json
import re

import numpy as np
import pytest
import tifffile

import gigarestore as gr
from orchestrator.events import BatchCommitted
from orchestrator.job.spec import JobSpec
from orchestrator.measurement import value_statistics
from orchestrator.planning.resolve import load_plan, plan_job
from orchestrator.run.lifecycle import resume
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir


@pytest.fixture
def scene(make_picture, tmp_path):
    """A file of two channels of 12-bit samples, one a fortieth as bright as the other."""
    pixels = make_picture(24, 20, 2, "uint16") // 16
    pixels[1] //= 40
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, pixels.transpose(1, 2, 0), photometric="minisblack", planarconfig=1)
    return path


def stop(event):
    if isinstance(event, BatchCommitted):
        raise KeyboardInterrupt


def document(root):
    """The published metadata, but for the folder's name."""
    values = json.loads((root / "zarr.json").read_text())
    values["attributes"]["ome"]["multiscales"][0]["name"] = ""
    return values


def test_an_interrupted_run_goes_on_with_the_numbers_it_began_with(
    scene, job, serially, published_files, tmp_path, monkeypatch
):
    serially(job(scene, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        serially(job(scene, tmp_path / "part"), [stop])
    monkeypatch.setattr(value_statistics, "HEADROOM", 3.0)  # as a later version would fit
    begun = JobSpec.load_resolved(RunDir(tmp_path / "part").job)
    assert len(begun.input.values) == 2
    again = begun.input.model_copy(update={"values": "auto", "values_from": None})
    changes = begun.model_copy(update={"input": again})
    assert resume(tmp_path / "part", SerialExecutor(), changes=changes).resumed > 0
    assert published_files(tmp_path / "part") == published_files(tmp_path / "whole")
    assert document(tmp_path / "part") == document(tmp_path / "whole")


def test_full_is_what_it_was_before_there_was_a_choice(
    make_picture, job, serially, published_files, tmp_path
):
    pixels = make_picture(24, 20, 3, "uint16") // 16 + 9_000  # far from black
    tifffile.imwrite(tmp_path / "in.tif", pixels.transpose(1, 2, 0), photometric="rgb")
    serially(job(tmp_path / "in.tif", tmp_path / "full", input={"values": "full"}))
    before = job(tmp_path / "in.tif", tmp_path / "before", sampling={"pixel_rules": 1})
    serially(before)
    serially(job(tmp_path / "in.tif", tmp_path / "auto"))
    assert published_files(tmp_path / "full") == published_files(tmp_path / "before")
    assert published_files(tmp_path / "full") != published_files(tmp_path / "auto")


def test_a_resolved_job_that_states_no_range_has_all_of_the_dtype(scene, job, serially, tmp_path):
    serially(job(scene, tmp_path / "out", input={"values": "full"}))
    run = RunDir(tmp_path / "out")
    text = re.sub(r"values(_from)? = .*\n", "", run.job.read_text())
    assert "values" not in text
    run.job.write_text(text)
    assert load_plan(run).values.full
    assert plan_job(JobSpec.load_resolved(run.job), run).values.full


def test_a_region_has_the_range_of_the_whole(scene, job):
    region = {"box": (0, 0, 32, 32), "denoiser": "analytic:"}
    plan = plan_job(job(scene, "out", regions=[region]))
    assert plan.values.bands
    assert plan.regions[0].plan.values == plan.values


def test_a_crop_has_the_range_of_its_own_samples(make_picture, job, tmp_path):
    pixels = make_picture(64, 64, 1, "uint16") // 16
    pixels[:, :, 32:] *= 15
    tifffile.imwrite(tmp_path / "in.tif", pixels[0])
    part = plan_job(job(tmp_path / "in.tif", "out", input={"crop": (0, 0, 64, 32)}))
    assert part.values.high < 8_000
    assert plan_job(job(tmp_path / "in.tif", "out")).values.high > 40_000


def test_floats_are_restored_as_an_array_as_from_a_file(make_picture, tmp_path):
    pixels = make_picture(16, 16, 1, "uint16")[0] / np.float32(200_000)
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    quick = {"scale": 2, "steps": 2, "tile": 32, "stride": 24}
    from_array = np.asarray(gr.restore(pixels, axes="yx", **quick))
    from_file = np.asarray(gr.restore(tmp_path / "in.tif", out=tmp_path / "out", **quick))
    assert from_array.tobytes() == from_file.tobytes()
    means = from_array.reshape(16, 2, 16, 2).mean((1, 3), dtype=np.float64)
    assert np.abs(means - pixels).max() < 1e-6


def test_noise_in_percent_is_of_the_range_that_a_restoration_has(make_picture, cli, tmp_path):
    clean = make_picture(64, 64, 1, "uint16")[0] // 16 + 9_000
    tifffile.imwrite(tmp_path / "clean.tif", clean)
    noisy = ("--task", "denoise", "--sigma", "5%")
    assert cli("degrade", tmp_path / "clean.tif", tmp_path / "noisy.tif", *noisy).code == 0
    added = tifffile.imread(tmp_path / "noisy.tif").astype(float) - clean
    levels = plan_job(
        JobSpec.build({"input": {"path": str(tmp_path / "clean.tif")}, "task": {"scale": 2}})
    ).values.levels
    assert 3_500 < levels < 12_300
    assert added.std() == pytest.approx(0.05 * levels, rel=0.1)


@pytest.mark.parametrize("outlier", [4.0, 1e30])
def test_single_floats_far_outside_of_the_range_are_no_other_kind_of_picture(
    make_picture, job, serially, tmp_path, outlier
):
    pixels = make_picture(24, 20, 1, "uint16")[0] / np.float32(200_000)
    pixels[5, 6] = outlier
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    serially(job(tmp_path / "in.tif", tmp_path / "out"))
    assert load_plan(RunDir(tmp_path / "out")).values.high < 1
    if outlier == 4.0:  # beside 1e30 no float is exact to a level
        assert verify_run(tmp_path / "out").consistent
    group = json.loads((tmp_path / "out" / "zarr.json").read_text())
    assert group["attributes"]["gigarestore"]["domain"]["residual"] < 1
