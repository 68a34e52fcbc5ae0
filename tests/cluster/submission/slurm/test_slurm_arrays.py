"""Arrays of hundreds of tasks: SLURM is asked once for all of them, and not again for those that
have ended.
"""

import pytest

from cluster.submission.handles import Handle, JobState, SubmissionRecord
from cluster.submission.settings import SubmissionSettings
from cluster.submission.slurm.slurm_client import SlurmBackend
from cluster.submission.slurm.state import parse_scontrol, parse_squeue
from tests.slurm_daemons import calls

# Of a real SLURM 22.05: the array 1-4%2, of which the second task was queued again and the third
# failed. The last task's number is the array's.
SQUEUE = """\
1_2|COMPLETED|None
1_4|COMPLETED|None
1_1|COMPLETED|None
1_3|FAILED|NonZeroExitCode
"""
SCONTROL = """\
JobId=1 ArrayJobId=1 ArrayTaskId=4 ArrayTaskThrottle=2 JobName=sbatch \
JobState=COMPLETED Reason=None Restarts=0 ExitCode=0:0
JobId=4 ArrayJobId=1 ArrayTaskId=3 ArrayTaskThrottle=2 JobName=sbatch \
JobState=FAILED Reason=NonZeroExitCode Restarts=0 \
ExitCode=7:0
JobId=3 ArrayJobId=1 ArrayTaskId=2 ArrayTaskThrottle=2 JobName=sbatch \
JobState=PENDING Reason=BeginTime Restarts=1 \
ExitCode=0:0
JobId=2 ArrayJobId=1 ArrayTaskId=1 ArrayTaskThrottle=2 JobName=sbatch \
JobState=COMPLETED Reason=None Restarts=0 ExitCode=0:0
"""
WAITING = """\
JobId=1 ArrayJobId=1 ArrayTaskId=1-4%2 ArrayTaskThrottle=2 JobName=sbatch \
JobState=PENDING Reason=None ExitCode=0:0
"""
TASKS = 300
DYING = 7
AGAIN = 9


def test_every_task_is_found_under_its_own_name():
    assert {task: found.state for task, found in parse_squeue(SQUEUE).items()} == {
        "1_1": JobState.SUCCEEDED,
        "1_2": JobState.SUCCEEDED,
        "1_3": JobState.FAILED,
        "1_4": JobState.SUCCEEDED,
    }
    found = parse_scontrol(SCONTROL)
    assert {task: (one.state, one.code) for task, one in found.items()} == {
        "1_1": (JobState.SUCCEEDED, 0),
        "1_2": (JobState.PENDING, 0),
        "1_3": (JobState.FAILED, 7),
        "1_4": (JobState.SUCCEEDED, 0),
    }
    assert not {"1", "1_1"} & parse_scontrol(WAITING).keys(), "tasks that wait together are no task"


def array(tmp_path, tasks):
    """Return what is remembered of an array whose folder is not seen from here."""
    settings = {"submit": {"backend": "slurm"}, "slurm": {"shares": tasks}}
    return SubmissionRecord(
        handle="slurm:1",
        run_id="0123456789ab",
        name="gr-out",
        output=str(tmp_path / "elsewhere"),
        directory=str(tmp_path),
        arguments=["batch", "*.png", "out"],
        settings=SubmissionSettings.model_validate(settings).model_dump(mode="json"),
        code=None,
        submitted=0.0,
    )


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs on PATH that note their calls and say what a test wants; nothing else
    is there.
    """
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.txt").write_text(text)
            say = f'while read -r line; do echo "$line"; done < {tmp_path}/{name}.txt'
            (tmp_path / name).write_text(
                f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/calls\n{say}\n'
            )
            (tmp_path / name).chmod(0o755)

    return put


def asked(tmp_path):
    return [line.partition(" ")[0] for line in calls(tmp_path)]


def rows(last):
    """Return what sacct says: one task was queued again, so that its dead attempt stands before its
    last one.
    """
    ended = [
        f"1_{task}|{'FAILED|2:0' if task == DYING else 'COMPLETED|0:0'}|None"
        for task in range(1, TASKS + 1)
    ]
    ended[AGAIN - 1] = f"1_{AGAIN}|REQUEUED|0:0|None"
    return "\n".join([*ended, *last]) + "\n"


def test_tasks_that_the_queue_has_forgotten_are_asked_for_together_and_once(programs, tmp_path):
    backend = SlurmBackend()
    record = array(tmp_path, TASKS)
    handle = Handle("slurm", "1")
    programs(squeue=f"1_{AGAIN}|RUNNING|None\n", sacct=rows([]), scontrol="")
    found = backend.state(handle, record)
    assert (found.state, found.reason) == (
        JobState.RUNNING,
        f"{TASKS - 1} of {TASKS} shares have ended",
    )
    assert asked(tmp_path) == ["squeue", "sacct"]
    assert backend.state(handle, record) == found
    assert asked(tmp_path) == ["squeue"], "nothing that has ended is asked for again"
    programs(squeue="", sacct=rows([f"1_{AGAIN}|COMPLETED|0:0|None"]))
    found = backend.state(handle, record)
    assert (found.state, found.exit_code, found.reason) == (
        JobState.FAILED,
        2,
        f"1 of {TASKS} shares",
    )
    assert asked(tmp_path) == ["squeue", "sacct"]
    assert backend.state(handle, record) == found
    assert asked(tmp_path) == ["squeue"]


def test_what_is_known_of_an_end_holds_until_the_task_is_queued_again(programs, tmp_path):
    backend = SlurmBackend()
    record = array(tmp_path, 4)
    handle = Handle("slurm", "1")
    programs(squeue=SQUEUE, sacct="", scontrol=SCONTROL)
    found = backend.state(handle, record)
    assert (found.state, found.exit_code) == (JobState.FAILED, 7)
    assert asked(tmp_path) == ["squeue", "scontrol"], "for the exit code, which no file tells here"
    programs(squeue=SQUEUE.replace("1_3|FAILED|NonZeroExitCode", "1_3|PENDING|BeginTime"))
    assert backend.state(handle, record).state is JobState.PENDING
    programs(squeue=SQUEUE.replace("1_3|FAILED|NonZeroExitCode", "1_3|COMPLETED|None"))
    assert backend.state(handle, record).state is JobState.SUCCEEDED
    assert asked(tmp_path) == ["squeue", "squeue"]


def test_an_end_that_the_queue_tells_otherwise_than_before_is_looked_at_again(programs, tmp_path):
    """Queued again and done between two looks."""
    backend = SlurmBackend()
    record = array(tmp_path, 4)
    handle = Handle("slurm", "1")
    programs(squeue=SQUEUE, sacct="", scontrol=SCONTROL)
    assert backend.state(handle, record).state is JobState.FAILED
    programs(squeue=SQUEUE.replace("1_3|FAILED|NonZeroExitCode", "1_3|COMPLETED|None"))
    assert backend.state(handle, record).state is JobState.SUCCEEDED


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED"])
def test_a_task_that_may_yet_be_queued_again_is_asked_for_again(programs, tmp_path, state):
    backend = SlurmBackend()
    record = array(tmp_path, 2)
    handle = Handle("slurm", "1")
    programs(squeue="1_1|RUNNING|None\n", sacct=f"1_2|{state}|0:0|None\n", scontrol="")
    assert backend.state(handle, record).reason == "1 of 2 shares have ended"
    programs(squeue="1_1|RUNNING|None\n", sacct=f"1_2|{state}|0:0|None\n1_2|COMPLETED|0:0|None\n")
    backend.state(handle, record)
    programs(squeue="1_1|COMPLETED|None\n")
    assert backend.state(handle, record).state is JobState.SUCCEEDED
    assert asked(tmp_path).count("sacct") == 2, "it is known now"
