"""`gigarestore submit` without a cluster: what it prints, what it refuses, what it remembers, and
what it never touches.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.commands.submit import make_submission
from cluster.on_node.driver import command_line
from cluster.submission.handles import (
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    SubmissionRegistry,
)
from cluster.submission.settings import load
from cluster.submission.submission import new_run_id
from orchestrator.run_folder import RunDir
from tests.places import ROOT


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without settings, in a folder of their own, on a machine without any scheduler's
    programs.
    """
    for name in [name for name in os.environ if name.startswith(("GIGARESTORE_", "XDG_", "RAY_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("backend", ["slurm", "ray"])
def test_a_dry_run_prints_everything_and_touches_nothing(home, cli, small, backend):
    secret = "t0p-secret"
    (home / "token").write_text(secret)
    before = files(home)
    token = ["--token-file", "token"]
    ended = cli(
        "submit", small, "out.zarr", "--scale", 4, "--backend", backend, "--dry-run", *token
    )
    assert (ended.code, ended.err) == (0, "")
    assert files(home) == before
    assert "cluster.on_node.driver" in ended.out
    assert f"{home}/out.zarr" in ended.out
    assert secret not in ended.out
    if backend == "slurm":
        assert ended.out.startswith("#!/bin/bash\n#SBATCH ")
    else:
        assert json.loads(ended.out)["submission_id"].startswith("gr-out-")


@pytest.mark.slow
def test_a_dry_run_needs_neither_torch_nor_ray_nor_a_network(home, small):
    code = "import sys; from cluster.cli import _run; code = _run(sys.argv[1:]); "
    code += "heavy = ('torch', 'ray', 'zarr', 'aiohttp', 'requests');"
    code += "print(code, *(m for m in heavy if m in sys.modules), file=sys.stderr)"
    words = ["submit", str(small), "out.zarr", "--scale", "4", "--backend", "ray", "--dry-run"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr == "0\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out.zarr"], "no backend named"),
        (["out.zarr", "--backend", "pbs"], "submit.backend = 'pbs' (flag)"),
        (["out.zarr", "--backend", "slurm", "--sclae", "4"], "No such option: --sclae"),
        (["--backend", "slurm"], "no output named"),
        (["out.zarr", "--backend", "slurm", "--scale", "1000"], "task.scale = 1000"),
        (["out.zarr", "--backend", "slurm", "--executor", "serial"], "uses the cluster's own Ray"),
        (
            ["out.zarr", "--backend", "slurm", "--address", "10.0.0.1:6379"],
            "uses the cluster's own Ray",
        ),
        (["out.zarr", "--backend", "slurm", "--nodes", "0"], "submit.nodes = 0 (flag)"),
        (["out\n.zarr", "--backend", "slurm"], "line breaks"),
    ],
)
def test_what_restore_would_refuse_is_refused_before_it_is_submitted(home, cli, small, words, said):
    before = files(home)
    ended = cli("submit", small, *words)
    assert ended.code == 2
    assert said in ended.complaint
    assert files(home) == before


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("out.tif", [], "OUT is a folder (OME-Zarr); restore to"),
        ("done", [], "exists; choose another OUT, or --overwrite"),
        ("unfinished", [], "holds an unfinished run"),
        ("other", ["--overwrite"], "is not a gigarestore output"),
    ],
)
@pytest.mark.parametrize("backend", ["slurm", "ray"])
def test_an_output_that_restore_would_refuse_is_refused_before_it_is_submitted(
    home, cli, small, out, options, said, backend
):
    for name, file in (
        ("done", "zarr.json"),
        ("unfinished", ".gigarestore/job.toml"),
        ("other", "precious"),
    ):
        (home / name / file).parent.mkdir(parents=True)
        (home / name / file).touch()
    before = files(home)
    ended = cli("submit", small, out, "--scale", 4, "--backend", backend, *options)
    assert ended.code == 2
    assert said in ended.complaint
    assert files(home) == before
    assert (
        cli(
            "submit", small, "done", "--scale", 4, "--backend", backend, "--overwrite", "--dry-run"
        ).code
        == 0
    )


def test_the_driver_is_given_the_absolute_output_and_every_other_word_as_it_was(home):
    loaded = load({"submit.backend": "ray"}, home, {})
    generate = ["--task", "generate", "--size", "64x64"]
    for words in (
        ["out.zarr", *generate],
        [*generate, "./out.zarr/"],
        ["--seed", "3", *generate, "out.zarr"],
    ):
        given = make_submission(words, loaded).arguments
        assert [word for word in given if word not in words] == [f"{home}/out.zarr"]
        assert len(given) == len(words)


def test_what_is_shown_of_a_submission_holds_no_secret(home, cli):
    url = "https://user:hidden1@host/in.tif?sig=hidden2"
    kept = record(home / "out", "a" * 12, 1.0, "slurm:11")
    settings = {
        **kept.settings,
        "submit": {**kept.settings["submit"], "env": ["AWS_SECRET=hidden3"]},
    }
    SubmissionRegistry().keep(replace(kept, arguments=[url, "out"], settings=settings))
    for words in (["list", "--json"], ["status", "slurm:11", "--json"]):
        ended = cli(*words)
        assert "hidden" not in ended.out
        assert "https://...@host/in.tif?..." in ended.out
        assert "AWS_SECRET=..." in ended.out
    assert SubmissionRegistry().all()[0].arguments == [url, "out"]


def test_a_missing_picture_is_refused(home, cli):
    ended = cli("submit", "missing.png", "out.zarr", "--scale", 4, "--backend", "slurm")
    assert ended.code == 2
    assert "missing.png" in ended.complaint


def test_a_picture_that_only_the_cluster_sees_is_planned_there(home, cli):
    words = [
        "submit",
        "/data/on/the/cluster.png",
        "/data/out.zarr",
        "--scale",
        4,
        "--dry-run",
        "--backend",
    ]
    assert "/data/on/the/cluster.png" in cli(*words, "ray").out
    assert "no such file" in cli(*words, "slurm").complaint
    relative = cli(
        "submit", "typo.png", "/data/out.zarr", "--scale", 4, "--dry-run", "--backend", "ray"
    )
    assert "typo.png" in relative.complaint


@pytest.mark.parametrize("command", ["status", "logs", "cancel", "wait", "resume"])
def test_what_was_never_submitted_is_said_to_be_unknown(home, cli, command):
    ended = cli(command, "nothing.zarr")
    assert ended.code == 2
    assert "nothing.zarr" in ended.complaint


@pytest.mark.parametrize(
    "text",
    [
        "slurm:123",
        "slurm:123_4",
        "ray:gr-x-0123@http://127.0.0.1:8265",
        "ray:a@https://host/ray",
        "k8s:team/gr-out-1",
    ],
)
def test_a_handle_reads_back(text):
    assert str(Handle.parse(text)) == text
    assert str(Handle.parse(str(Path(text)))) == text  # as a command line's path type hands it on


@pytest.mark.parametrize(
    "text",
    ["out.zarr", "slurm:", "slurm:x", "slurm:1;rm", "pbs:1", "ray:x", "k8s:NAME", "/data/a:b"],
)
def test_what_is_no_handle_is_a_path(text):
    assert Handle.parse(text) is None


@pytest.mark.parametrize(
    ("state", "code", "exit_code"),
    [
        (JobState.SUCCEEDED, 0, 0),
        (JobState.FAILED, 7, 7),
        (JobState.FAILED, None, 1),
        (JobState.OUT_OF_MEMORY, 137, 137),
        (JobState.INTERRUPTED, 75, 75),
        (JobState.CANCELLED, None, 75),
        (JobState.NODE_FAIL, None, 75),
        (JobState.TIMEOUT, 0, 75),
        (JobState.LOST, None, 75),
    ],
)
def test_waiting_ends_with_the_drivers_code_or_says_that_resume_goes_on(state, code, exit_code):
    assert JobStatus(state, code).exit_code == exit_code
    assert state.ended


def record(output, run_id, submitted, handle):
    settings = load({}, Path("/nowhere"), {"HOME": "/nowhere"}).settings.model_dump(mode="json")
    return SubmissionRecord(
        handle=handle,
        run_id=run_id,
        name="gr-out",
        output=str(output),
        directory="/data",
        arguments=["in.png", "out.zarr"],
        settings=settings,
        code=None,
        submitted=submitted,
    )


def test_the_latest_submission_of_an_output_is_found_from_any_users_folder(tmp_path):
    """Two users: the second looks at the first one's output, where the records lie too."""
    out = tmp_path / "out.zarr"
    for run_id in ("a" * 12, "b" * 12):
        (out / ".gigarestore" / "submissions" / run_id).mkdir(parents=True)
    mine, other = (
        SubmissionRegistry({"XDG_STATE_HOME": str(tmp_path / name)}) for name in ("mine", "other")
    )
    mine.keep(record(out, "b" * 12, 2.0, "slurm:12"))
    mine.keep(record(out, "a" * 12, 1.0, "slurm:11"))
    assert [found.handle for found in mine.all()] == ["slurm:12", "slurm:11"]
    for registry in (mine, other):
        handle, found = registry.find(str(out))
        assert (str(handle), found.run_id) == ("slurm:12", "b" * 12)
    assert other.find("slurm:11") == (Handle("slurm", "11"), None)
    assert (mine.folder.stat().st_mode & 0o777) == 0o700


def test_a_damaged_record_hides_no_other(tmp_path):
    registry = SubmissionRegistry({"XDG_STATE_HOME": str(tmp_path)})
    registry.keep(record(tmp_path / "out", "a" * 12, 1.0, "slurm:11"))
    (registry.folder / "zzz.json").write_text('{"handle": "slur')
    (registry.folder / "old.json").write_text('{"handle": "slurm:9"}')
    assert [found.handle for found in registry.all()] == ["slurm:11"]


def test_a_record_makes_the_same_submission_under_a_new_identity(tmp_path):
    old = record(tmp_path / "out", "a" * 12, 1.0, "slurm:11")
    again = old.submission(new_run_id())
    assert again.run_id != old.run_id
    assert list(again.arguments) == old.arguments
    assert again.earlier == (old.run_id,)
    assert " ".join(again.driver(python="python")).count(f"--earlier {old.run_id} -- ") == 1


def test_going_on_resumes_what_an_earlier_submission_began_and_nothing_else(tmp_path):
    """OUT holds an older image; three submissions over it, of which the first ends before its
    driver begins.
    """
    run = RunDir(tmp_path / "out")
    restore = ["in.png", "out", "--overwrite"]
    folders = [run.submissions / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir(parents=True)
    run.job.write_text("of an older run")
    assert command_line(run, folders[1], restore, ["a"]) == ["restore", *restore]
    assert command_line(run, folders[1], restore, ["a"]) == [
        "restore",
        *restore,
    ]  # it died while staging
    fresh = run.job.with_name("fresh")
    fresh.write_text("of this run")
    fresh.replace(run.job)
    resume = ["resume", str(run.root), "--executor", "ray"]
    assert command_line(run, folders[1], restore, ["a"]) == [*resume, "--take-over"]
    assert command_line(run, folders[2], restore, ["a", "b"]) == resume
    assert command_line(run, folders[2], restore, ["a", "b"]) == [*resume, "--take-over"]
    run.job.unlink()
    assert command_line(run, folders[2], restore, ["a", "b"]) == ["restore", *restore]


def test_a_handle_is_printed_also_when_it_cannot_be_remembered(home, cli, small):
    sbatch = home / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 77\n")
    sbatch.chmod(0o755)
    (home / ".local").write_text("no folder")
    ended = cli("submit", small, "out.zarr", "--scale", 4, "--backend", "slurm")
    assert (ended.code, ended.out) == (0, "slurm:77\n")
    assert "slurm:77 cannot be remembered" in ended.err


def test_names_of_jobs_are_what_every_scheduler_takes(home, cli, small):
    for name in ("Übergröße 42!", "-" * 60, "x" * 100, "'; rm -rf ~"):
        out = cli(
            "submit",
            small,
            "out.zarr",
            "--scale",
            4,
            "--backend",
            "slurm",
            "--dry-run",
            "--name",
            name,
        ).out
        assert re.search(r"^#SBATCH --job-name=gr-[a-z0-9-]{1,37}$", out, re.MULTILINE)
