"""The sbatch script: golden text, and whatever is in names, paths and variables reaches bash as it
is.
"""

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.on_node.processes import MARK, PREFIX, Pulse, sweep, write_private
from cluster.on_node.slurm_launcher import Launcher
from cluster.submission.settings import SubmissionSettings, load
from cluster.submission.slurm.script import escape, options, render
from cluster.submission.submission import Submission
from orchestrator.errors import PlanError
from storage.run_store.journal import Journal
from tests.places import ROOT

GOLDEN = """\
#!/bin/bash
#SBATCH --job-name=gr-out
#SBATCH --nodes=2-4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=65536M
#SBATCH --time=1440
#SBATCH --output=/data/out.zarr/.gigarestore/submissions/0123456789ab/%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --partition=gpu
#SBATCH --signal=B:USR1@180
#SBATCH --gpus-per-node=2
#SBATCH --no-kill
#SBATCH --mail-type=END
"""


def submission(
    output="/data/out.zarr",
    arguments=("in.tif", "/data/out.zarr", "--scale", "4"),
    code=None,
    **sections,
):
    return Submission(
        run_id="0123456789ab",
        arguments=arguments,
        output=output,
        directory="/home/me",
        settings=SubmissionSettings.model_validate(sections),
        code=code,
    )


def test_the_header_is_what_was_asked_for():
    common = {"nodes": 4, "min_nodes": 2, "cpus": 8, "gpus": 2, "memory": "64G"}
    script = render(
        submission(submit=common, slurm={"partition": "gpu", "options": ["--mail-type=END"]})
    )
    assert script.startswith(GOLDEN)
    assert "#SBATCH" not in script.removeprefix(GOLDEN)


def test_the_body_traps_waits_and_requeues(tmp_path):
    script = render(
        submission(
            code="/opt/code", submit={"python": "/venv/bin/python", "setup": ["module load x"]}
        )
    )
    path = tmp_path / "job.sh"
    path.write_text(script)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    lines = script.splitlines()
    assert (
        lines.index("export PYTHONPATH=/opt/code")
        < lines.index("module load x")
        < lines.index("before=$(committed)")
    )
    assert 'python -u -m cluster.on_node.slurm_launcher --folder "$attempt"' in script
    assert script.count("scontrol requeue") == 1


@pytest.mark.parametrize(
    ("policy", "said"), [("continue", ["#SBATCH --no-kill", " --no-kill \\"]), ("requeue", [])]
)
def test_a_lost_node_ends_the_job_only_when_asked_to(policy, said):
    script = render(submission(submit={"on_node_fail": policy}))
    assert script.count("--no-kill") == len(said)
    assert all(text in script for text in said)


@pytest.mark.parametrize(
    ("limit", "grace", "signal"),
    [
        ("24:00:00", 180, "B:USR1@180"),
        ("24:00:00", 600, "B:USR1@600"),
        ("60", 10, "B:USR1@120"),
        ("4", 180, "B:USR1@60"),
    ],
)
def test_the_warning_comes_early_enough_and_to_the_shell_alone(limit, grace, signal):
    assert f"--signal={signal}" in options(submission(submit={"time": limit, "grace": grace}))


BACKSLASH = "\\"
HOSTILE = "a b'c\"d$(touch pwned)`touch pwned`;#%j\\x&|<>*?[y]{z}~!é漢"


def test_no_text_of_a_user_leaves_its_sbatch_line():
    script = render(
        submission(
            output=f"/data/{HOSTILE.replace(BACKSLASH, '')}",
            submit={"name": f"{HOSTILE}"},
            slurm={"account": HOSTILE, "constraint": "a&b|c", "options": [f"--comment={HOSTILE}"]},
        )
    )
    header = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    plain = r"[A-Za-z0-9_./:,=+@%\[\]-]*"
    quoted = r'"(\\.|[^"\\])*"'
    assert all(
        re.fullmatch(rf"#SBATCH --[a-z-]+(=({plain}|{quoted}))?", line) for line in header
    ), header
    assert "#SBATCH --job-name=gr-a-b-c-d-touch-pwned-touch-pwned\n" in script


def test_a_backslash_in_the_output_is_refused_since_slurm_would_drop_it():
    with pytest.raises(PlanError, match="has a backslash"):
        render(submission(output="/data/a\\b.zarr"))


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x00b", "a\x1bb", "a\u2028b"])
@pytest.mark.parametrize(
    "place", [("submit", "name"), ("slurm", "account"), ("slurm", "options"), ("submit", "setup")]
)
def test_a_line_break_is_refused_wherever_it_comes_from(text, place):
    section, key = place
    value = [f"--x={text}"] if key in ("options", "setup") else text
    with pytest.raises(PlanError, match=f"{section}.{key}"):
        load({f"{section}.{key}": value}, Path("/nowhere"), {"HOME": "/nowhere"})


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30).filter(str.isprintable))
def test_an_escaped_value_is_one_word_that_reads_back(text):
    """sbatch reads what is in double quotes as a shell would."""
    found = shlex.split(f"--account={escape(text)}", comments=True)
    assert found == [f"--account={text}"]


NOT_IN_ARGUMENTS = "\x00"  # no system passes it on


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters=NOT_IN_ARGUMENTS),
            max_size=12,
        ),
        max_size=4,
    ),
    st.text(max_size=12).filter(str.isprintable),
)
def test_bash_hands_every_word_and_variable_on_as_it_is(tmp_path_factory, words, value):
    """The real script, with an `srun` that writes down what it was given."""
    folder = tmp_path_factory.mktemp("job")
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\nprintf "%s\\0" "$ODD" "$@" > "$WRITTEN"\nexit 7\n')
    srun.chmod(0o755)
    output = str(folder / "o u't$(x).zarr")
    script = folder / "job.sh"
    script.write_text(
        render(
            submission(
                output=output, arguments=("in.png", *words), submit={"env": [f"ODD={value}"]}
            )
        ),
        encoding="utf-8",
    )
    env = {"PATH": f"{srun.parent}:{os.environ['PATH']}", "WRITTEN": str(folder / "written")}
    env |= {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(
        ["bash", script],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    odd, *given_words = (folder / "written").read_bytes().decode().split("\0")[:-1]
    assert odd == value
    assert given_words[given_words.index("--output") + 1] == output
    after = given_words[given_words.index("cluster.on_node.driver") :]
    assert after[after.index("--") + 1 :] == ["in.png", *words]
    assert sorted(path.name for path in folder.iterdir()) == [
        "bin",
        "job.sh",
        "o u't$(x).zarr",
        "written",
    ]


def run_script(
    folder,
    *,
    cap=3,
    restarts=0,
    progress="T 0 0 0",
    part="",
    cancelled=False,
    scontrol=True,
):
    """Run the real script with programs that say what they were asked; its driver is stopped after
    it has committed a tile of a part of the run. Return (code, output).
    """
    programs = folder / "bin"
    programs.mkdir()
    output = folder / "out.zarr"
    journal = output / ".gigarestore" / part / "journal"
    journal.parent.mkdir(parents=True)
    with Journal.create(folder / "committed", {}) as committed:
        committed.append([progress] if progress else [])
    copy = f"{shutil.which('cp')} {folder / 'committed'} {journal}; "
    cancel = f"touch {output}/.gigarestore/submissions/0123456789ab/cancel; " if cancelled else ""
    texts = {
        "srun": f"{copy}{cancel}exit 75",
        "scontrol": 'echo "scontrol $*"',
        "sleep": "exit 0",
    }
    for name, text in texts.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    for name in ("mkdir", "grep", "cat", "touch"):
        os.symlink(shutil.which(name), programs / name)
    if not scontrol:
        (programs / "scontrol").unlink()
    script = folder / "job.sh"
    script.write_text(render(submission(output=str(output), submit={"restarts": cap})))
    env = {
        "PATH": str(programs),
        "SLURM_JOB_ID": "5",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = subprocess.run(
        [shutil.which("bash"), script],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_stopped_attempt_is_queued_again(tmp_path):
    code, said = run_script(tmp_path)
    assert "scontrol requeue 5" in said
    assert code == 75


@pytest.mark.parametrize(
    "committed",
    [{"progress": "F 0 0 0"}, {"part": "regions/0/.gigarestore"}],
    ids=["a tile that was filled", "a region's tile"],
)
def test_tiles_of_regions_and_filled_ones_are_progress_too(tmp_path, committed):
    _, said = run_script(tmp_path, **committed)
    assert "scontrol requeue 5" in said


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (
            {"cap": 2, "restarts": 2},
            "stopped after 2 restarts; go on with: gigarestore resume slurm:5",
        ),
        (
            {"cap": 2, "restarts": 3},
            "begun again 2 times already; go on with: gigarestore resume slurm:5",
        ),
        ({"progress": None}, "finished no tile"),
        ({"scontrol": False}, "no scontrol on this node; go on with: gigarestore resume slurm:5"),
        ({"cancelled": True}, "job 5"),
    ],
)
def test_a_stopped_attempt_is_the_last_when_more_would_be_in_vain(tmp_path, why, said):
    code, text = run_script(tmp_path, **why)
    assert code == 75
    assert said in text
    assert "scontrol requeue" not in text


def test_the_launcher_needs_nothing_but_the_standard_library():
    """Nodes start it before anything else; -S leaves out installed packages."""
    env = {"PYTHONPATH": str(ROOT), "SLURM_PROCID": "0"}
    command = [sys.executable, "-S", "-m", "cluster.on_node.slurm_launcher", "--folder", "x"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(
        "usage: python -m cluster.on_node.slurm_launcher --folder ATTEMPT --restarts N -- DRIVER"
    )


def test_a_private_file_is_its_owners_alone_and_appears_whole(tmp_path):
    path = tmp_path / "rendezvous.json"
    before = os.umask(0)
    try:
        for text in ("first", "second"):
            write_private(path, text)
            assert path.read_text() == text
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["rendezvous.json"]


def test_a_file_system_that_refuses_beats_ends_no_attempt(tmp_path, monkeypatch):
    """The attempt's folder is gone, as behind a stale mount; the driver's code is told all the
    same.
    """
    monkeypatch.setenv(MARK, "")
    for module in ("processes", "slurm_launcher"):
        monkeypatch.setattr(f"cluster.on_node.{module}.short_temporary", lambda: str(tmp_path))
    launcher = Launcher(tmp_path / "gone", [], 0, 0)
    python = [sys.executable, "-c"]
    with subprocess.Popen([*python, "input()"], stdin=subprocess.PIPE) as ray:
        assert launcher._drive(subprocess.Popen([*python, "raise SystemExit(3)"]), ray) == 3
    assert not launcher._write("exit", "3")
    (tmp_path / "gone").mkdir()
    assert launcher._write("exit", "3")
    assert (tmp_path / "gone" / "exit").read_text() == "3"
    launcher._lock.close()


def test_a_driver_that_does_not_end_is_killed_before_slurm_kills_all(tmp_path, monkeypatch):
    """Else nobody would be left to end Ray and to remove the temporary folder."""
    monkeypatch.setenv(MARK, "")
    for module in ("processes", "slurm_launcher"):
        monkeypatch.setattr(f"cluster.on_node.{module}.short_temporary", lambda: str(tmp_path))
    monkeypatch.setattr("cluster.on_node.slurm_launcher.LAST_SECONDS", 0.3)
    launcher = Launcher(tmp_path, [], 0, 0)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    deaf += "print('deaf', flush=True); input()"
    python = [sys.executable, "-c"]
    with (
        subprocess.Popen([*python, "input()"], stdin=subprocess.PIPE) as ray,
        subprocess.Popen([*python, deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver,
    ):
        assert driver.stdout.readline() == b"deaf\n"
        launcher.stopped = True
        assert launcher._drive(driver, ray) == 75
        assert driver.returncode == -signal.SIGKILL
    launcher._lock.close()


def test_the_folder_of_a_dead_launcher_is_swept_and_a_living_ones_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.on_node.processes.short_temporary", lambda: str(tmp_path))
    folders = [tmp_path / f"{PREFIX}{os.getuid()}-{name}" for name in ("dead", "living")]
    for folder in folders:
        folder.mkdir()
        (folder / "lock").touch()
    with (folders[1] / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep()
        assert [folder.exists() for folder in folders] == [False, True]


def test_silence_is_told_by_change_and_not_by_clocks(tmp_path):
    beat = tmp_path / "head"
    beat.write_text("1")
    os.utime(beat, (1, 1))
    pulse = Pulse(beat, 1000)
    assert not pulse.silent
    pulse._changed -= 2000  # as if so much time had passed
    assert pulse.silent
    beat.write_text("2")
    os.utime(beat, (1, 1))
    assert not pulse.silent
