"""A real SLURM of one node on this machine's loopback, under this user: our script, launcher and
driver within it.

What needs several nodes is in test_slurm.py (`make test-cluster`).
"""

import json
import subprocess
import sys

import pytest

from cluster.options.exit_codes import BAD_INPUT
from cluster.submission.handles import Handle, JobState
from cluster.submission.slurm.slurm_client import SlurmBackend
from tests.cluster.submission.slurm.test_slurm_arrays import array
from tests.places import ROOT
from tests.slurm_daemons import Loopback, calls, counted, lacking, shell

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OPTIONS = [
    "--scale",
    "4",
    "--tile",
    "32",
    "--stride",
    "16",
    "--levels",
    "2",
    "--intent",
    "detail",
    "--steps",
    "2",
]
SUBMIT = ["--backend", "slurm", "--cpus", "1", "--memory", "1G"]


@pytest.fixture(scope="module")
def slurm():
    if programs := lacking():
        pytest.skip(
            f"NOT TESTED: SLURM's script and launcher, lacking {programs} "
            "(Debian: apt-get install slurm-wlm munge)"
        )
    found = Loopback()
    try:
        try:
            found.start()
        except (AssertionError, subprocess.SubprocessError) as err:
            pytest.skip(
                "NOT TESTED: SLURM's script and launcher, its daemons do not run here: "
                f"{' '.join(str(err).split())}"
            )
        yield found
    finally:
        found.stop()


@pytest.fixture
def run(slurm, tmp_path):
    """Run our command as a user of that SLURM."""
    env = {
        **slurm.env,
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    env = {
        name: value for name, value in env.items() if not name.startswith(("RAY_", "GIGARESTORE_"))
    }

    def run(*words):
        command = [sys.executable, "-m", "cluster", *map(str, words)]
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False
        )

    return run


def test_a_script_that_sbatch_takes_restores_the_serial_bytes(
    run, slurm, small, tmp_path, job, serially, published_files
):
    done = run("submit", small, "out.zarr", *OPTIONS, *SUBMIT, "--follow", "--json")
    assert done.returncode == 0, done.stderr
    assert "driver ended with 0" in done.stderr
    handle = json.loads(done.stdout)["handle"]
    assert run("status", "out.zarr").stdout.startswith(f"{handle}: succeeded\n")
    serially(job(small, tmp_path / "alone"))
    assert published_files(tmp_path / "out.zarr") == published_files(tmp_path / "alone")
    assert "COMPLETED" in slurm.ask("squeue", "--states=all", "--format=%i %T")


def test_the_drivers_exit_code_is_the_jobs(run, slurm, small, tmp_path):
    """A picture whose pixels are damaged: that shows only when they are decoded, in the job."""
    damaged = bytearray(small.read_bytes())
    place = damaged.index(b"IDAT") + 100
    damaged[place : place + 20] = bytes(20)
    (tmp_path / "damaged.png").write_bytes(damaged)
    done = run("submit", "damaged.png", "out.zarr", *OPTIONS, *SUBMIT, "--follow")
    assert done.returncode == BAD_INPUT, done.stderr
    assert f"driver ended with {BAD_INPUT}" in done.stderr
    job = done.stdout.strip().removeprefix("slurm:")
    assert f"ExitCode={BAD_INPUT}:0" in slurm.ask("scontrol", "show", "job", job)


def test_the_controller_is_asked_once_a_look_for_all_tasks_of_an_array(
    slurm, tmp_path, monkeypatch, eventually
):
    """The third task fails, the second is queued again by itself, and later the fourth by
    its user.
    """
    script = """#!/bin/bash
    me=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    [ $me = ${SLURM_ARRAY_JOB_ID}_2 ] && [ ${SLURM_RESTART_COUNT:-0} = 0 ] &&
      { scontrol requeue $me; sleep 60; }
    [ $SLURM_ARRAY_TASK_ID = 3 ] && exit 7
    exit 0
    """
    options = ["--parsable", "--array=1-6", "--mem=100M", "--requeue", "--output=/dev/null"]
    number = shell("sbatch", *options, env=slurm.env, input=script).stdout.strip()
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    programs = counted(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    backend = SlurmBackend()
    record = array(tmp_path, 6)
    handle = Handle("slurm", number)

    def look():
        calls(programs)
        found = backend.state(handle, record)
        assert (asked := calls(programs))[0].startswith("squeue ")
        assert len(asked) == len({line.partition(" ")[0] for line in asked}), asked
        assert f"{number}_" not in "".join(asked)
        return found

    assert eventually(lambda: look().state is JobState.FAILED, seconds=60), slurm.logs()
    found = look()
    assert (found.exit_code, found.reason) == (7, "1 of 6 shares")
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job", f"{number}_2")
    calls(programs)
    backend.state(handle, record)
    assert len(calls(programs)) == 1, "squeue alone, once all is known"
    slurm.ask("scontrol", "requeue", f"{number}_4")
    assert not look().state.ended
    assert eventually(lambda: look().state is JobState.FAILED, seconds=60), slurm.logs()
