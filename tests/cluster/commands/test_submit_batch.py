"""`gigarestore submit batch` without a cluster: what is handed in, what is refused, and what a
SLURM array's tasks make of it.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from cluster.batches.batch_manifest import read_entries
from cluster.batches.folder import BatchFolder
from cluster.on_node.driver import batch_line
from cluster.submission.handles import Handle, JobState, JobStatus
from cluster.submission.log_follower import follow_files
from cluster.submission.slurm.slurm_client import SlurmBackend, together
from storage.run_store.journal import Journal

OPTIONS = ["--scale", 4, "--tile", 32, "--workers", 3, "--open", 2, "--no-verify"]
SLURM = ["--backend", "slurm", "--shares", 2]


@pytest.fixture
def home(tmp_path, monkeypatch, make_picture, write_picture):
    """A user with three pictures in scans/, on a machine whose scheduler's programs are what
    `programs` puts there.
    """
    for name in [
        name for name in os.environ if name.startswith(("GIGARESTORE_", "XDG_", "RAY_", "SLURM_"))
    ]:
        monkeypatch.delenv(name)
    for folder in ("bin", "scans"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        write_picture(tmp_path / "scans" / f"{name}.png", make_picture(14, 16))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def programs(home):
    def put(**texts):
        for name, text in texts.items():
            (home / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (home / "bin" / name).chmod(0o755)

    return put


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def submitted(home):
    (folder,) = (home / "out" / ".gigarestore" / "submissions").iterdir()
    return folder


def test_the_images_of_an_array_are_those_that_were_there_when_it_was_submitted(
    home, programs, cli
):
    programs(sbatch="echo 12")
    ended = cli("submit", "batch", "scans/*.png", "out", *OPTIONS, *SLURM, "--name", "many")
    assert (ended.code, ended.out) == (0, "slurm:12\n")
    script = (submitted(home) / "job.sh").read_text()
    manifest = f"{submitted(home)}/manifest.jsonl"
    assert "#SBATCH --array=1-2\n" in script
    assert f"#SBATCH --output={submitted(home)}/%A_%a.log\n" in script
    assert f"--array -- batch {manifest} {home}/out --open 2 --no-verify --workers 3 &\n" in script
    entries = read_entries([manifest], {})
    assert [entry.given["path"] for entry in entries] == [
        f"{home}/scans/{name}.png" for name in "abc"
    ]
    assert {(entry.given["scale"], entry.given["tile"]) for entry in entries} == {(4, 32)}


def test_one_job_for_all_images_needs_no_array(home, programs, cli):
    programs(sbatch="echo 12")
    assert (
        cli("submit", "batch", "scans/*.png", "out", "--scale", 4, "--backend", "slurm").code == 0
    )
    script = (submitted(home) / "job.sh").read_text()
    assert "--array" not in script
    assert f"#SBATCH --output={submitted(home)}/%j.log\n" in script
    assert f"-- batch {submitted(home)}/manifest.jsonl {home}/out --open 4 --verify &\n" in script


def test_a_dry_run_touches_nothing_and_is_a_script(home, cli):
    before = files(home)
    ended = cli(
        "submit",
        "batch",
        "scans/*.png",
        "out",
        *OPTIONS,
        *SLURM,
        "--sbatch-option=--array=1-2%1",
        "--dry-run",
    )
    assert ended.out.index("--array=1-2\n") < ended.out.index(
        "--array=1-2%1\n"
    )  # the last one counts
    assert (ended.code, ended.err, files(home)) == (0, "", before)
    assert (
        subprocess.run(["/bin/bash", "-n"], input=ended.out, text=True, check=False).returncode == 0
    )


@pytest.mark.slow
def test_on_ray_and_kuberay_one_driver_has_all_images(home, cli):
    words = ["submit", "batch", "scans/*.png", "out", "--scale", 4, "--dry-run", "--backend"]
    entrypoint = json.loads(cli(*words, "ray").out)["entrypoint"]
    assert entrypoint.endswith(f" -- batch 'scans/*.png' {home}/out --scale 4")
    assert "--array" not in entrypoint
    words = [
        "submit",
        "batch",
        "/data/*.png",
        "/data/out",
        "--scale",
        4,
        "--dry-run",
        "--backend",
        "kuberay",
    ]
    document = yaml.safe_load(cli(*words, "--image", "i", "--claim", "scans:/data").out)
    head = document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (arguments,) = (
        json.loads(entry["value"]) for entry in head["env"] if entry["name"] == "GIGARESTORE_DRIVER"
    )
    assert arguments[arguments.index("--") + 1 :] == [
        "batch",
        "/data/*.png",
        "/data/out",
        "--scale",
        "4",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing/*.png", "out"], "no such image"),
        (["scans", "out"], "no image but a folder"),
        (["scans/*.png", "out", "--scale", 1000], "task.scale = 1000"),
        (["scans/*.png", "out", "--overwrite"], "remove OUTDIR first"),
        (["scans/*.png", "out", "--share", "1/2"], "give --shares N"),
        (["scans/*.png", "out", "--array"], "give --shares N"),
        (["scans/*.png", "out", "--executor", "serial"], "uses the cluster's own Ray"),
        (["scans/*.png", "out", "--shares", 4], "--shares 4 are more than 3 images"),
        (["scans/*.png", "out", "--shares", 2, "--backend", "ray"], "--shares is for slurm"),
        (
            ["scans/*.png", "out", "--shares", 3, "--sbatch-option=--array=1-2%1"],
            "an array is --shares N of a batch",
        ),
        (
            ["scans/*.png", "out", "--sbatch-option=--array=1-2"],
            "an array is --shares N of a batch",
        ),
        (["scans/*.png", "out", "--shares", 0], "slurm.shares = 0 (flag)"),
        (["scans/*.png", "scans/a.png"], "is a file"),
        (["scans/*.png", "one"], "is the output of one image"),
        (["scans/a.png", "begun"], "is a batch of other images"),
        (["scans/*.png"], "Missing argument"),
        (
            ["/data/*.png", "/out", "--backend", "kuberay", "--claim", "scans:/data"],
            "OUT /out is on no volume",
        ),
        (
            ["/in/*.png", "/data/out", "--backend", "kuberay", "--claim", "scans:/data"],
            "IN /in/*.png is on no volume",
        ),
        (
            ["/data/*.png", "/data/o", "--backend", "kuberay", "--copy-to", "s3://b/o"],
            "--copy-to is for one image",
        ),
    ],
)
def test_what_batch_would_refuse_is_refused_before_it_is_submitted(home, cli, words, said):
    for file in ("one/.gigarestore/job.toml", "begun/.gigarestore/manifest.jsonl"):
        (home / file).parent.mkdir(parents=True)
        (home / file).write_text('{"input": "/elsewhere/z.png", "output": "z.zarr"}\n')
    before = files(home)
    backend = [] if "--backend" in words else ["--backend", "slurm"]
    scale = [] if "--scale" in words else ["--scale", 4]
    ended = cli("submit", "batch", *words, *scale, *backend)
    assert ended.code == 2
    assert said in ended.complaint
    assert files(home) == before


def test_shares_of_one_image_are_refused(home, cli):
    ended = cli("submit", "scans/a.png", "out.zarr", "--scale", 4, *SLURM)
    assert "--shares is for a batch" in ended.complaint


def test_a_later_attempt_takes_over_from_the_one_before(tmp_path, monkeypatch):
    words = ["batch", "m.jsonl", "out", "--open", "2"]
    here = ["--executor", "ray"]
    assert batch_line(tmp_path, tmp_path, words, array=False) == [*words, *here]
    assert batch_line(tmp_path, tmp_path, words, array=False) == [*words, *here, "--take-over"]
    for name, value in {"ID": "1", "COUNT": "2", "MIN": "1", "MAX": "2"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    share = tmp_path / "share-1"
    share.mkdir()
    assert batch_line(tmp_path, share, words, array=True) == [*words, *here, "--array"]
    assert batch_line(tmp_path, share, words, array=True) == [
        *words,
        *here,
        "--array",
        "--take-over",
    ]


@pytest.mark.parametrize(("share", "requeued"), [(2, True), (1, False)])
@pytest.mark.slow
def test_a_task_is_queued_again_by_its_own_name_and_for_tiles_of_its_own_share(
    home, programs, cli, share, requeued
):
    """The real script as task 2 of an array; the driver is stopped after a tile of an image of
    `share`.
    """
    programs(sbatch="echo 12")
    assert (
        cli(
            "submit", "batch", "scans/*.png", "out", *OPTIONS, *SLURM, "--python", sys.executable
        ).code
        == 0
    )
    folder = BatchFolder(home / "out")
    folder.keep(read_entries([str(submitted(home) / "manifest.jsonl")], {}), {})
    journal = folder.runs((share, 2))[0].journal
    journal.parent.mkdir(parents=True)
    with Journal.create(home / "journal", {}) as written:
        written.append(["T 0 0 0"])
    programs(srun=f"cp journal {journal}; exit 75", scontrol='echo "scontrol $*"', sleep="exit 0")
    for name in ("mkdir", "cp"):
        os.symlink(shutil.which(name, path=os.defpath), home / "bin" / name)
    env = {
        "PATH": str(home / "bin"),
        "SLURM_JOB_ID": "12",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_JOB_NODELIST": "n1",
    }
    env |= {
        f"SLURM_ARRAY_TASK_{n}": v
        for n, v in {"ID": "2", "COUNT": "2", "MIN": "1", "MAX": "2"}.items()
    }
    done = subprocess.run(
        ["/bin/bash", submitted(home) / "job.sh"],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 75, said
    assert ("scontrol requeue 12_2\n" in said) == requeued, said
    assert ("finished no tile" in said) != requeued
    assert (submitted(home) / "12_2.0").is_dir()


DONE = JobStatus(JobState.SUCCEEDED, 0)
FAILED = JobStatus(JobState.FAILED, 1)
STOPPED = JobStatus(JobState.INTERRUPTED, 75)
REFUSED = JobStatus(JobState.FAILED, 2)
WAITING = JobStatus(JobState.PENDING, None, "Priority")


@pytest.mark.parametrize(
    ("tasks", "state", "exit_code", "reason"),
    [
        ([DONE, DONE], JobState.SUCCEEDED, 0, ""),
        ([DONE, FAILED], JobState.FAILED, 1, "1 of 2 shares"),
        ([REFUSED, REFUSED], JobState.FAILED, 2, "2 of 2 shares"),
        ([REFUSED, FAILED], JobState.FAILED, 1, "2 of 2 shares"),
        ([DONE, STOPPED, STOPPED], JobState.INTERRUPTED, 75, "2 of 3 shares"),
        ([JobStatus(JobState.TIMEOUT), STOPPED], JobState.INTERRUPTED, 75, "2 of 2 shares"),
        ([STOPPED, FAILED], JobState.FAILED, 1, "2 of 2 shares"),
        (
            [FAILED, JobStatus(JobState.RUNNING), WAITING],
            JobState.RUNNING,
            None,
            "1 of 3 shares have ended",
        ),
        ([DONE, WAITING], JobState.PENDING, None, "1 of 2 shares have ended, Priority"),
        ([FAILED, JobStatus(JobState.UNKNOWN)], JobState.UNKNOWN, None, "1 of 2 shares have ended"),
    ],
)
def test_an_array_has_ended_with_its_last_task_and_says_what_is_wrong(
    tasks, state, exit_code, reason
):
    found = together(tasks)
    assert (found.state, found.reason) == (state, reason)
    assert exit_code is None or found.exit_code == exit_code
    assert state.ended == (exit_code is not None)


QUEUE = "echo '12_1|{}|None'; echo '12_2|{}|Priority'"


@pytest.mark.slow
def test_an_array_is_one_run_and_each_of_its_tasks_too(home, programs, cli):
    programs(sbatch="echo 12", squeue=QUEUE.format("RUNNING", "PENDING"))
    assert cli("submit", "batch", "scans/*.png", "out", *OPTIONS, *SLURM).out == "slurm:12\n"
    assert cli("status", "out").out == "slurm:12: running (0 of 2 shares have ended)\n"
    assert cli("status", "slurm:12_2").out == "slurm:12_2: pending (Priority)\n"
    for task in (1, 2):
        (submitted(home) / f"12_{task}.log").write_text(f"of task {task}\n")
    assert cli("logs", "out").out == "==> 12_1.log <==\nof task 1\n==> 12_2.log <==\nof task 2\n"
    assert cli("logs", "slurm:12_2").out == "of task 2\n"
    programs(squeue="exit 1", sacct="exit 1", scontrol="exit 1")
    assert cli("status", "out").out.startswith("slurm:12: unknown (0 of 2 shares have ended")
    for task, code in ((1, 0), (2, 1)):
        (submitted(home) / f"share-{task}").mkdir()
        (submitted(home) / f"share-{task}" / "exit.json").write_text(json.dumps({"code": code}))
    assert cli("status", "out").out == "slurm:12: failed (1 of 2 shares)\n"
    assert cli("wait", "out").code == 1
    programs(sbatch="echo 13")
    assert cli("resume", "out").out == "slurm:13\n"


def test_one_task_of_an_array_can_be_cancelled(home, programs, cli):
    programs(
        sbatch="echo 12",
        squeue=QUEUE.format("PENDING", "PENDING"),
        scancel="echo $1 >> $HOME/cancelled",
    )
    assert cli("submit", "batch", "scans/*.png", "out", *OPTIONS, *SLURM).code == 0
    assert cli("cancel", "slurm:12_2").code == 0
    assert (submitted(home) / "share-2" / "cancel").exists()
    assert not (submitted(home) / "cancel").exists()
    assert cli("cancel", "out").code == 0
    assert (submitted(home) / "cancel").exists()
    assert (home / "cancelled").read_text() == "12_2\n12\n"
    programs(squeue=QUEUE.format("FAILED", "COMPLETED"))
    (submitted(home) / "12_1.0").mkdir()
    (submitted(home) / "12_1.0" / "exit").write_text("75")
    assert SlurmBackend().state(Handle("slurm", "12_1"), None).state is JobState.FAILED
    assert cli("status", "out").out == "slurm:12: cancelled (1 of 2 shares)\n"


@pytest.mark.slow
def test_several_logs_are_followed_each_piece_under_its_files_name(tmp_path):
    """The second file appears while the first is followed; the end is seen after that."""
    first = tmp_path / "1.log"
    second = tmp_path / "2.log"
    first.write_text("a")
    follower = follow_files([first, second], lambda: second.exists())
    said = [next(follower), next(follower)]
    second.write_text("b")
    with first.open("a") as file:
        file.write("c")
    said += follower
    assert "".join(said) == "==> 1.log <==\nac==> 2.log <==\nb"
