"""The command line: what it costs to ask, what it prints, and how one command leads to the next."""

import json
import os
import re
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile

from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job
from orchestrator.run_folder import RunDir
from tests.places import ROOT

QUICK = ["--scale", "4", "--tile", "32", "--steps", "1", "--executor", "serial"]

# Run a command in a fresh interpreter; print what it cost: CPU seconds, peak resident kilobytes.
MEASURED = """
import os, re, sys
from cluster.cli import _run
code = _run(sys.argv[1:])
times = os.times()
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
print(code, times.user + times.system, peak[1], file=sys.stderr)
"""


def cost(*arguments, tries=3):
    """Return (output, least CPU seconds of some tries, peak bytes) of a command in a process of its
    own.
    """
    seconds = []
    peaks = []
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(tries):
        command = [sys.executable, "-c", MEASURED, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        code, cpu, peak = done.stderr.splitlines()[-1].split()
        assert code == "0", done.stderr
        seconds.append(float(cpu))
        peaks.append(int(peak) * 1024)
    return done.stdout, min(seconds), max(peaks)


@pytest.mark.alone
def test_help_answers_at_once():
    out, seconds, _ = cost("--help")
    assert "restore" in out
    assert seconds < 1.0


@pytest.mark.alone
def test_a_plan_of_100_000_by_100_000_pixels_takes_no_time_and_no_memory():
    out, seconds, peak = cost("plan", "--size", "25000x25000", "--scale", "4", "--json")
    plan = json.loads(out)
    assert (plan["levels"][0]["height"], plan["levels"][0]["width"]) == (100_000, 100_000)
    assert plan["tiles"] > 250_000
    assert seconds < 2.0
    assert peak < 200e6


@pytest.mark.alone
def test_the_finest_plan_of_100_000_by_100_000_pixels_is_no_different():
    options = ["--tile", "64", "--stride", "32", "--order", "centre", "--levels", "2"]
    out, seconds, peak = cost(
        "plan", "--size", "25000x25000", "--scale", "4", *options, "--json", tries=1
    )
    assert json.loads(out)["tiles"] > 10_000_000
    assert seconds < 3.0
    assert peak < 200e6


@pytest.mark.parametrize(
    "command", ["restore", "resume", "plan", "status", "verify", "export", "doctor", "demo"]
)
def test_every_command_explains_itself(command, cli):
    ended = cli(command, "--help")
    assert ended.code == 0
    assert ended.out.count("\n") > 5


def test_a_plan_gives_back_its_job(cli, small):
    options = [
        "--task",
        "sr",
        "--scale",
        4,
        "--tile",
        32,
        "--stride",
        16,
        "--levels",
        2,
        "--steps",
        3,
        "--workers",
        4,
    ]
    told = json.loads(cli("plan", small, *options, "--json").out)
    spec = JobSpec.build(told["spec"])
    assert plan_job(spec).spec == spec
    assert (spec.task.scale, spec.tiling.tile, spec.sampling.steps) == (4, 32, 3)
    assert told["workers"] == 4
    assert (
        told["tiles"]
        == sum(level["tiles"] for level in told["levels"])
        == plan_job(spec).graph().count
    )


def test_a_plan_says_everything_that_it_should(cli, small):
    ended = cli("plan", small, "--scale", 4)
    assert (ended.code, ended.err) == (0, "")
    for word in (
        "tiles",
        "NFE",
        "critical path",
        "useful workers",
        "memory",
        "disk",
        "time with 1 worker",
        "80x96",
    ):
        assert word in ended.out, word


def test_a_plan_of_an_untimed_network_says_how_to_time_it(cli, small):
    assert "--step-seconds" in cli("plan", small, "--scale", 4, "--denoiser", "analytic:").out
    timed = cli(
        "plan", small, "--scale", 4, "--denoiser", "analytic:", "--step-seconds", 2, "--json"
    )
    numbers = json.loads(timed.out)
    assert numbers["seconds"] == pytest.approx(2 * numbers["nfe"])


def test_a_plan_writes_nothing(cli, small):
    before = sorted(small.parent.iterdir())
    assert cli("plan", small, "--scale", 4).code == 0
    assert sorted(small.parent.iterdir()) == before


@pytest.mark.slow
def test_one_command_leads_to_the_next(cli, small, tmp_path, published_pixels):
    """Restore, look, verify, export twice: what a newcomer does first."""
    out = tmp_path / "out"
    restored = cli("restore", small, out, *QUICK)
    assert restored.code == 0
    assert restored.out.startswith(f"{out}: 80x96 px")
    assert "tiles" in restored.err, "progress goes to stderr"
    assert "published" in cli("status", out).out
    assert json.loads(cli("status", out, "--json").out)["state"] == "published"
    verified = cli("verify", out)
    assert verified.code == 0
    assert "pass  complete" in verified.out
    pixels = published_pixels(out)
    for name, read in (
        ("a.png", imagecodecs.imread),
        ("a.tif", lambda path: tifffile.imread(path, level=0)),
    ):
        exported = cli("export", out, tmp_path / name)
        assert exported.code == 0
        assert str(tmp_path / name) in exported.out
        assert np.array_equal(np.asarray(read(tmp_path / name)).transpose(2, 0, 1), pixels)
    assert cli("export", out, tmp_path / "a.png").code == 2
    assert cli("export", out, tmp_path / "a.png", "--overwrite").code == 0


@pytest.mark.slow
def test_quiet_is_quiet(cli, small, tmp_path):
    ended = cli("restore", small, tmp_path / "out", *QUICK, "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") == 1


@pytest.mark.slow
def test_a_job_file_and_options_make_one_job(cli, small, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(
        '[task]\nname = "sr"\nscale = 2\n[tiling]\ntile = 32\n[sampling]\nsteps = 1\n'
        '[run]\nexecutor = "serial"\n'
    )
    ended = cli("restore", small, tmp_path / "out", "--job", job, "--seed", 5, "--quiet")
    assert ended.code == 0, ended.err
    kept = JobSpec.load(RunDir(tmp_path / "out").job)
    assert (kept.task.scale, kept.tiling.tile, kept.sampling.steps, kept.sampling.seed) == (
        2,
        32,
        1,
        5,
    )


def test_super_resolution_by_4_is_what_happens_unless_told_otherwise(cli, small):
    assert "sr x4 with builtin" in cli("plan", small).out


@pytest.mark.slow
def test_a_run_that_fails_says_so_and_how_to_go_on(cli, small, tmp_path, job, serially):
    """Damage a committed cell between two attempts."""
    out = tmp_path / "out"

    def stop(event):
        if type(event).__name__ == "BatchCommitted" and event.keys[0] == (1, 0, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serially(job(small, out), [stop])
    for path in (RunDir(out).work(1) / "c").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    failed = cli("resume", out, "--executor", "serial", "--quiet")
    assert failed.code == 1
    assert "tile level" in failed.complaint
    assert f"gigarestore resume {out}" in failed.complaint
    state = cli("status", out)
    assert state.code == 0
    assert ": failed, " in state.out
    assert f"gigarestore resume {out}" in state.out


@pytest.mark.slow
def test_status_of_an_unfinished_run_counts_its_tiles(cli, small, tmp_path, job, serially):
    def stop(event):
        if type(event).__name__ == "BatchCommitted" and event.keys[0].level == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serially(job(small, tmp_path / "out"), [stop])
    told = json.loads(cli("status", tmp_path / "out", "--json").out)
    assert told["state"] == "unfinished"
    assert told["done"] == sum(level["done"] for level in told["levels"])
    assert {level["level"]: level["done"] for level in told["levels"]}[0] == 1
    assert told["tiles"] == 24


@pytest.mark.slow
def test_doctor_checks_this_machine(cli):
    ended = cli("doctor")
    assert ended.code in (0, 1)
    for name in (
        "python",
        "packages",
        "import names",
        "GPU",
        "memory",
        "disk",
        "file system",
        "built-in network",
    ):
        assert re.search(rf"^(ok|warn|fail) +{name}: ", ended.out, re.MULTILINE), name
    checks = json.loads(cli("doctor", "--json").out)
    assert all(check["verdict"] in ("ok", "warn", "fail") for check in checks)


@pytest.mark.slow
def test_the_module_is_the_command(run_command, tmp_path):
    ended = run_command("status", tmp_path / "none", cwd=tmp_path)
    assert ended.code == 2
    assert "none does not exist" in ended.complaint


@pytest.mark.slow
def test_a_closed_pipe_ends_a_command_quietly(small):
    """`gigarestore plan | head -1` must not end in a traceback."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cluster", "plan", str(small)]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, env=env, check=False
    )
    os.close(write)
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_the_default_executor_is_ray_on_this_machine(
    run_command, small, tmp_path, job, serially, published_files
):
    """The README's first command, on a small picture, as a process of its own."""
    out = tmp_path / "out"
    ended = run_command(
        "restore",
        small,
        out,
        "--scale",
        4,
        "--tile",
        32,
        "--stride",
        16,
        "--steps",
        2,
        cwd=tmp_path,
    )
    assert ended.code == 0, ended.err
    lines = RunDir(out).events.read_text().splitlines()
    assert json.loads(lines[0])["executor"] == "ray"
    assert "Traceback" not in ended.err
    assert all("Warning" not in line for line in ended.err.splitlines()), ended.err
    serially(
        job(small, tmp_path / "serial", sampling={"intent": "faithful"}, tiling={"levels": None})
    )
    assert published_files(out) == published_files(tmp_path / "serial")
