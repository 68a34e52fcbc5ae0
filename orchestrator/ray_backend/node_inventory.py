"""What the nodes of a Ray cluster are, what a command says on each of them, and what their clocks
say.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.ray_backend.connection import connected, first_line
from orchestrator.shutdown import Stop

# Readings of a node's clock; that with the shortest way there and back counts.
READINGS = 5
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswer:
    """What one node answered."""

    name: str
    """Its address, with the beginning of its Ray id."""
    resources: dict[str, float]
    error: str | None = None
    """Why there is no answer."""
    code: int = -1
    out: str = ""
    err: str = ""
    skew: float = 0.0
    """Its clock minus ours, s."""
    spread: float = 0.0
    """How much of that the way there and back may be, s."""
    unreachable: tuple[str, ...] = ()
    """Other nodes whose Ray does not answer this one."""


def this_node() -> str:
    """Return Ray's name of this machine; raises RuntimeError outside of Ray."""
    return str(ray.get_runtime_context().get_node_id())


def ask_nodes(address: str, module: Sequence[str] | None, timeout: float) -> list[NodeAnswer]:
    """List the living nodes; with a module run `python -m MODULE...` on each, all at the same time.

    The node's own Python runs it, with this process's import path behind its own. Raises RunError
    when Ray cannot be reached.
    """
    with connected(address, 1, Stop(0.0)):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if module is None:
            return [NodeAnswer(name=_name(node), resources=node["Resources"]) for node in nodes]
        places = {
            _name(node): (node["NodeManagerAddress"], node["NodeManagerPort"]) for node in nodes
        }
        deadline = time.monotonic() + timeout
        asked = [(node, _ask(node, list(module), timeout, places)) for node in nodes]
        return [_answer(node, ref, max(deadline - time.monotonic(), 0.0)) for node, ref in asked]


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def _options(node: dict[str, Any]) -> dict[str, Any]:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}


def _ask(
    node: dict[str, Any], module: list[str], timeout: float, places: dict[str, tuple[str, int]]
) -> Any:
    others = {name: place for name, place in places.items() if name != _name(node)}
    return ray.remote(_run).options(**_options(node)).remote(module, timeout, others, sys.path)


def _answer(node: dict[str, Any], ref: Any, seconds: float) -> NodeAnswer:
    name = _name(node)
    resources = node["Resources"]
    try:
        code, out, err, unreachable = ray.get(ref, timeout=seconds)
        skew, spread = _clock(node, seconds)
    except GetTimeoutError:
        return NodeAnswer(name=name, resources=resources, error="it does not answer in time")
    except RayError as error:
        return NodeAnswer(name=name, resources=resources, error=first_line(error))
    return NodeAnswer(
        name=name,
        resources=resources,
        code=code,
        out=out,
        err=err,
        skew=skew,
        spread=spread,
        unreachable=tuple(unreachable),
    )


def _clock(node: dict[str, Any], seconds: float) -> tuple[float, float]:
    """Return how far a node's clock is ahead of ours, and how uncertain that is."""
    read = ray.remote(_now).options(**_options(node))
    best = (0.0, float("inf"))
    for _ in range(READINGS):
        before = time.time()
        there = ray.get(read.remote(), timeout=seconds)
        after = time.time()
        best = min(
            best,
            (there - (before + after) / 2, (after - before) / 2),
            key=lambda reading: reading[1],
        )
    return best


def _now() -> float:
    return time.time()


def _run(
    module: list[str], timeout: float, others: dict[str, tuple[str, int]], path: list[str]
) -> tuple[int, str, str, list[str]]:
    """Run the module in a process of its own, which sees the node's GPUs: Ray hides them from a
    task without any.
    """
    env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH", ""), *path]))
    silent = []
    for name, place in others.items():
        try:
            socket.create_connection(place, CONNECT_SECONDS).close()
        except OSError:
            silent.append(name)
    done = subprocess.run(
        [sys.executable, "-m", *module],
        capture_output=True,
        text=True,
        env=env,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr, silent
