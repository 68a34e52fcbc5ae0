"""What SLURM's programs say, and what a run's state is when they say nothing, less, or too much."""

import json
import re
import signal
import subprocess
import sys

import pytest

from cluster.submission.backend import Unreachable
from cluster.submission.handles import Handle, JobState, SubmissionRecord
from cluster.submission.slurm.slurm_client import SlurmBackend
from cluster.submission.slurm.state import parse_exit, parse_sacct, parse_scontrol, parse_squeue
from orchestrator.errors import PlanError
from tests.places import ROOT

# Of a real SLURM 22.05: a requeued job has its earlier attempt under the same id.
SACCT = """\
1|COMPLETED|0:0|None
1.batch|COMPLETED|0:0|
2|FAILED|7:0|None
3|CANCELLED by 0|0:0|None
3.batch|CANCELLED|0:15|
4|FAILED|0:9|None
5|REQUEUED|0:0|None
5.batch|CANCELLED|0:15|
7|PENDING|0:0|PartitionConfig
6_1|FAILED|1:0|None
6_1.batch|FAILED|1:0|
5|COMPLETED|0:0|None
5.0|COMPLETED|0:0|
8|NODE_FAIL|1:0|None
9|OUT_OF_MEMORY|0:125|None
10|TIMEOUT|0:0|None
11|SOMETHING_NEW|0:0|None
12|COMPLETED|0:0|None
12|REQUEUED|0:0|None
"""


@pytest.mark.parametrize(
    ("job", "state", "code"),
    [
        ("1", JobState.SUCCEEDED, 0),
        ("2", JobState.FAILED, 7),
        ("3", JobState.CANCELLED, 0),
        ("4", JobState.FAILED, 137),
        ("5", JobState.SUCCEEDED, 0),
        ("6_1", JobState.FAILED, 1),
        ("7", JobState.PENDING, 0),
        ("8", JobState.NODE_FAIL, 1),
        ("9", JobState.OUT_OF_MEMORY, 253),
        ("10", JobState.TIMEOUT, 0),
        ("11", JobState.UNKNOWN, 0),
        ("12", JobState.SUCCEEDED, 0),
    ],
)
def test_sacct_is_read_row_by_row(job, state, code):
    found = parse_sacct(SACCT)[job]
    assert (found.state, found.code) == (state, code)


@pytest.mark.parametrize("text", ["", "\n", "slurm_load: error\n", "1\n", "|||\n"])
def test_an_empty_or_garbled_answer_is_no_answer(text):
    assert "1" not in parse_sacct(text)
    assert not parse_squeue(text)
    assert not parse_scontrol(text)


def test_a_job_that_can_never_start_is_said_to():
    found = parse_squeue("3|PENDING|Resources\n4|PENDING|PartitionNodeLimit\n31|RUNNING|None\n")
    assert (found["3"].state, found["3"].reason) == (JobState.PENDING, "Resources")
    assert found["4"].state is JobState.PENDING
    assert "never start" in found["4"].reason
    assert found.keys() == {"3", "4", "31"}


def test_scontrol_is_read_by_its_first_mention():
    text = (
        "JobId=2 JobName=gr-x JobState=FAILED Reason=NonZeroExitCode ExitCode=7:0 "
        "Command=/x/JobState=COMPLETED\n"
    )
    found = parse_scontrol(text)["2"]
    assert (found.state, found.code, found.reason) == (JobState.FAILED, 7, "NonZeroExitCode")


@pytest.mark.parametrize(
    ("text", "code"), [("7:0", 7), ("0:9", 137), ("0:0", 0), ("", None), ("x", None)]
)
def test_an_exit_code_is_a_shells(text, code):
    assert parse_exit(text) == code


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs on PATH that say what a test wants; nothing else is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(**texts):
        for name, text in texts.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)

    return put


@pytest.fixture
def record(tmp_path):
    """A submission whose folder this machine sees."""
    found = SubmissionRecord(
        handle="slurm:5",
        run_id="0123456789ab",
        name="gr-out",
        output=str(tmp_path / "out.zarr"),
        directory=str(tmp_path),
        arguments=["in.png", "out.zarr"],
        settings={},
        code=None,
        submitted=0.0,
    )
    (tmp_path / "out.zarr" / ".gigarestore" / "submissions" / found.run_id).mkdir(parents=True)
    return found


FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
FIVE = Handle("slurm", "5")


def leave_code(record, code, attempt=0):
    folder = record.folder / f"5.{attempt}"
    folder.mkdir()
    (folder / "exit").write_text(str(code))


def test_a_forgotten_job_is_told_by_its_own_files_without_accounting(programs, record):
    programs(
        squeue=FORGOTTEN,
        sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1",
        scontrol=FORGOTTEN,
    )
    assert SlurmBackend().state(FIVE, record).state is JobState.UNKNOWN
    leave_code(record, 75, attempt=9)
    leave_code(record, 3, attempt=10)
    found = SlurmBackend().state(FIVE, record)
    assert (found.state, found.code, found.exit_code) == (JobState.FAILED, 3, 3)


def test_a_stopped_driver_is_interrupted_or_was_cancelled(programs, record):
    programs(squeue="echo '5|FAILED|NonZeroExitCode'", sacct="exit 1", scontrol="exit 1")
    leave_code(record, 75)
    assert SlurmBackend().state(FIVE, record).state is JobState.INTERRUPTED
    (record.folder / "cancel").touch()
    found = SlurmBackend().state(FIVE, record)
    assert (found.state, found.exit_code) == (JobState.CANCELLED, 75)


def test_the_exit_code_is_asked_for_where_no_file_tells_it(programs):
    programs(
        squeue="echo '5|FAILED|NonZeroExitCode'",
        sacct="exit 1",
        scontrol="echo JobId=5 JobState=FAILED ExitCode=9:0",
    )
    assert SlurmBackend().state(FIVE, None).exit_code == 9


@pytest.mark.parametrize(
    "silence", ["Socket timed out on send/recv operation", "Unable to contact slurm controller"]
)
def test_a_silent_controller_is_unreachable_not_failed(programs, record, silence):
    programs(squeue=f"echo 'slurm_load_jobs error: {silence}' >&2; exit 1")
    with pytest.raises(Unreachable, match="cannot reach"):
        SlurmBackend().state(FIVE, record)


def test_no_slurm_here_is_said_and_exit_code_69(programs, cli, small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    programs()
    for words in (
        ["submit", small, "out.zarr", "--scale", 4, "--backend", "slurm"],
        ["wait", "slurm:5", "--timeout", 0],
    ):
        ended = cli(*words)
        assert ended.code == 69
        assert re.search(r"there is no s\w+ on this machine", ended.err)


def test_an_answer_that_names_no_job_says_where_to_look(
    programs, cli, small, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    programs(sbatch="echo welcome to the cluster")
    ended = cli("submit", small, "out.zarr", "--scale", 4, "--backend", "slurm")
    assert ended.code == 69
    assert "look with squeue --me" in ended.err
    assert not ended.out


def test_a_federations_answer_is_read_and_remembered(programs, cli, small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    programs(sbatch="echo '123;east'", squeue="echo '123|PENDING|Priority'")
    ended = cli("submit", small, "out.zarr", "--scale", 4, "--backend", "slurm")
    assert (ended.code, ended.out) == (0, "slurm:123\n")
    assert cli("status", "slurm:123").out == "slurm:123: pending (Priority)\n"
    listed = json.loads(cli("list", "--json").out)
    assert [(run["handle"], run["state"], run["output"]) for run in listed] == [
        ("slurm:123", "pending", str(tmp_path / "out.zarr"))
    ]
    assert cli("status", "out.zarr").out == "slurm:123: pending (Priority)\n"
    for target in ("slurm:123", "out.zarr"):
        assert cli("resume", target).complaint.startswith("slurm:123 is still pending")
    assert "without options" in cli("resume", "slurm:123", "--workers", 2).complaint
    programs(sbatch="echo 124", squeue="echo '123|CANCELLED|None'; echo '124|PENDING|None'")
    assert cli("resume", "out.zarr").out == "slurm:124\n"
    assert cli("status", "out.zarr", "--json").out.startswith('{"handle": "slurm:124", ')


def test_a_refusal_is_bad_input_in_the_schedulers_words(
    programs, cli, small, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    programs(sbatch="echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1")
    for more in ([], ["--check"]):
        ended = cli("submit", small, "out.zarr", "--scale", 4, "--backend", "slurm", *more)
        assert ended.code == 2
        assert "invalid partition specified: nowhere" in ended.complaint


def test_unknown_is_not_failed(programs, record):
    programs(squeue="echo '5|A_STATE_OF_TOMORROW|None'", sacct="exit 1", scontrol="exit 1")
    assert not SlurmBackend().state(FIVE, record).state.ended


def test_the_log_of_a_run_that_is_not_seen_from_here_is_said_to_be(programs):
    programs()
    with pytest.raises(PlanError, match="lies beside its OUT"):
        list(SlurmBackend().logs(FIVE, None, follow=False))


def test_waiting_ends_when_patience_does(programs, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    programs(squeue="echo '5|RUNNING|None'")
    ended = cli("wait", "slurm:5", "--timeout", 0)
    assert ended.code == 124
    assert "it goes on" in ended.complaint


def test_ctrl_c_detaches_and_leaves_the_run_alone(tmp_path, eventually):
    asked = tmp_path / "asked"
    cancelled = tmp_path / "cancelled"
    for name, text in {
        "squeue": f"echo > {asked}; echo '5|RUNNING|None'",
        "scancel": f"echo > {cancelled}",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "wait", "slurm:5"],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert eventually(asked.exists, seconds=60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "detached, the run goes on; look with: gigarestore status slurm:5" in err
    assert not cancelled.exists()


def test_cancelling_what_waits_removes_it_at_once(programs, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    programs(squeue="echo '5|PENDING|Priority'", scancel=f"echo $1 > {tmp_path}/cancelled")
    assert "slurm:5 is cancelled" in cli("cancel", "slurm:5").err
    assert (tmp_path / "cancelled").read_text() == "5\n"
    programs(squeue="echo '5|COMPLETED|None'", scancel="exit 1")
    assert "has already ended: succeeded" in cli("cancel", "slurm:5").err
