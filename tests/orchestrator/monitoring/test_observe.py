"""What people see of a run: the chain that is left, its pace, status, report and timeline, and
Prometheus' figures.
"""

import importlib.util
import json
import socket
import time
import urllib.request
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.event_log import EventLog, read_events
from orchestrator.events import (
    BatchCommitted,
    RegionFinished,
    RunFinished,
    RunStarted,
    WorkerLost,
    WorkerStarted,
)
from orchestrator.monitoring.history import COLUMNS, read_history, read_summary
from orchestrator.monitoring.run_progress import read_status
from orchestrator.monitoring.run_summary import RunSummary
from orchestrator.monitoring.throughput import RECENT, Throughput
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from orchestrator.scheduling.remaining_path import RemainingPath
from orchestrator.tiling.grid import TileGrid, TileKey
from orchestrator.tiling.parallelism import critical_path
from orchestrator.tiling.task_graph import TaskGraph


def graph_of(height, width, order):
    grids = [
        TileGrid.build(k, height >> k, width >> k, 32, 16, order, 0, 2, corners=k == 0)
        for k in (0, 1)
    ]
    return TaskGraph(grids, 2)


@given(
    st.integers(4, 16),
    st.integers(4, 16),
    st.sampled_from(["raster", "centre"]),
    st.randoms(use_true_random=False),
)
@pytest.mark.slow
def test_the_chain_that_is_left_only_shrinks_and_ends_at_nothing(rows, cols, order, random):
    graph = graph_of(rows * 16, cols * 16, order)
    frontier = Frontier(graph)
    path = RemainingPath(graph)
    before = path.length
    assert max(grid.longest_chain for grid in graph.grids) == before <= critical_path(graph.grids)
    while frontier.ready:
        keys = frontier.take(random.randint(1, 5))
        frontier.committed(keys)
        path.committed(keys)
        assert before - len(keys) <= path.length <= before
        before = path.length
    assert frontier.finished
    assert before == 0


def test_a_resumed_run_counts_only_what_is_left():
    graph = graph_of(96, 96, "raster")
    frontier = Frontier(graph)
    path = RemainingPath(graph)
    done = []
    while len(done) < graph.count // 2:
        done += (keys := frontier.take(2))
        frontier.committed(keys)
        path.committed(keys)
    assert RemainingPath(graph, done).length == path.length > 0


def test_the_time_left_is_that_of_the_work_or_of_the_chain():
    pace = Throughput()
    pace.started(100.0, tiles=1000, done=0)
    assert pace.seconds_left(100.0) is None
    for second in range(1, 11):  # ten workers: ten tiles a second, each taking 1 s
        pace.committed(100.0 + second, seconds=1.0, tiles=10, nfe=50, path=20)
    assert pace.nfe_per_second(110.0) == pytest.approx(50)
    assert pace.batch == 10
    assert pace.seconds_left(110.0) == pytest.approx(90)  # 900 tiles at 10 a second
    pace.committed(110.0, seconds=1.0, tiles=0, nfe=0, path=400)
    assert pace.seconds_left(110.0) == pytest.approx(
        400
    )  # a chain of 400 that no worker can shorten


def test_the_pace_forgets_what_is_long_ago():
    pace = Throughput()
    pace.started(0.0, tiles=10**6, done=0)
    for i in range(RECENT):
        pace.committed(100.0 * (i + 1), seconds=100.0, tiles=1, nfe=1, path=1)
    slow = pace.nfe_per_second(100.0 * RECENT)
    for i in range(RECENT):
        pace.committed(100.0 * RECENT + i + 1, seconds=1.0, tiles=1, nfe=1, path=1)
    assert slow == pytest.approx(0.01)
    assert pace.nfe_per_second(100.0 * RECENT + RECENT) == pytest.approx(1.0)


def written(path, events):
    log = EventLog(path)
    for event in events:
        log(event)
    log.close()
    return path


def test_a_history_sums_what_workers_did_and_ignores_the_line_that_a_dying_driver_wrote(tmp_path):
    keys = ((1, 0, 0), (1, 0, 1))
    path = written(
        tmp_path / "events.jsonl",
        [
            RunStarted(tiles=10, done=0, executor="ray"),
            WorkerStarted(worker="a", device="cpu"),
            BatchCommitted(worker="a", keys=keys, seconds=0.0, nfe=8),
            WorkerLost(worker="a", cause="killed"),
            WorkerLost(worker="starting", cause="did not start"),
            RunStarted(tiles=10, done=2, executor="ray"),
            WorkerStarted(worker="b", device="cpu"),
            BatchCommitted(worker="b", keys=((0, 0, 0),), seconds=0.0, nfe=3, filled=1),
            RunFinished(outcome="interrupted", seconds=1.0),
        ],
    )
    with path.open("a") as file:
        file.write('{"time": 1, "event": "BatchComm')
    summary = read_summary(path)
    assert (summary.attempts, summary.done, summary.committed) == (2, 3, 3)
    assert (summary.nfe, summary.filled, summary.outcome) == (11, 1, "interrupted")
    workers = summary.times.workers
    assert workers["a"].left is not None
    assert workers["b"].left is None
    assert set(workers) == {"a", "b"}
    assert [text for _, text in summary.notes] == [
        "worker a lost: killed",
        "worker starting lost: did not start",
    ]


def test_busy_time_is_spread_over_the_columns_in_which_it_was_spent(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [{"time": 0.0, "event": "RunStarted", "tiles": 3, "done": 0}]
    for end, seconds, level in ((10.0, 10.0, 1), (20.0, 5.0, 0), (100.0, 40.0, 0)):
        lines.append(
            {
                "time": end,
                "event": "BatchCommitted",
                "worker": "w",
                "keys": [[level, 0, 0]],
                "seconds": seconds,
                "nfe": 1,
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_history(path)
    worker = found.workers["w"]
    columns = found.columns["w"]
    assert found.summary.seconds == 100.0
    assert worker.busy == pytest.approx(55.0)
    assert found.utilisation(worker) == pytest.approx(0.55)
    assert sum(column.fine for column in columns.values()) == pytest.approx(45.0)
    assert sum(column.coarse for column in columns.values()) == pytest.approx(10.0)
    assert max(columns) <= COLUMNS
    assert all(column.fine + column.coarse <= found.column * 1.001 for column in columns.values())


def test_a_batch_was_worked_on_until_it_ended_not_until_its_record_was_written(tmp_path):
    now = time.time()
    batch = BatchCommitted(worker="w", keys=((0, 0, 0),), seconds=20.0, nfe=1, ended=now - 30.0)
    path = written(tmp_path / "events.jsonl", [RunStarted(tiles=1, done=0, executor="ray"), batch])
    found = read_history(path)
    assert found.summary.seconds == pytest.approx(50.0, abs=5.0)
    worked = found.columns["w"]
    assert max(worked) <= 0.5 * COLUMNS
    assert sum(column.fine for column in worked.values()) == pytest.approx(20.0)


@pytest.mark.slow
def test_a_worker_that_is_lost_is_not_counted_again_when_its_last_batch_becomes_durable(
    tmp_path, small, job, serially
):
    out = tmp_path / "out"
    told = []

    def lose(event):
        if isinstance(event, WorkerStarted):
            written(RunDir(out).events, [WorkerLost(worker=event.worker, cause="killed")])
        elif isinstance(event, BatchCommitted):
            told.append(read_status(out))

    serially(job(small, out, sampling={"intent": "faithful", "steps": 1}), [lose])
    assert {(status["state"], status["workers"]) for status in told} == {("running", 0)}
    assert told[-1]["done"] > 1


@pytest.mark.slow
def test_status_and_report_tell_of_a_finished_run(small, job, serially, tmp_path, cli):
    serially(job(small, tmp_path / "out", sampling={"intent": "faithful", "steps": 1}))
    told = json.loads(cli("status", tmp_path / "out", "--json").out)
    assert (told["state"], told["done"], told["seconds_left"]) == ("published", told["tiles"], None)
    assert told["path_left"] == 0
    picture = tmp_path / "picture.svg"
    facts = json.loads(cli("report", tmp_path / "out", "--file", picture, "--json").out)
    assert facts["outcome"] == "published"
    assert facts["done"] == facts["tiles"] == told["tiles"]
    assert sum(worker["tiles"] for worker in facts["workers"]) == facts["tiles"]
    drawn = ElementTree.fromstring(picture.read_text())
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 1
    assert "timeline: " in cli("report", tmp_path / "out").out


def test_all_views_of_a_run_count_the_same_tiles(small, job, serially, tmp_path):
    """What listeners sum while it runs, what the log says and what the journal says agree."""
    heard = RunSummary()
    views = []

    def listen(event):
        heard.add(event, time.time())
        if isinstance(event, BatchCommitted):
            views.append((heard.done, read_summary(RunDir(tmp_path / "out").events).done))

    serially(job(small, tmp_path / "out", sampling={"intent": "faithful", "steps": 1}), [listen])
    assert [live for live, _ in views] == [logged for _, logged in views]
    status = read_status(tmp_path / "out")
    assert (status["done"], status["tiles"]) == (heard.done, heard.tiles)
    assert heard.outcome == "published"


def test_logs_of_older_versions_are_read(tmp_path):
    lines = [
        {"time": 5.0, "event": "RunStarted", "tiles": 3, "done": 1, "executor": "ray"},
        {"time": 6.0, "event": "SomethingElse", "about": "nobody knows"},
        {"time": 9.0, "event": "BatchCommitted", "worker": "w", "keys": [[0, 0, 0]], "seconds": 1.0}
        | {"nfe": 2},
        {"time": 9.5, "event": "BatchFailed", "worker": "w", "keys": [[0, 0, 1]], "cause": "odd"},
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    logged = list(read_events(path))
    assert logged[1].event == BatchCommitted(
        worker="w", keys=((0, 0, 0),), seconds=1.0, nfe=2, ended=9.0
    )
    summary = read_summary(path)
    assert (summary.done, summary.tiles, summary.failures, summary.last_failure) == (2, 3, 1, "odd")


def test_workers_of_a_region_have_left_when_it_is_finished():
    summary = RunSummary()
    summary.add(RunStarted(tiles=4, done=0), 0.0)
    for name in "ab":
        summary.add(WorkerStarted(worker=name, device="cpu"), 1.0)
    summary.add(
        BatchCommitted(worker="a", keys=((0, 0, 0),), seconds=1.0, nfe=1, region=0, ended=2.0), 2.0
    )
    assert summary.times.present == 2
    summary.add(RegionFinished(region=0), 3.0)
    assert summary.times.present == 0
    summary.add(WorkerStarted(worker="a", device="cpu"), 4.0)
    assert (summary.times.present, summary.done) == (1, 1)


def test_a_report_of_nothing_is_refused(tmp_path, cli):
    ended = cli("report", tmp_path / "none")
    assert ended.code == 2
    assert ended.complaint.count("\n") <= 1


AGENT = importlib.util.find_spec("prometheus_client") and importlib.util.find_spec("opencensus")


@pytest.mark.skipif(not AGENT, reason="Ray's metrics agent needs ray[default]")
def test_prometheus_can_scrape_a_run(small, tmp_path):
    import ray

    from orchestrator.ray_backend.prometheus import RayMetrics

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(address="local", num_cpus=1, include_dashboard=False, _metrics_export_port=port)
    try:
        metrics = RayMetrics("out", 10)
        metrics(BatchCommitted(worker="w", keys=(TileKey(0, 0, 0),), seconds=1.5, nfe=5))
        metrics.flush()
        lines = []
        deadline = time.monotonic() + 90
        while not lines and time.monotonic() < deadline:
            time.sleep(1)
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/metrics", timeout=5
                ) as answer:
                    lines = [
                        line
                        for line in answer.read().decode().splitlines()
                        if "gigarestore_tiles_left{" in line
                    ]
            except OSError:
                continue
        assert [line.rsplit(" ", 1)[1] for line in lines] == ["9.0"]
    finally:
        ray.shutdown()
