"""Outputs of every version of the job file: read, verified, exported and resumed, with their bytes.

`versions/N.tar.gz` holds two outputs of a program that wrote schema N, of the same job:
finished.zarr and interrupted.zarr. Version 0 is that of files that do not say one.
"""

import json
import tarfile
from pathlib import Path

import pytest
import tifffile

from orchestrator.errors import PlanError
from orchestrator.job import schema
from orchestrator.job.spec import JobSpec
from orchestrator.monitoring.run_progress import read_status
from orchestrator.planning.fingerprint import check_same, fingerprint
from orchestrator.planning.resolve import load_plan, plan_job
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


@pytest.fixture
def masks_and_regions(tmp_path):
    """Outputs of version 0 with a mask and with a region, whole and interrupted, at their place."""
    archive = Path(__file__).parent / "versions" / "masks-and-regions-0.tgz"
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name in ("job.toml", "zarr.json"):
            path.write_text(path.read_text().replace("@FOLDER@", str(tmp_path)))
    return tmp_path


def test_an_interrupted_run_with_a_mask_goes_on_under_its_own_rules(
    masks_and_regions, published_pixels
):
    resume(masks_and_regions / "mask_part.zarr", SerialExecutor(), take_over=True)
    whole = published_pixels(masks_and_regions / "mask_whole.zarr").astype(int)
    resumed = published_pixels(masks_and_regions / "mask_part.zarr").astype(int)
    # Tiles that another processor has made may round otherwise.
    assert abs(resumed - whole).max() <= 1
    assert (resumed != whole).mean() < 0.005
    assert verify_run(masks_and_regions / "mask_part.zarr").passed
    assert verify_run(masks_and_regions / "mask_whole.zarr").passed


def test_a_run_with_a_region_keeps_its_fingerprint(masks_and_regions):
    run = RunDir(masks_and_regions / "region_whole.zarr")
    header = json.loads(run.journal.read_text().splitlines()[0].rpartition(" ")[0])["header"]
    check_same(header["fingerprint"], fingerprint(plan_job(JobSpec.load_resolved(run.job))))
    assert header["fingerprint"]["regions"] is not None
    assert verify_run(run.root).passed


def test_its_mask_may_be_gone_once_it_is_staged(masks_and_regions):
    """The reading of a mask is the job's; a run that goes on does not look at it again."""
    spec = JobSpec.load_resolved(RunDir(masks_and_regions / "mask_part.zarr").job)
    assert spec.sampling.pixel_rules == 1
    assert spec.input.mask_white is None
    plan = load_plan(RunDir(masks_and_regions / "mask_part.zarr"))
    assert plan.inputs.survey is None
