"""A real SLURM over virtual hosts runs our script: what it restores, what it survives, and what it
leaves behind.

`make test-cluster` installs what this needs and sets GIGARESTORE_CLUSTER=1: then nothing here may
be skipped.
"""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from tests.slurm_daemons import calls, counted
from tests.virtual_hosts import NEEDED, ROOT, Slurm, missing

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

OPTIONS = ["--scale", "4", "--tile", "32", "--stride", "16", "--levels", "2", "--intent", "detail"]
TILES = 24
STEPS = 60
SMALL = ["--backend", "slurm", "--cpus", "2", "--memory", "2G"]
# Workers that a test holds are not taken for hung.
TWO = ["--nodes", "2", "--sbatch-option=--nodelist=n1,n2", "--hang-seconds", "600"]
# For tests of lost nodes alone: on a busy machine healthy nodes would be taken for dead.
QUICK_HEALTH = [
    *("--env", "RAY_health_check_period_ms=1000", "--env", "RAY_health_check_timeout_ms=2000"),
    *(
        "--env",
        "RAY_health_check_failure_threshold=3",
        "--env",
        "RAY_health_check_initial_delay_ms=5000",
    ),
    *("--env", "GIGARESTORE_HEAD_SILENCE=20"),
]


@pytest.fixture(scope="module")
def slurm():
    lacking = missing()
    if lacking and os.environ.get("GIGARESTORE_CLUSTER"):
        pytest.fail(f"SLURM cannot run here, lacking {lacking}")
    if lacking:
        pytest.skip(
            f"no SLURM over virtual hosts here, lacking {lacking}; "
            "`make test-cluster` installs what can be"
        )
    hosts = Slurm(3)
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small, job, serially, published_files):
    """Return the published files of an uninterrupted run, and write the picture that all runs
    restore.
    """
    out = tmp_path_factory.mktemp("reference") / "out"
    assert serially(job(small, out, sampling={"steps": STEPS})).tiles == TILES
    return published_files(out)


class Login:
    """A user at the cluster, in a folder that all nodes see."""

    def __init__(self, slurm, folder, picture):
        self.slurm = slurm
        self.folder = folder
        (folder / "small.png").write_bytes(picture.read_bytes())
        self.env = {
            **slurm.env,
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self.env |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}

    def run(self, *words, timeout=240, **env):
        command = [sys.executable, "-m", "cluster", *map(str, words)]
        env = {**self.env, **env}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def submit(self, out, *words, steps=STEPS, source="small.png"):
        """Submit; return the job's number, which is all that stdout carries."""
        done = self.run("submit", source, out, *OPTIONS, "--steps", steps, *SMALL, *words)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"slurm:\d+\n", done.stdout)
        return done.stdout.strip().removeprefix("slurm:")

    def done(self, out):
        journal = self.folder / out / ".gigarestore" / "journal"
        return journal.read_bytes().count(b"T ") if journal.exists() else 0

    def log(self, job):
        return "".join(path.read_text(errors="replace") for path in self.folder.rglob(f"{job}.log"))

    def wait(self, job, seconds=240):
        return self.run("wait", f"slurm:{job}", "--timeout", seconds, timeout=seconds + 30)

    def until_done(self, out, tiles, seconds=120):
        deadline = time.monotonic() + seconds
        while self.done(out) < tiles:
            assert time.monotonic() < deadline, f"{self.done(out)} tiles; {self.everything(out)}"
            time.sleep(0.1)

    def until_second_joins(self, out, eventually):
        """Hold the first node's workers from their first tile on until the second's are there, and
        leave them held.

        A second node needs seconds to join, in which a fast machine would be done.
        """
        self.until_done(out, 1)
        joined = eventually(lambda: self.hold(1) or self.workers(out, "n2"), seconds=100, pause=0.5)
        assert joined, self.everything(out)
        assert self.done(out) < TILES

    def hold(self, host):
        self.slurm.inside(host, "pkill", "-STOP", "-f", "^ray::")

    def release(self, host):
        self.slurm.inside(host, "pkill", "-CONT", "-f", "^ray::")

    def workers(self, out, node):
        """Return the workers of a node that were ever ready."""
        started = {e["worker"] for e in events(self.folder / out) if e["event"] == "WorkerStarted"}
        return {worker for worker in started if worker.startswith(f"{node}:")}

    def restarts(self, job):
        return int(re.search(r"Restarts=(\d+)", self.slurm.ask("scontrol", "show", "job", job))[1])

    def set_limit(self, job, minutes):
        self.slurm.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def limit_is_near(self, job):
        """Tell the job's script what the scheduler tells it when the time limit is near."""
        self.slurm.ask("scancel", "--batch", "--signal=USR1", job)

    def everything(self, out):
        told = [*(self.folder / out).rglob("*.log"), *(self.folder / out).rglob("events.jsonl")]
        return self.slurm.ask("squeue", "-t", "all") + "\n".join(
            f"{p}:\n{p.read_text()[-3000:]}" for p in told
        )


@pytest.fixture
def login(slurm, small, request):
    name = re.sub(r"\W+", "-", request.node.name)[:40]
    folder = slurm.folder / f"{len(os.listdir(slurm.folder))}-{name}"
    folder.mkdir()
    yield Login(slurm, folder, small)
    slurm.cancel_all()
    slurm.wait_idle()


def events(folder):
    lines = (folder / ".gigarestore" / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def leftovers(slurm):
    """Return what jobs have left on the living hosts: processes beside slurmd, and files
    in /tmp.
    """
    found = []
    kept = {
        path.parts[2] for path in (slurm.folder, *NEEDED)
    }  # what the hosts were given of this machine's
    for i, init in slurm.inits.items():
        if init.poll() is None:
            lines = slurm.inside(i, "ps", "-e", "-o", "args=").splitlines()
            known = ("slurmd -D", "bash -c", "ps -e", "slurmstepd: [", "slurmd: ")
            found += [
                f"n{i}: {line[:150]}"
                for line in lines
                if line.strip() and not line.startswith(known)
            ]
            names = slurm.inside(i, "ls", "-A", "/tmp").split()
            found += [f"n{i}: /tmp/{name}" for name in names if name not in kept]
    return found


def test_two_nodes_restore_together_and_leave_nothing_behind(
    slurm, login, reference, published_files, eventually
):
    """One worker per node: a wavefront two tiles wide needs both."""
    job = login.submit("out.zarr", *TWO, "--cpus", 1)
    login.until_second_joins("out.zarr", eventually)
    login.release(1)
    ended = login.wait(job)
    assert ended.returncode == 0, login.everything("out.zarr")
    assert published_files(login.folder / "out.zarr") == reference
    told = events(login.folder / "out.zarr")
    nodes = {
        event["worker"].partition(":")[0] for event in told if event["event"] == "BatchCommitted"
    }
    assert nodes == {"n1", "n2"}, login.everything("out.zarr")
    assert eventually(lambda: not leftovers(slurm), seconds=10), leftovers(slurm)
    status = login.run("status", f"slurm:{job}")
    assert status.stdout.startswith(
        f"slurm:{job}: succeeded\nout.zarr".replace("out.zarr", str(login.folder))
    )
    assert f"{TILES} of {TILES} tiles" in status.stdout
    assert "driver ended with 0" in login.run("logs", "out.zarr").stdout
    secret = list(login.folder.rglob("rendezvous.json"))
    assert [path.stat().st_mode & 0o777 for path in secret] == [0o600]
    assert json.loads(secret[0].read_text())["token"] not in login.log(job)


def test_the_drivers_exit_code_is_the_jobs(slurm, login):
    """A picture whose pixels are damaged: that shows only when they are decoded, on the node."""
    damaged = bytearray((login.folder / "small.png").read_bytes())
    place = damaged.index(b"IDAT") + 100
    damaged[place : place + 20] = bytes(20)
    (login.folder / "damaged.png").write_bytes(damaged)
    alone = login.run("restore", "damaged.png", "alone.zarr", *OPTIONS, "--executor", "serial")
    assert alone.returncode not in (0, 75)
    done = login.run("submit", "damaged.png", "out.zarr", *OPTIONS, *SMALL, "--follow", "--json")
    assert done.returncode == alone.returncode, done.stderr
    assert f"driver ended with {alone.returncode}" in done.stderr
    job = json.loads(done.stdout)["handle"].removeprefix("slurm:")
    assert f"ExitCode={alone.returncode}:0" in slurm.ask("scontrol", "show", "job", job)
    assert login.wait(job).returncode == alone.returncode


def test_ray_that_does_not_start_is_exit_code_70_and_says_why(slurm, login):
    broken = login.folder / "broken" / "ray"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise SystemExit('this Ray is broken')")
    job = login.submit("out.zarr", "--setup", f"export PYTHONPATH={broken.parent}:$PYTHONPATH")
    ended = login.wait(job)
    assert ended.returncode == 70, login.everything("out.zarr")
    assert "this Ray is broken" in login.log(job)


def test_the_time_limit_leads_to_a_checkpoint_a_requeue_and_the_same_bytes(
    slurm, login, reference, published_files, eventually
):
    """The worker is held until the scheduler's warning has come, so that a fast machine is not done
    before.
    """
    out = login.folder / "out.zarr"
    here = ["--workers", 1, "--drain-seconds", 5, "--sbatch-option=--nodelist=n1"]
    job = login.submit("out.zarr", "--time", 4, *here)
    login.until_done("out.zarr", 2)
    login.hold(1)
    began = time.time() - min(event["time"] for event in events(out))
    login.set_limit(job, int(began // 60) + 2)  # near: the scheduler warns 60 s before it
    assert eventually(lambda: "the time limit is near" in login.log(job), seconds=120), (
        login.everything("out.zarr")
    )
    login.release(1)
    assert eventually(lambda: login.restarts(job) == 1, seconds=60), login.everything("out.zarr")
    login.set_limit(job, 20)
    ended = login.wait(job)
    assert ended.returncode == 0, login.everything("out.zarr")
    assert_resumed(out)
    assert published_files(out) == reference


def assert_resumed(out, attempts=2):
    """Nothing was lost between attempts, and nothing done twice.

    What an attempt found done is the journal's word. The events of the last tiles before a host's
    end may be missing.
    """
    starts = []
    commits = []
    for event in events(out):
        if event["event"] == "RunStarted":
            starts.append(event["done"])
            commits.append([])
        elif event["event"] == "BatchCommitted":
            commits[-1] += map(tuple, event["keys"])
    assert len(starts) == attempts
    assert starts[0] == 0
    assert 0 < starts[1] < TILES
    told = [done + len(keys) for done, keys in zip(starts, commits, strict=True)]
    assert all(before <= after for before, after in zip(told, starts[1:], strict=False)), (
        starts,
        told,
    )
    assert told[-1] == TILES
    every = [key for keys in commits for key in keys]
    assert len(every) == len(set(every))


def test_restarts_are_capped(login, eventually):
    job = login.submit("out.zarr", "--restarts", 0, "--workers", 1, "--drain-seconds", 1)
    login.until_done("out.zarr", 1)
    login.limit_is_near(job)
    ended = login.wait(job)
    assert ended.returncode == 75, login.everything("out.zarr")
    assert "stopped after 0 restarts" in login.log(job)
    assert f"gigarestore resume slurm:{job}" in ended.stderr
    assert login.restarts(job) == 0


def test_an_attempt_without_progress_is_the_last(login, eventually):
    job = login.submit("out.zarr", steps=900)
    assert eventually(lambda: (login.folder / "out.zarr/.gigarestore/journal").exists(), seconds=60)
    login.limit_is_near(job)
    ended = login.wait(job)
    assert ended.returncode == 75, login.everything("out.zarr")
    assert "finished no tile" in login.log(job)


def test_a_stopped_run_is_submitted_again_by_its_handle(login, reference, published_files):
    job = login.submit("out.zarr", "--restarts", 0, "--drain-seconds", 1)
    login.until_done("out.zarr", 2)
    cancelled = login.run("cancel", f"slurm:{job}")
    assert cancelled.returncode == 0, cancelled.stderr
    assert login.run("status", f"slurm:{job}").stdout.startswith(f"slurm:{job}: cancelled\n")
    again = login.run("resume", f"slurm:{job}")
    assert again.returncode == 0, again.stderr
    ended = login.wait(again.stdout.strip().removeprefix("slurm:"))
    assert ended.returncode == 0, login.everything("out.zarr")
    assert_resumed(login.folder / "out.zarr")
    assert published_files(login.folder / "out.zarr") == reference


def test_scancel_leaves_no_process_and_no_temporary_folder(slurm, login, eventually):
    job = login.submit("out.zarr", "--nodes", 2)
    login.until_done("out.zarr", 2)
    slurm.ask("scancel", job)
    ended = login.wait(job)
    assert ended.returncode == 75, ended.stderr
    assert eventually(lambda: not leftovers(slurm), seconds=25), leftovers(slurm)
    assert 2 <= login.done("out.zarr") <= TILES


def test_two_jobs_on_one_host_do_not_disturb_each_other(slurm, login, reference, published_files):
    """The first ends while the second runs; its cleaning up must touch nothing of the other."""
    here = ["--cpus", "1", "--sbatch-option=--nodelist=n1"]
    first = login.submit("first.zarr", *here, "--name", "first", steps=2)
    second = login.submit("second.zarr", *here)
    assert login.wait(first).returncode == 0, login.everything("first.zarr")
    assert login.wait(second).returncode == 0, login.everything("second.zarr")
    assert published_files(login.folder / "second.zarr") == reference
    lost = [
        event
        for event in events(login.folder / "second.zarr")
        if event["event"] in ("WorkerLost", "BatchFailed")
    ]
    assert not lost


def test_a_host_that_dies_is_forgiven_and_the_run_goes_on(slurm, login, reference, published_files):
    job = login.submit("out.zarr", "--nodes", 2, *QUICK_HEALTH, "--sbatch-option=--nodelist=n1,n2")
    login.until_done("out.zarr", 3)
    slurm.power_off(2)
    try:
        ended = login.wait(job)
        assert ended.returncode == 0, login.everything("out.zarr")
        assert login.restarts(job) == 0
        assert published_files(login.folder / "out.zarr") == reference
    finally:
        slurm.power_on(2)


@pytest.mark.parametrize("policy", ["continue", "requeue"])
def test_the_death_of_the_host_that_holds_the_driver_leads_to_a_requeue(
    slurm, login, reference, published_files, eventually, policy
):
    here = ["--nodes", 2, "--workers", 2, "--sbatch-option=--exclude=n3"]
    job = login.submit("out.zarr", *here, *QUICK_HEALTH, "--on-node-fail", policy)
    login.until_done("out.zarr", 3)
    slurm.power_off(1)
    try:
        assert eventually(lambda: login.restarts(job) == 1, seconds=150, pause=1), login.everything(
            "out.zarr"
        )
        slurm.ask("scontrol", "update", f"JobId={job}", "ExcNodeList=")
        ended = login.wait(job, 200)
        assert ended.returncode == 0, login.everything("out.zarr")
        assert login.restarts(job) == 1
        assert_resumed(login.folder / "out.zarr")
        assert published_files(login.folder / "out.zarr") == reference
    finally:
        slurm.power_on(1)


def test_a_cable_that_is_cut_and_mended_costs_time_only(
    slurm, login, reference, published_files, eventually
):
    """Longer than Ray forgives, so that the node is given up and joins again; shorter than SLURM
    does.
    """
    job = login.submit("out.zarr", *TWO, *QUICK_HEALTH)
    out = login.folder / "out.zarr"
    login.until_second_joins("out.zarr", eventually)
    before = login.workers("out.zarr", "n2")
    slurm.cut(2)
    time.sleep(14)
    slurm.heal(2)
    again = eventually(lambda: login.workers("out.zarr", "n2") - before, seconds=120, pause=0.5)
    assert again, login.everything("out.zarr")
    login.release(1)
    ended = login.wait(job, 200)
    assert ended.returncode == 0, login.everything("out.zarr")
    assert "joining again" in login.log(job), login.log(job)
    assert published_files(out) == reference


def test_check_asks_the_scheduler_and_submits_nothing(slurm, login):
    fine = login.run("submit", "small.png", "out.zarr", *SMALL, "--check")
    assert (fine.returncode, fine.stdout) == (0, ""), fine.stderr
    for wrong in (["--nodes", 9], ["--partition", "nowhere"], ["--gpus", 7]):
        refused = login.run("submit", "small.png", "out.zarr", *SMALL, *wrong, "--check")
        assert refused.returncode == 2, wrong
        assert refused.stderr.startswith("gigarestore: sbatch refuses: ")
    assert not (login.folder / "out.zarr").exists()
    assert not slurm.ask("squeue", "-h")


def test_hostile_names_reach_the_driver_as_they_are(login, reference, published_files):
    out = """a b'c"d$(touch pwned)`touch pwned`;#%jx.zarr"""
    job = login.submit(
        out, "--env", "ODD=$(touch pwned) 'x'", "--name", '$(touch pwned)"; touch pwned'
    )
    ended = login.wait(job)
    assert ended.returncode == 0, login.everything(".")
    assert published_files(login.folder / out) == reference
    assert not list(login.folder.rglob("pwned"))
    assert "driver ended with 0" in login.log(job)


def test_an_array_restores_a_batch_in_two_shares_and_names_what_it_cannot(
    login, make_picture, write_picture, job, serially, published_files
):
    """Four pictures, of which the second share's first ends too early: the first share succeeds,
    the array fails.
    """
    names = ["a", "b", "c", "d"]
    for seed, name in enumerate(names):
        write_picture(login.folder / f"{name}.png", make_picture(14, 16, seed=seed))
    whole = (login.folder / "b.png").read_bytes()
    (login.folder / "b.png").write_bytes(whole[:-100])
    steps = ("--steps", 2)
    shares = ("--shares", 2, "--wait")
    done = login.run("submit", "batch", "[a-d].png", "out", *OPTIONS, *steps, *SMALL, *shares)
    assert done.returncode == 1, login.everything("out")
    handle = done.stdout.strip()
    assert f"{handle}: failed, exit code 1, 1 of 2 shares" in done.stderr
    records = {}
    for share in (1, 2):
        lines = (login.folder / "out" / f"batch-{share}-of-2.jsonl").read_text().splitlines()
        records |= {record["image"]: (share, record["state"]) for record in map(json.loads, lines)}
    published = {name: published_files(login.folder / "out" / f"{name}.zarr") for name in "acd"}
    assert records == {
        "a.zarr": (1, "published"),
        "b.zarr": (2, "refused"),
        "c.zarr": (1, "published"),
        "d.zarr": (2, "published"),
    }
    for name, found in published.items():
        alone = login.folder / f"{name}-alone"
        serially(job(login.folder / f"{name}.png", alone))
        assert found == published_files(alone)
    status = login.run("status", handle).stdout
    assert status.startswith(f"{handle}: failed (1 of 2 shares)\n{login.folder}/out: 4 images: ")
    assert "b.zarr: refused: " in status
    assert login.run("status", f"{handle}_1").stdout.startswith(f"{handle}_1: succeeded\n")
    logs = login.run("logs", "out").stdout
    assert all(f"==> {handle.removeprefix('slurm:')}_{share}.log <==" in logs for share in (1, 2))

    (login.folder / "b.png").write_bytes(whole)
    again = login.run("resume", handle).stdout.strip()
    ended = login.wait(again.removeprefix("slurm:"))
    assert ended.returncode == 0, login.everything("out")
    assert "4 images: 4 published" in login.run("status", "out").stdout
    assert {
        name: published_files(login.folder / "out" / f"{name}.zarr") for name in "acd"
    } == published


def test_shares_that_reach_the_time_limit_go_on_each_by_itself(
    slurm, login, reference, published_files, eventually
):
    """Both are held until they are warned; the second is warned once more later on."""
    names = ["a", "b"]
    for name in names:
        (login.folder / f"{name}.png").write_bytes((login.folder / "small.png").read_bytes())
    one_each = ("--workers", 1, "--drain-seconds", 5, "--sbatch-option=--exclude=n3")
    shares = ("--steps", STEPS, "--shares", 2, "--time", 4)
    words = ("submit", "batch", "[ab].png", "out", *OPTIONS, *SMALL, *shares)
    handle = login.run(*words, *one_each).stdout.strip()
    job = handle.removeprefix("slurm:")
    tasks = [f"{job}_{share}" for share in (1, 2)]
    outs = [f"out/{name}.zarr" for name in names]
    for out in outs:
        login.until_done(out, 2)
    for host in (1, 2):
        login.hold(host)
    for task, out in zip(tasks, outs, strict=True):
        began = time.time() - min(event["time"] for event in events(login.folder / out))
        login.set_limit(task, int(began // 60) + 2)  # near: the scheduler warns 60 s before it
    warned = eventually(
        lambda: all("the time limit is near" in login.log(task) for task in tasks), seconds=150
    )
    assert warned, login.everything("out")
    for host in (1, 2):
        login.release(host)
    assert eventually(lambda: [login.restarts(task) for task in tasks] == [1, 1], seconds=90), (
        login.everything("out")
    )
    for task in tasks:
        login.set_limit(task, 20)
    login.until_done(outs[1], login.done(outs[1]) + 2)
    assert login.done(outs[1]) < TILES, "too fast for a second warning"
    login.limit_is_near(tasks[1])
    assert eventually(lambda: login.restarts(tasks[1]) == 2, seconds=60), login.everything("out")

    programs = counted(login.folder / "bin")
    ended = login.run(
        "wait", handle, "--timeout", 200, timeout=230, PATH=f"{programs}:{os.environ['PATH']}"
    )
    assert ended.returncode == 0, login.everything("out")
    asked = [line.partition(" ")[0] for line in calls(programs)]
    assert set(asked) == {"squeue"}, "the queue knows them all"
    assert [login.restarts(task) for task in tasks] == [1, 2]
    for out, attempts in zip(outs, (2, 3), strict=True):
        assert_resumed(login.folder / out, attempts)
        assert published_files(login.folder / out) == reference
    assert "2 images: 2 published" in login.run("status", handle).stdout
