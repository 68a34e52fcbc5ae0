"""Outputs of every version of the job file: read, verified, exported and resumed, with their bytes.

`versions/N.tar.gz` holds two outputs of a program that wrote schema N, of the same job:
finished.zarr and interrupted.zarr. Version 0 is that of files that do not say one.
"""

import tarfile
from pathlib import Path

import pytest
import tifffile

from orchestrator.errors import PlanError
from orchestrator.job import schema
from orchestrator.job.spec import JobSpec
from orchestrator.monitoring.run_progress import read_status
from orchestrator.planning.resolve import load_plan
from orchestrator.run.lifecycle import resume
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir

VERSIONS = sorted((Path(__file__).parent / "versions").glob("*.tar.gz"))


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name.partition(".")[0])
def outputs(request, tmp_path):
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def pixels(root):
    return {
        path.relative_to(root): path.read_bytes()
        for path in root.glob("[0-9]*/**/*")
        if path.is_file()
    }


def test_a_finished_output_is_verified_and_its_status_read(outputs):
    assert verify_run(outputs / "finished.zarr").passed
    assert read_status(outputs / "finished.zarr")["state"] == "published"


def test_a_finished_output_is_exported(outputs, cli):
    ended = cli("export", outputs / "finished.zarr", outputs / "out.tif", "--quiet")
    assert ended.code == 0, ended.complaint
    assert tifffile.imread(outputs / "out.tif").shape == (40, 36, 3)


def test_an_interrupted_run_goes_on_to_the_same_bytes(outputs):
    interrupted = outputs / "interrupted.zarr"
    assert not RunDir(interrupted).published
    resume(interrupted, SerialExecutor())
    assert pixels(interrupted) == pixels(outputs / "finished.zarr")
    assert len(pixels(interrupted)) > 1


def _job_text(outputs):
    return (outputs / "finished.zarr/.gigarestore/job.toml").read_text()


def test_an_output_that_does_not_say_what_came_later_means_what_was_before(outputs):
    run = RunDir(outputs / "finished.zarr")
    lines = _job_text(outputs).splitlines()
    run.job.write_text(
        "\n".join(line for line in lines if not line.startswith(("ensemble", "guide ")))
    )
    sampling = load_plan(run).spec.sampling
    assert (sampling.ensemble, sampling.guide) == ("1", "constraint")
    assert verify_run(run.root).passed


def test_a_job_that_lacks_what_every_version_wrote_is_refused_on_one_line(outputs):
    run = RunDir(outputs / "finished.zarr")
    lines = _job_text(outputs).splitlines()
    run.job.write_text("\n".join(line for line in lines if not line.startswith("stride")))
    with pytest.raises(PlanError, match=r"does not say tiling\.stride"):
        load_plan(run)


def test_a_job_of_a_later_version_names_the_program_that_reads_it(outputs):
    run = RunDir(outputs / "finished.zarr")
    later = f'schema = {schema.SCHEMA + 1}\nneeds = "9.8"\n'
    run.job.write_text(later + _job_text(outputs) + "\n[new]\nfield = 1\n")
    with pytest.raises(
        PlanError, match=r"schema 2, .* reads up to 1: use gigarestore 9\.8 or later"
    ):
        verify_run(run.root)


def test_a_new_job_file_says_its_version():
    text = JobSpec.build({"input": {"size": [8, 8]}, "task": {"name": "generate"}}).to_toml()
    assert text.startswith(f'schema = {schema.SCHEMA}\nneeds = "{schema.NEEDS}"\n')
