"""A cluster that is there already: used with its token, refused without, and missed when its head
dies.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from orchestrator.run_folder import RunDir
from storage.run_store.journal import read_records
from tests.places import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

OPTIONS = [
    "--scale",
    4,
    "--tile",
    32,
    "--stride",
    16,
    "--levels",
    2,
    "--intent",
    "detail",
    "--quiet",
]
PATIENCE = 250


@pytest.fixture
def cluster(monkeypatch, tmp_path, marked_processes):
    """A Ray head of its own that demands a token, which this process knows; yields
    (address, mark).
    """
    mark = uuid.uuid4().hex
    for name, value in {
        "GIGARESTORE_TEST_MARKER": mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),  # no token of this machine's user is found there
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    head = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    started = subprocess.run(head, capture_output=True, text=True, check=False, timeout=PATIENCE)
    try:
        assert started.returncode == 0, started.stderr
        yield f"127.0.0.1:{port}", mark
    finally:
        for pid in marked_processes(mark):
            os.kill(pid, signal.SIGKILL)


def test_a_cluster_with_a_token_is_used_refused_and_missed(
    cluster,
    small,
    job,
    serially,
    make_picture,
    write_picture,
    tmp_path,
    start_command,
    published_files,
    marked_processes,
    monkeypatch,
):
    address, mark = cluster
    serially(job(small, tmp_path / "reference"))

    def begin(name, steps, source=small):
        command = [
            "restore",
            source,
            tmp_path / name,
            *OPTIONS,
            "--steps",
            steps,
            "--address",
            address,
        ]
        return start_command(*command, cwd=tmp_path, marker=mark)

    # At the beginning and beside the first run, for Ray takes its time to refuse.
    with monkeypatch.context() as without:
        without.delenv("RAY_AUTH_TOKEN")
        refused = begin("refused", 2)
    with monkeypatch.context() as other:
        other.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex * 2)
        wrong = begin("wrong", 2)
    process = begin("out", 2)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert published_files(tmp_path / "out") == published_files(tmp_path / "reference")

    # Before the run that is to be missed begins: it must not be over when they are.
    for stranger, hint in (
        (refused, "authentication token"),
        (wrong, "check --address and RAY_AUTH_TOKEN"),
    ):
        _, err = stranger.communicate(timeout=PATIENCE)
        assert stranger.returncode == 1
        assert hint in err.splitlines()[-1]

    # Hundreds of tiles of seconds each: no machine is through before the head has been missed.
    large = write_picture(tmp_path / "large.png", make_picture(100, 100))
    process = begin("missed", 900, large)
    run = RunDir(tmp_path / "missed")
    deadline = time.monotonic() + PATIENCE
    while not run.journal.exists() or not list(read_records(run.journal)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (head,) = [
        pid for pid, name in marked_processes(mark).items() if "gcs_server" in name.split()[0]
    ]
    os.kill(head, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "the head of the Ray cluster has not answered for" in err
    assert f"gigarestore resume {run.root}" in err
