"""Submission through the Jobs API of a real Ray cluster: what runs there, who may, and what is
known when it is gone.

`make test-cluster` installs what this needs and sets GIGARESTORE_CLUSTER=1: then nothing here may
be skipped.
"""

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.places import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

OPTIONS = ["--scale", "4", "--tile", "32", "--stride", "16", "--levels", "2", "--intent", "detail"]
TILES = 24
STEPS = 60


class Head:
    """A Ray head with a dashboard that demands a token; gigarestore is not installed in its
    environment.
    """

    def __init__(self, folder):
        self.folder = folder
        self.mark = secrets.token_hex(16)
        self.token = secrets.token_hex(32)
        base = 21000 + os.getpid() % 500 * 10
        self.port, self.dashboard, self.agent, self.client = (base + i for i in range(4))
        self.url = f"http://127.0.0.1:{self.dashboard}"
        self.env = {
            **os.environ,
            "GIGARESTORE_TEST_MARKER": self.mark,
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        self.env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_worker_niceness": "0",
        }
        self.env |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.env.pop("RAY_ADDRESS", None)

    def start(self):
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            "--num-cpus",
            "2",
        ]
        command += [
            "--port",
            self.port,
            "--dashboard-port",
            self.dashboard,
            "--temp-dir",
            self.folder / "r",
        ]
        command += [
            "--dashboard-agent-listen-port",
            self.agent,
            "--ray-client-server-port",
            self.client,
        ]
        command += [
            "--min-worker-port",
            "0",
            "--max-worker-port",
            "0",
            "--object-store-memory",
            "100000000",
        ]
        with (self.folder / "head.log").open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                env=self.env,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, marked_processes):
        """Lose the power of the whole cluster."""
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class User:
    """A user of the cluster, in a folder of their own."""

    def __init__(self, head, folder, picture, code=ROOT):
        self.head = head
        self.folder = folder
        (folder / "small.png").write_bytes(picture.read_bytes())
        (folder / "token").write_text(head.token + "\n")
        (folder / "token").chmod(0o600)
        path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("RAY_", "GIGARESTORE_", "XDG_"))
        }
        self.env |= {"PYTHONPATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        self.env |= {"GIGARESTORE_SUBMIT_BACKEND": "ray", "GIGARESTORE_RAY_DASHBOARD": head.url}
        self.env |= {"GIGARESTORE_RAY_TOKEN_FILE": str(folder / "token")}

    def start(self, *words, **env):
        command = [sys.executable, "-m", "cluster", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.env | env, **pipes)

    def run(self, *words, timeout=240, **env):
        process = self.start(*words, **env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def submit(self, out, *words, steps=STEPS, source="small.png"):
        done = self.run("submit", source, out, *OPTIONS, "--steps", steps, *words)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(rf"ray:gr-[a-z0-9-]+@{re.escape(self.head.url)}\n", done.stdout), (
            done.stdout
        )
        return done.stdout.strip()

    def until_done(self, out, tiles, seconds=120):
        journal = self.folder / out / ".gigarestore" / "journal"
        deadline = time.monotonic() + seconds
        while not journal.exists() or journal.read_bytes().count(b"T ") < tiles:
            assert time.monotonic() < deadline, self.run("logs", out).stdout
            time.sleep(0.1)


@pytest.fixture(scope="module")
def head(tmp_path_factory, marked_processes, eventually):
    lacking = [
        name for name in ("aiohttp", "grpc", "opencensus") if importlib.util.find_spec(name) is None
    ]
    if lacking and os.environ.get("GIGARESTORE_CLUSTER"):
        pytest.fail(
            f"no Ray cluster with a dashboard can run here, lacking {lacking}: "
            "pip install 'gigarestore[jobs]'"
        )
    if lacking:
        pytest.skip(
            f"no Ray cluster with a dashboard here, lacking {lacking}; "
            "`make test-cluster` installs them"
        )
    found = Head(tmp_path_factory.mktemp("h"))
    found.start()
    try:
        yield found
    finally:
        found.kill(marked_processes)


@pytest.fixture
def user(head, small, tmp_path, eventually):
    found = User(head, tmp_path, small)
    check = ["submit", "small.png", "out.zarr", *OPTIONS, "--check"]
    assert eventually(lambda: found.run(*check).returncode == 0, seconds=90, pause=1), found.run(
        *check
    ).stderr
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small, job, serially, published_files):
    out = tmp_path_factory.mktemp("reference") / "out"
    assert serially(job(small, out, sampling={"steps": STEPS})).tiles == TILES
    return published_files(out)


def test_a_job_restores_is_followed_and_ends_with_the_drivers_code(
    user, reference, published_files
):
    done = user.run("submit", "small.png", "out.zarr", *OPTIONS, "--steps", STEPS, "--follow")
    assert done.returncode == 0, done.stderr
    handle = done.stdout.strip()
    assert handle.startswith("ray:gr-out-")
    assert f"gigarestore: restore small.png {user.folder}/out.zarr" in done.stderr
    assert f"{handle}: succeeded, exit code 0" in done.stderr
    assert published_files(user.folder / "out.zarr") == reference
    status = user.run("status", handle)
    assert status.stdout.startswith(f"{handle}: succeeded\n")
    assert f"{TILES} of {TILES} tiles" in status.stdout
    logs = user.run("logs", "out.zarr")
    assert logs.stdout.count(f"gigarestore: restore small.png {user.folder}/out.zarr") == 1
    assert user.run("wait", "out.zarr").returncode == 0
    everything = done.stderr + logs.stdout + user.run("list", "--json").stdout
    assert user.head.token not in everything


def test_the_drivers_exit_code_is_the_jobs(user):
    damaged = bytearray((user.folder / "small.png").read_bytes())
    place = damaged.index(b"IDAT") + 100
    damaged[place : place + 20] = bytes(20)
    (user.folder / "damaged.png").write_bytes(damaged)
    alone = user.run("restore", "damaged.png", "alone.zarr", *OPTIONS, "--executor", "serial")
    handle = user.submit("out.zarr", source="damaged.png")
    ended = user.run("wait", handle)
    assert alone.returncode not in (0, 75)
    assert ended.returncode == alone.returncode, ended.stderr
    assert f"{handle}: failed, exit code {alone.returncode}" in ended.stderr


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "wants a token, and none was given"), ("0" * 64, "does not take this token")],
    ids=["none", "wrong"],
)
def test_who_may_not_is_told_why(user, token, said):
    env = {"GIGARESTORE_RAY_TOKEN_FILE": str(user.folder / "other")}
    (user.folder / "other").write_text(token)
    for command in (
        ["submit", "small.png", "out.zarr", *OPTIONS],
        ["submit", "small.png", "o", *OPTIONS, "--check"],
    ):
        refused = user.run(*command, **env)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert said in refused.stderr
        assert "--token-file" in refused.stderr
    assert not (user.folder / "out.zarr").exists()


def test_a_rebuilt_package_of_the_same_version_runs_its_new_code(user, small, tmp_path):
    """The version stays the same; what the job says must be what the sources say now."""
    said = []
    for word in ("first", "second"):
        code = tmp_path / f"code-{word}" / "src"
        for name in ("kernels", "storage", "orchestrator", "cluster"):
            shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
        driver = code / "cluster" / "on_node" / "driver.py"
        text = driver.read_text()
        changed = text.replace('print(f"gigarestore: {', f'print(f"{word} code: {{')
        assert changed != text
        driver.write_text(changed)
        folder = tmp_path / word
        folder.mkdir()
        other = User(user.head, folder, small, code)
        done = other.run("submit", "small.png", "out.zarr", *OPTIONS, "--steps", 1, "--follow")
        assert done.returncode == 0, done.stderr
        said += re.findall(r"^(\w+) code: restore", done.stderr, re.MULTILINE)
    assert said == ["first", "second"]


def test_cancel_lets_the_driver_checkpoint_and_resume_goes_on(user, reference, published_files):
    handle = user.submit("out.zarr", "--workers", 1, "--drain-seconds", 5)
    user.until_done("out.zarr", 2)
    following = user.start("logs", "-f", handle)
    cancelled = user.run("cancel", handle)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "has stopped; everything committed is kept" in cancelled.stderr
    out, err = following.communicate(timeout=60)
    assert following.returncode == 0, err
    assert "gigarestore: told to stop" in out
    ended = user.run("wait", handle)
    assert ended.returncode == 75
    assert f"{handle}: cancelled, exit code 75" in ended.stderr
    again = user.run("resume", handle)
    assert again.returncode == 0, again.stderr
    assert user.run("wait", again.stdout.strip(), timeout=300).returncode == 0
    told = (user.folder / "out.zarr" / ".gigarestore" / "events.jsonl").read_text().splitlines()
    starts = [event["done"] for event in map(json.loads, told) if event["event"] == "RunStarted"]
    assert starts[0] == 0
    assert 0 < starts[1] < TILES
    assert published_files(user.folder / "out.zarr") == reference


def test_a_batch_is_one_job_whose_images_share_the_workers(
    user, make_picture, write_picture, job, serially, published_files
):
    for seed, name in enumerate("ab"):
        write_picture(user.folder / f"{name}.png", make_picture(14, 16, seed=seed))
    done = user.run("submit", "batch", "[ab].png", "out", *OPTIONS, "--steps", 2, "--follow")
    assert done.returncode == 0, done.stderr
    handle = done.stdout.strip()
    assert "2 images: 2 published" in done.stderr
    assert user.run("status", handle).stdout.startswith(
        f"{handle}: succeeded\n{user.folder}/out: 2 images: 2 published"
    )
    for name in "ab":
        serially(job(user.folder / f"{name}.png", user.folder / f"{name}-alone"))
        assert published_files(user.folder / "out" / f"{name}.zarr") == published_files(
            user.folder / f"{name}-alone"
        )


def test_the_same_submission_twice_is_one_job(user, monkeypatch):
    """As after an answer that was lost on its way: the second try finds the first one's job."""
    from cluster.submission.ray_jobs import RayJobsBackend, job_id
    from cluster.submission.settings import load
    from cluster.submission.submission import Submission, new_run_id

    monkeypatch.chdir(user.folder)
    flags = {"ray.dashboard": user.head.url, "ray.token_file": str(user.folder / "token")}
    submission = Submission(
        run_id=new_run_id(),
        arguments=("small.png", "out.zarr", *OPTIONS, "--steps", "1"),
        output=str(user.folder / "out.zarr"),
        directory=str(user.folder),
        settings=load(flags, user.folder, {"HOME": str(user.folder)}).settings,
        code=str(ROOT),
    )
    backend = RayJobsBackend()
    handles = {str(backend.submit(submission)) for _ in range(2)}
    assert handles == {f"ray:{job_id(submission)}@{user.head.url}"}
    ended = user.run(
        "wait", handles.pop(), GIGARESTORE_RAY_TOKEN_FILE="", RAY_AUTH_TOKEN=user.head.token
    )
    assert ended.returncode == 0, ended.stderr


class Relay(threading.Thread):
    """Hand connections on to a port of this machine, until told to drop them."""

    def __init__(self, port, at=0):
        super().__init__(daemon=True)
        self.port = port
        self.open = []
        self.listener = socket.create_server(("127.0.0.1", at))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self):
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                self.open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self.hand_on, args=(one, other), daemon=True).start()

    @staticmethod
    def hand_on(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def drop(self):
        """Drop what is connected, and answer no more."""
        for end in [self.listener, *self.open]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_a_log_is_followed_across_lost_connections(user):
    """All connections are dropped in the log's middle; no line is lost and none comes twice."""
    relay = Relay(user.head.dashboard)
    handle = user.submit("out.zarr")
    user.until_done("out.zarr", 1)
    following = user.start(
        "logs", "-f", handle.replace(user.head.url, relay.url), RAY_AUTH_TOKEN=user.head.token
    )
    first = following.stdout.readline()
    relay.drop()
    time.sleep(3)
    back = Relay(user.head.dashboard, int(relay.url.rpartition(":")[2]))
    out = first + following.stdout.read()
    assert following.wait(timeout=60) == 0, following.stderr.read()
    back.drop()
    assert out == user.run("logs", handle).stdout
    assert out.count(f"gigarestore: restore small.png {user.folder}/out.zarr") == 1


def test_a_head_that_dies_reads_as_lost_and_the_run_goes_on_elsewhere(
    user, reference, published_files, marked_processes, eventually
):
    """The last test of this module: it takes the cluster's power, and gives it back to
    resume on.
    """
    handle = user.submit("out.zarr")
    user.until_done("out.zarr", 2)
    user.head.kill(marked_processes)
    early = user.run("status", handle)
    assert re.match(rf"{re.escape(handle)}: (unknown|lost) \(", early.stdout), early.stdout
    ended = user.run("wait", handle, timeout=150)
    assert ended.returncode == 75, ended.stderr
    assert f"{handle}: lost" in ended.stderr
    assert f"gigarestore resume {handle}" in ended.stderr
    user.head.start()
    check = ["submit", "small.png", "other.zarr", *OPTIONS, "--check"]
    assert eventually(lambda: user.run(*check).returncode == 0, seconds=90, pause=1)
    assert user.run("status", handle).stdout.startswith(
        f"{handle}: lost (the cluster does not know the job"
    )
    again = user.run("resume", handle)
    assert again.returncode == 0, again.stderr
    assert user.run("wait", again.stdout.strip(), timeout=300).returncode == 0
    assert published_files(user.folder / "out.zarr") == reference
