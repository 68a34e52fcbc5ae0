"""Machines of a cluster come and go: what they had under way is restored elsewhere, and no tile is
blamed for it.
"""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray.cloudpickle

from orchestrator.events import BatchCommitted, BatchFailed, TileGivenUp, WorkerLost, WorkerStarted
from orchestrator.ray_backend.actors import RayWorker, WorkerKind
from orchestrator.ray_backend.executor import RayExecutor
from orchestrator.run.lifecycle import start
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_request import BatchCall

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TILE = TileKey(0, 1, 1)
# A machine counts as gone when its raylet has not answered for about so long, instead of a minute.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster whose head has no room for workers."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH}
    found = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield found
    finally:
        found.shutdown()


class Doomed(RayWorker):
    """Send a signal to the raylet of the machine that gets a tile, the first `times` times;
    `notes`: a folder.
    """

    def __init__(self, number, times, notes):
        self._number = number
        self._times = times
        self._notes = notes
        super().__init__()

    def _doom(self):
        if len(list(self._notes.iterdir())) < self._times:
            (self._notes / str(os.getppid())).touch()
            os.kill(os.getppid(), self._number)
            time.sleep(10_000)

    def run(self, call, *after):
        if TILE in BatchCall.of(call).keys:
            self._doom()
        return super().run(call, *after)


class StillBorn(Doomed):
    """Do it while it starts."""

    def __init__(self, *arguments):
        self._number, self._times, self._notes = arguments
        self._doom()
        super().__init__(*arguments)


# That any number of losses gives no tile up is the frontier's matter (test_frontier.py).
@pytest.mark.parametrize(
    ("number", "times"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)], ids=["killed", "silent"]
)
def test_machines_that_go_are_followed_by_others_and_no_tile_is_blamed(
    number, times, cluster, small, job, serially, tmp_path, published_files
):
    serially(job(small, tmp_path / "reference"))
    notes = tmp_path / "notes"
    heard = []
    notes.mkdir()

    def listen(event):
        heard.append(event)
        if isinstance(event, WorkerLost):
            cluster.add_node(num_cpus=1)

    arguments = (number, times, notes)
    cluster.add_node(num_cpus=1)
    executor = RayExecutor(
        address=cluster.address, kind=WorkerKind(actor=Doomed, arguments=arguments)
    )
    try:
        start(job(small, tmp_path / "out", run={"hang_seconds": 600.0}), executor, [listen])
    finally:
        for note in notes.iterdir():
            if Path(f"/proc/{note.name}/comm").exists():
                os.kill(int(note.name), signal.SIGKILL)

    def of(kind):
        return [event for event in heard if isinstance(event, kind)]

    assert published_files(tmp_path / "out") == published_files(tmp_path / "reference")
    assert len(list(notes.iterdir())) == times
    assert len(of(WorkerLost)) >= times
    assert len({event.worker for event in of(WorkerStarted)}) > times
    assert not of(TileGivenUp)
    failed = [event for event in of(BatchFailed) if TILE in event.keys]
    assert len(failed) == times
    assert all("its machine is gone" in event.cause for event in failed)


def test_machines_that_go_while_their_workers_start_are_no_workers_deaths(
    cluster, small, job, serially, tmp_path, published_files
):
    serially(job(small, tmp_path / "reference"))
    notes = tmp_path / "notes"
    lost = []
    notes.mkdir()

    def listen(event):
        if isinstance(event, WorkerLost):
            lost.append(event)
            cluster.add_node(num_cpus=1)

    arguments = (signal.SIGKILL, 2, notes)
    cluster.add_node(num_cpus=1)
    executor = RayExecutor(
        address=cluster.address, kind=WorkerKind(actor=StillBorn, arguments=arguments)
    )
    start(job(small, tmp_path / "out"), executor, [listen])
    assert published_files(tmp_path / "out") == published_files(tmp_path / "reference")
    assert len(list(notes.iterdir())) == 2
    assert len(lost) >= 2
    assert {event.pause for event in lost} == {0.0}


class Held(RayWorker):
    """Hold the first tile until the file `go` is there; `notes` tell on which machines workers are,
    by their raylets.
    """

    def __init__(self, notes):
        super().__init__()
        self._notes = notes
        (notes / f"worker-{os.getppid()}").touch()

    def run(self, call, *after):
        deadline = time.monotonic() + 60
        if not (self._notes / "go").exists():
            (self._notes / f"held-{os.getppid()}").touch()
        while not (self._notes / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return super().run(call, *after)


def test_a_machine_that_goes_while_its_worker_has_nothing_to_do_is_missed_and_replaced(
    cluster, small, job, serially, tmp_path, published_files, eventually
):
    """Only one tile is ready at first, and it is held: no call is under way on the other worker
    when its machine dies.
    """
    serially(job(small, tmp_path / "reference"))
    notes = tmp_path / "notes"
    heard = []
    notes.mkdir()

    def raylets(what):
        return {int(note.name.partition("-")[2]) for note in notes.glob(f"{what}-*")}

    def kill_idle():
        assert eventually(lambda: raylets("held"), seconds=60)
        (idle,) = raylets("worker") - raylets("held")
        os.kill(idle, signal.SIGKILL)

    def listen(event):
        heard.append(event)
        started = sum(isinstance(event, WorkerStarted) for event in heard)
        if isinstance(event, WorkerStarted) and started == 2:
            threading.Thread(target=kill_idle).start()
        elif isinstance(event, WorkerLost):
            cluster.add_node(num_cpus=1)
        elif isinstance(event, WorkerStarted) and started == 3:
            (notes / "go").touch()

    for _ in range(2):
        cluster.add_node(num_cpus=1)
    kind = WorkerKind(actor=Held, arguments=(notes,))
    start(job(small, tmp_path / "out"), RayExecutor(address=cluster.address, kind=kind), [listen])
    kinds = [
        type(event)
        for event in heard
        if isinstance(event, WorkerStarted | WorkerLost | BatchCommitted)
    ]
    assert kinds[:4] == [WorkerStarted, WorkerStarted, WorkerLost, WorkerStarted]
    assert published_files(tmp_path / "out") == published_files(tmp_path / "reference")
