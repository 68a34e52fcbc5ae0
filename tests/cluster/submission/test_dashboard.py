"""A Ray dashboard that is not there, hangs, or talks something else: unknown is not failed, and
nobody waits for ever.
"""

import contextlib
import socket
import threading

import pytest

import cluster.submission.ray_jobs
from cluster.submission.backend import Unreachable
from cluster.submission.handles import Handle, JobState, SubmissionRecord
from cluster.submission.ray_jobs import RayJobsBackend, check_version
from orchestrator.errors import PlanError


@pytest.fixture
def server(monkeypatch):
    """A server that answers with what a test says, or never; returns its address."""
    monkeypatch.setattr(cluster.submission.ray_jobs, "REACHABLE_SECONDS", 0.5)
    listener = socket.create_server(("127.0.0.1", 0))
    taken = []

    def serve(answer):
        def run():
            with contextlib.suppress(OSError):  # closed: the end
                while True:
                    connection, _ = listener.accept()
                    taken.append(connection)
                    if answer is not None:
                        connection.recv(4096)
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    for end in [listener, *taken]:
        end.close()


@pytest.mark.parametrize(
    "answer", [None, b"", b"SSH-2.0-OpenSSH_9.2\r\n"], ids=["hangs", "closes", "is no dashboard"]
)
def test_what_does_not_answer_is_unreachable(server, answer):
    url = server(answer)
    with pytest.raises(Unreachable, match="no Ray dashboard answers"):
        RayJobsBackend().state(Handle("ray", f"gr-x@{url}"), None)


def test_nobody_there_is_exit_code_69(cli, small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    ended = cli("submit", small, "out.zarr", "--scale", 4, "--backend", "ray", "--dashboard", url)
    assert ended.code == 69
    assert "no Ray dashboard answers" in ended.complaint
    assert not (tmp_path / "out.zarr").exists()
    assert cli("status", f"ray:gr-x@{url}").code == 69


@pytest.mark.parametrize(
    ("code", "silent", "state"),
    [
        (None, False, None),
        (None, True, JobState.LOST),
        (0, True, JobState.SUCCEEDED),
        (75, True, JobState.INTERRUPTED),
        (1, True, JobState.FAILED),
    ],
)
def test_a_dead_heads_run_is_told_by_its_drivers_own_files(
    server, tmp_path, monkeypatch, code, silent, state
):
    monkeypatch.setattr(cluster.submission.ray_jobs, "SILENCE", 0.0 if silent else 1000.0)
    url = server(b"")
    record = SubmissionRecord(
        handle=f"ray:gr-x@{url}",
        run_id="a" * 12,
        name="gr-x",
        output=str(tmp_path),
        directory=str(tmp_path),
        arguments=[],
        settings={},
        code=None,
        submitted=0.0,
    )
    folder = tmp_path / ".gigarestore" / "submissions" / record.run_id
    folder.mkdir(parents=True)
    (folder / "heartbeat.json").write_text("{}")
    if code is not None:
        (folder / "exit.json").write_text(f'{{"code": {code}}}')
    handle = Handle.parse(record.handle)
    if state is None:
        with pytest.raises(Unreachable):
            RayJobsBackend().state(handle, record)
    else:
        assert RayJobsBackend().state(handle, record).state is state


@pytest.mark.parametrize("version", ["2.9.3", "2.49.0", "1.13.0", "None", ""])
def test_an_older_cluster_is_refused(version):
    with pytest.raises(PlanError, match=r"needs Ray 2\.50 or newer"):
        check_version(version, "http://head:8265")


def test_a_newer_cluster_is_taken():
    for version in ("2.50.0", "2.60.0", "3.0.0.dev0"):
        check_version(version, "http://head:8265")
