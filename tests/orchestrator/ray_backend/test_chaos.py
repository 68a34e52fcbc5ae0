"""Chaos on a real small restoration: workers, a node's raylet and the driver are killed at random,
again and again.
"""

import os
import random
import signal
import time
import uuid
from collections import Counter

import pytest

from orchestrator.run_folder import RunDir
from storage.run_store.journal import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 8
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
    "--steps",
    STEPS,
]
TILES = 24
# Who dies, in random order: at least 25 in all, and all of each kind.
VICTIMS = ["worker"] * 17 + ["driver"] * 4 + ["raylet"] * 4
# A machine counts as gone when its raylet has not answered for about three seconds, instead of
# fifteen.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
PATIENCE = 1200
AT_LAST = 90


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two nodes on this machine, whose processes carry a mark; yields (cluster,
    mark).
    """
    from ray.cluster_utils import Cluster

    mark = uuid.uuid4().hex
    monkeypatch.setenv("GIGARESTORE_TEST_MARKER", mark)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": HEALTH},
    )
    try:
        yield found, mark
    finally:
        found.shutdown()


def test_a_run_ends_with_the_same_bytes_whatever_dies_on_the_way(
    cluster,
    small,
    job,
    serially,
    tmp_path,
    start_command,
    published_files,
    unfinished_files,
    marked_processes,
    eventually,
):
    serially(job(small, tmp_path / "reference", sampling={"steps": STEPS}))
    wanted = published_files(tmp_path / "reference")
    ray_cluster, mark = cluster
    node = ray_cluster.add_node(num_cpus=1)
    where = ["--executor", "ray", "--address", ray_cluster.address, "--workers", 2, "--quiet"]
    rng = random.Random(0)
    victims = rng.sample(VICTIMS, len(VICTIMS))
    killed = Counter()
    outs = []
    driver = None
    deadline = time.monotonic() + PATIENCE

    def begin():
        if not outs or RunDir(outs[-1]).published:  # it was quicker than we: once more, elsewhere
            outs.append(tmp_path / f"out{len(outs)}")
        run = RunDir(outs[-1])
        command = (
            ["resume", run.root]
            if run.journal.exists()
            else ["restore", small, run.root, *OPTIONS, "--overwrite"]
        )
        return start_command(*command, *where, cwd=tmp_path, marker=mark)

    try:
        while victims or driver.poll() is None or not RunDir(outs[-1]).published:
            assert time.monotonic() < deadline, (
                killed,
                driver.communicate() if driver.poll() is not None else "",
            )
            if driver is None or driver.poll() is not None:
                if driver is not None and driver.returncode not in (0, 1, -signal.SIGKILL):
                    raise AssertionError(driver.communicate())
                if not victims and RunDir(outs[-1]).published:
                    break
                driver = begin()
            time.sleep(rng.uniform(0.3, 1.5))
            if not victims:
                continue
            match victims[-1]:
                case "worker":
                    workers = [
                        pid for pid, name in marked_processes(mark).items() if "RayWorker" in name
                    ]
                    if not workers:
                        continue
                    os.kill(rng.choice(workers), signal.SIGKILL)
                case "driver":
                    journal = RunDir(outs[-1]).journal
                    if driver.poll() is not None or not journal.exists():
                        continue
                    driver.kill()
                    driver.communicate()
                case "raylet":
                    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
                    ray_cluster.remove_node(node, allow_graceful=False)
                    node = ray_cluster.add_node(num_cpus=1)
            killed[victims.pop()] += 1
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
            driver.communicate()
    assert killed.total() == len(VICTIMS) >= 25
    assert set(killed) == {"worker", "driver", "raylet"}
    for out in outs:
        assert published_files(out) == wanted
        records = list(read_records(RunDir(out).journal))
        assert len(records) == len(set(records)) == TILES
        assert not unfinished_files(out)
    ray_cluster.shutdown()
    assert eventually(lambda: not marked_processes(mark), seconds=AT_LAST), marked_processes(mark)
