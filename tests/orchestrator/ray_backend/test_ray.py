"""Ray actors give the bytes of the serial executor: any number of workers, any batch, also when
workers are killed.
"""

import os
import signal
from pathlib import Path

import pytest

from orchestrator.errors import PlanError, RunError, TileError
from orchestrator.events import BatchCommitted, BatchFailed, WorkerLost, WorkerStarted
from orchestrator.ray_backend.executor import RayExecutor
from orchestrator.run.lifecycle import resume, start
from orchestrator.run_folder import RunDir

pytestmark = pytest.mark.ray

JOBS = {
    "detail": {},
    "centre": {"sampling": {"intent": "faithful"}, "tiling": {"order": "centre", "margin": 0}},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small, job, serially, published_files):
    """Return the published files of each job's serial run."""
    found = {}
    for name, options in JOBS.items():
        out = tmp_path_factory.mktemp("reference") / "out"
        serially(job(small, out, **options))
        found[name] = published_files(out)
    return found


class Heard:
    """A listener that keeps the events, and may act on the n-th commit."""

    def __init__(self, act=None, at=()):
        self.events = []
        self.act = act
        self.at = set(at)
        self.commits = 0

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, BatchCommitted):
            self.commits += 1
            if self.commits in self.at:
                self.act(self)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def living(self):
        """Return the workers that joined and were not lost."""
        lost = {event.worker for event in self.of(WorkerLost)}
        return [event.worker for event in self.of(WorkerStarted) if event.worker not in lost]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://localhost:1", "no.such.host.invalid:6379", "[::1]:99999"]
)
def test_a_cluster_that_is_not_there_is_refused_at_once(address):
    with pytest.raises(PlanError, match="no Ray cluster answers at") as refused:
        RayExecutor(1, address=address)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def at_work():
    """Collect how many workers committed something, run by run."""
    return []


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("name", "workers", "batch"),
    [("detail", 1, 8), ("detail", 2, 1), ("centre", 4, 8)],
)
def test_workers_and_batches_do_not_change_a_byte(
    name, workers, batch, reference, small, job, tmp_path, published_files, eventually, at_work
):
    heard = Heard()
    start(job(small, tmp_path / "out", **JOBS[name]), RayExecutor(workers, batch), [heard])
    assert published_files(tmp_path / "out") == reference[name]
    at_work.append(len({event.worker for event in heard.of(BatchCommitted)}))
    assert 1 <= at_work[-1] <= workers
    largest = max(len(event.keys) for event in heard.of(BatchCommitted))
    assert largest == 1 if batch == 1 else largest > 1 or workers > 1
    pids = [int(event.worker.rpartition(":")[2]) for event in heard.of(WorkerStarted)]
    assert eventually(lambda: not any(map(is_actor, pids)), seconds=20), "a worker outlived its run"


def test_several_workers_were_at_work_at_least_once(at_work):
    """On a busy machine a small run may end before its second worker has started; not
    every time.
    """
    assert not at_work or max(at_work) > 1


def is_actor(pid):
    try:
        return b"RayWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# Of 24 tiles.
LATE = 21


def kill_one(heard):
    """SIGKILL the worker that joined last, whatever it does at this moment."""
    os.kill(int(heard.living()[-1].rpartition(":")[2]), signal.SIGKILL)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("moment", [1, 10, LATE], ids=["early", "middle", "late"])
def test_a_killed_worker_is_replaced_and_the_bytes_are_the_same(
    moment, reference, small, job, tmp_path, published_files, unfinished_files
):
    heard = Heard(kill_one, at=[moment])
    start(job(small, tmp_path / "out"), RayExecutor(2), [heard])
    assert published_files(tmp_path / "out") == reference["detail"]
    assert not unfinished_files(tmp_path / "out")
    lost = {event.worker for event in heard.of(WorkerLost)}
    # Near the end the killed worker may have been idle and needed no more: then nobody notices.
    assert len(lost) == 1 or (moment == LATE and not lost)


@pytest.mark.usefixtures("local_ray")
def test_the_driver_finds_results_errors_and_deaths_by_looking(eventually):
    import ray

    from orchestrator.ray_backend.poll import poll_results

    @ray.remote(num_cpus=0, max_restarts=0, max_concurrency=2)
    class Worker:
        def say(self, what: str) -> str:
            return what

        def fail(self) -> None:
            raise ValueError("why")

        def die(self) -> None:
            os._exit(1)

        def wait(self) -> None:
            signal.pause()

    first = Worker.remote()
    second = Worker.remote()
    waiting = first.wait.remote()
    assert poll_results([]) == []
    assert poll_results([waiting]) == []
    calls = [first.say.remote("well"), first.fail.remote(), second.die.remote(), waiting]
    assert eventually(lambda: len(poll_results(calls)) == 3, 100)
    found = dict(poll_results(calls))
    assert list(found) == calls[:3]
    assert found[calls[0]].result() == "well"
    assert isinstance(found[calls[1]].exception().cause, ValueError)
    assert isinstance(found[calls[2]].exception(), ray.exceptions.RayActorError)
    ray.kill(first)


@pytest.mark.usefixtures("local_ray")
def test_a_tile_that_keeps_failing_is_named_and_the_run_is_resumable(
    reference, small, job, tmp_path, published_files
):
    """Take the measurement away before the first tile (later ones find it in the read cache); put
    it back; resume.
    """
    out = tmp_path / "out"
    hidden = tmp_path / "hidden"
    heard = Heard(lambda _: None, at=[])
    chunks = RunDir(out).staged_input / "c"

    def take_away(event):
        if isinstance(event, WorkerStarted) and not hidden.exists():
            chunks.rename(hidden)

    with pytest.raises(
        TileError, match=r"tile level 1 row \d+ column \d+ failed: .*missing from the array"
    ) as failed:
        start(job(small, out), RayExecutor(2), [heard, take_away])
    assert "\n" not in str(failed.value)
    assert heard.of(BatchFailed)
    assert not heard.of(WorkerLost), "an exception must not cost a worker"
    hidden.rename(chunks)
    resume(out, RayExecutor(2))
    assert published_files(out) == reference["detail"]


@pytest.mark.usefixtures("local_ray")
def test_workers_that_cannot_get_ready_end_the_run_with_the_reason(small, job, tmp_path):
    """Damage what every worker opens: the run gives up at once and says why."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        start(job(small, out), RayExecutor(1), [Heard(interrupt, at=[1])])
    metadata = RunDir(out).work(0) / "zarr.json"

    class Damaging(RayExecutor):
        def execute(self, session):
            metadata.write_text("{}")
            super().execute(session)

    with pytest.raises(RunError, match="no worker could get ready for this run") as failed:
        resume(out, Damaging(1))
    assert "zarr" in str(failed.value)


def interrupt(_):
    raise KeyboardInterrupt
