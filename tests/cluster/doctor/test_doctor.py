"""The doctor: what it says of a machine, of a store, and of the nodes of a real Ray cluster."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.doctor import machine as doctor_machine
from cluster.doctor.check import Check
from cluster.doctor.nodes import compared, judge_clock, judge_ways
from tests.places import ROOT

H200 = "NVIDIA H200, 570.86"


@pytest.mark.parametrize(
    ("listed", "usable", "cuda", "verdict", "word"),
    [
        ([H200], ["NVIDIA H200 (150 GB)"], "12.8", "ok", "570.86"),
        (None, ["NVIDIA H200 (150 GB)"], "12.8", "ok", "driver unknown"),
        ([H200, H200], ["NVIDIA H200 (150 GB)"], "12.8", "warn", "CUDA_VISIBLE_DEVICES"),
        ([H200], [], None, "fail", "CUDA build"),
        ([H200], [], "13.0", "fail", "update driver 570.86"),
        (None, [], None, "warn", "CPU cores"),
        ([], [], "12.8", "warn", "CPU cores"),
    ],
)
def test_what_is_said_of_gpus(listed, usable, cuda, verdict, word, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (check,) = doctor_machine.judge_gpus(listed, usable, cuda)
    assert check.verdict == verdict
    assert word in check.text


def test_hidden_gpus_are_named_as_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (check,) = doctor_machine.judge_gpus([H200], [], "12.8")
    assert (check.verdict, "unset CUDA_VISIBLE_DEVICES" in check.text) == ("fail", True)


def test_a_good_store_is_tried_and_left_as_it_was(tmp_path):
    checks = doctor_machine.try_store(tmp_path / "not" / "there")
    assert [(check.verdict, check.name) for check in checks] == [
        ("ok", "file system"),
        ("ok", "locks"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_takes_no_files_fails_with_advice():
    (check,) = doctor_machine.try_store(Path("/proc"))
    assert check.verdict == "fail"
    assert check.text.endswith("choose another folder for OUT")


def test_a_store_whose_clock_is_off_is_told(tmp_path, monkeypatch):
    now = doctor_machine.time.time
    monkeypatch.setattr(doctor_machine.time, "time", lambda: now() - 3600)
    checks = {check.name: check for check in doctor_machine.try_store(tmp_path)}
    assert checks["store clock"].verdict == "warn"
    assert "+36" in checks["store clock"].text


def test_a_port_that_ray_wants_and_somebody_has_is_told(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor_machine, "RAY_PORTS", {port: "its head"})
        (check,) = doctor_machine.ports()
        assert (check.verdict, str(port) in check.text, "--port" in check.text) == (
            "warn",
            True,
            True,
        )
    (check,) = doctor_machine.ports()
    assert check.verdict == "ok"


@pytest.mark.parametrize(
    ("skew", "spread", "verdict"),
    [
        (0.1, 0.01, "ok"),
        (-3.0, 0.1, "warn"),
        (3.0, 2.0, "ok"),
        (1000.0, 1.0, "fail"),
        (-1000.0, 1.0, "fail"),
    ],
)
def test_clocks_are_judged_beyond_what_the_way_may_be(skew, spread, verdict):
    assert judge_clock(skew, spread).verdict == verdict


def test_ways_that_are_closed_are_named():
    assert judge_ways(()).verdict == "ok"
    found = judge_ways(("10.0.0.2 (abc)",))
    assert (found.verdict, "10.0.0.2" in found.text) == ("fail", True)


@pytest.mark.parametrize(
    ("name", "there", "here", "verdict"),
    [
        ("code", "abc in /opt", "abc in /home", "ok"),
        ("code", "def in /opt", "abc in /opt", "fail"),
        ("python", "3.11.2", "3.11.9", "ok"),
        ("python", "3.12.2", "3.11.9", "fail"),
        (
            "packages",
            "ray 2.60.0, torch 2.13.0+cu128, rich 15",
            "ray 2.60.0, torch 2.13.0+cpu, rich 14",
            "ok",
        ),
        ("packages", "ray 2.59.0, torch 2.13.0", "ray 2.60.0, torch 2.13.0", "fail"),
        ("built-in network", "content a", "content b", "fail"),
        ("memory", "1 GB", "2 GB", "ok"),
    ],
)
def test_a_node_with_other_software_fails(name, there, here, verdict):
    found = compared(Check("ok", name, there), [Check("ok", name, here)])
    assert found.verdict == verdict


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_fails(cli, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        ended = cli("doctor", tmp_path, "--address", address)
    assert ended.code == 1
    assert f"fail  cluster: Ray: no Ray cluster answers at {address}" in ended.out


@pytest.fixture
def two_nodes(monkeypatch, tmp_path):
    """A Ray cluster of two nodes, on the second of which somebody else's `kernels` comes first; its
    address.
    """
    from ray.cluster_utils import Cluster

    (tmp_path / "foreign" / "kernels").mkdir(parents=True)
    (tmp_path / "foreign" / "kernels" / "__init__.py").write_text("")
    for name, value in {
        "HOME": str(tmp_path),  # no token of this machine's user is found there
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100_000_000)
        path = f"{tmp_path / 'foreign'}{os.pathsep}{ROOT}"
        cluster.add_node(num_cpus=2, object_store_memory=100_000_000, env_vars={"PYTHONPATH": path})
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_every_node_of_a_cluster_is_checked_and_compared(two_nodes, tmp_path):
    command = [
        sys.executable,
        "-m",
        "cluster",
        "doctor",
        tmp_path,
        "--address",
        two_nodes,
        "--nodes",
        "--json",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (ended.returncode, bool(ended.stdout)) == (1, True), ended.stderr
    checks = json.loads(ended.stdout)
    by_node = {}
    for check in checks:
        by_node.setdefault(check["node"], {})[check["name"]] = check
    (whole,) = by_node.pop("cluster").values()
    assert (whole["verdict"], "2 nodes, 3 CPUs" in whole["text"]) == ("ok", True)
    here = by_node.pop("")
    assert len(by_node) == 2
    shadowed = []
    for found in by_node.values():
        assert {
            name: check["verdict"]
            for name, check in found.items()
            if name in ("clock", "ways", "code")
        } == {
            "clock": "ok",
            "ways": "ok",
            "code": "ok",
        }
        assert set(here) - {"import names"} <= set(found)
        shadowed.append(found["import names"]["verdict"])
    assert sorted(shadowed) == ["fail", "ok"]
    assert here["import names"]["verdict"] == "ok"
