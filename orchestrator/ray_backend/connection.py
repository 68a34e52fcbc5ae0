"""A driver's connection to Ray: a local one that it starts, or a cluster that is there. Watches it
while it is used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.errors import PlanError, RunError
from orchestrator.shutdown import Stop

# Nothing but keys and reports is stored, bytes.
OBJECT_STORE_BYTES = 100_000_000
# How long a cluster's head may take to accept a connection, seconds.
CONNECT_SECONDS = 10.0
# How often the cluster is asked what it has, and how long its head may stay silent; Ray itself
# would end this process after 60 s, without a word of how to go on.
POLL_SECONDS = 2.0
SILENCE_SECONDS = 30.0
# How long the head may take to say whether a machine is gone, seconds.
ANSWER_SECONDS = 3.0
# How long Ray may take to end its processes before this one ends regardless, seconds.
CLOSE_SECONDS = 20.0


class Cluster:
    """What the driver knows of the cluster that it is connected to."""

    def __init__(self) -> None:
        self.resources: dict[str, float] = {}
        self._dead: frozenset[str] = frozenset()
        self._over = threading.Event()
        self._look = threading.Event()
        self._told = threading.Condition()
        self._asked = 0
        """How often."""
        self._answered = 0
        """The last one that was answered."""
        self._ask()
        threading.Thread(target=self._watch, name="cluster watch", daemon=True).start()

    def room(self, resource: str) -> int:
        """Return how many workers that need one `resource` each fit into the cluster now."""
        return int(self.resources.get(resource, 0))

    def lost(self, node: str) -> bool:
        """Tell whether a machine is no longer part of the cluster, as its head sees it now."""
        if node not in self._dead:
            self._ask_anew()
        return node in self._dead

    @property
    def losses(self) -> int:
        """Machines that had gone when the cluster's head was last asked."""
        return len(self._dead)

    def lost_since(self, losses: int) -> bool:
        """Tell whether a machine has gone since there were so many losses, as the cluster's head
        sees it now.
        """
        if self.losses <= losses:
            self._ask_anew()
        return self.losses > losses

    def _ask_anew(self) -> None:
        """Have the head asked after this moment, and wait for its answer for a while."""
        with self._told:
            # What it is being asked now it may have answered before what is to be known.
            wanted = self._asked + 1
            self._look.set()
            self._told.wait_for(lambda: self._answered >= wanted, ANSWER_SECONDS)

    def given_up(self, node: str) -> bool:
        """Tell whether a machine was no longer part of the cluster when its head was last asked."""
        return node in self._dead

    @property
    def silent(self) -> bool:
        """True when the cluster's head has not answered for a while."""
        return time.monotonic() - self._heard > SILENCE_SECONDS

    def check(self) -> None:
        """Raise RunError when the cluster's head has not answered for a while."""
        if self.silent:
            raise RunError(
                f"the head of the Ray cluster has not answered for {SILENCE_SECONDS:.0f} s; "
                "start it again"
            )

    def credit(self, seconds: float) -> None:
        """Leave out a span in which this process itself stood still."""
        self._heard += seconds

    def leave(self) -> None:
        """Stop watching."""
        self._over.set()
        self._look.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._look.wait(POLL_SECONDS)
            self._look.clear()
            if not self._over.is_set():
                with contextlib.suppress(
                    RayError, ConnectionError, RuntimeError, ValueError
                ):  # silence says it all
                    self._ask()

    def _ask(self) -> None:
        with self._told:
            self._asked += 1
        self.resources = dict(ray.cluster_resources())
        self._dead = frozenset(node["NodeID"] for node in ray.nodes() if not node["Alive"])
        self._heard = time.monotonic()
        with self._told:
            self._answered = self._asked
            self._told.notify_all()


@contextlib.contextmanager
def connected(address: str | None, cpus: int, stop: Stop) -> Iterator[Cluster]:
    """Connect to the cluster at `address`, or start Ray here with at least `cpus` CPUs; a Ray that
    is there is used.

    Raises RunError when that fails.
    """
    keeper = None if ray.is_initialized() else _Keeper(address, cpus)
    try:
        if keeper is not None:
            keeper.open(stop)
        cluster = Cluster()
    except BaseException:
        if keeper is not None:
            keeper.close()
        raise
    try:
        yield cluster
    finally:
        cluster.leave()
        if keeper is not None and not cluster.silent:
            keeper.close()


class _Keeper:
    """A thread that starts Ray, waits, and ends it.

    Ray puts handlers of its own on SIGTERM while it starts in the main thread, and a signal in that
    moment is lost or ends the process without a word; in another thread it cannot. The thread has
    to live as long as Ray, because Linux ends Ray's processes with the thread that started them.
    """

    def __init__(self, address: str | None, cpus: int) -> None:
        self._address = address
        self._cpus = cpus
        self._error: BaseException | None = None
        self._up = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="Ray's keeper", daemon=True)

    def open(self, stop: Stop) -> None:
        self._thread.start()
        while not self._up.wait(0.1):
            pass  # a signal is handled between two waits
        stop.listen_again()  # Ray's C++ part has put a handler on SIGTERM that prints a stack first
        if self._error is not None:
            where = self._address or "this machine"
            raise RunError(
                f"cannot start or reach Ray on {where}: {first_line(self._error)}; "
                f"check --address{self._token_hint()}"
            ) from None

    def _token_hint(self) -> str:
        """Return what else to check where something listens that Ray cannot talk to; Ray does not
        say why.
        """
        if self._address is None or not isinstance(self._error, ConnectionError):
            return ""
        return " and RAY_AUTH_TOKEN: the cluster may want another authentication token"

    def close(self) -> None:
        self._over.set()
        self._thread.join(CLOSE_SECONDS)

    def _keep(self) -> None:
        try:
            ray.init(**self._options())
        except (ConnectionError, RuntimeError, ValueError, RayError, OSError) as err:
            self._error = err
        finally:
            self._up.set()
        self._over.wait()
        ray.shutdown()

    def _options(self) -> dict[str, Any]:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is not None:
            return {"address": self._address, **quiet}
        return {
            # Whatever RAY_ADDRESS says: a cluster is used when --address names it.
            "address": "local",
            "num_cpus": max(self._cpus, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            # Ray's default of 15 starves workers on a busy machine.
            "_system_config": {"worker_niceness": 0},
            **quiet,
        }


def check_reachable(address: str) -> None:
    """Raise PlanError when nothing listens at HOST:PORT; Ray itself would try for five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto", or something that Ray itself refuses at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as err:
        raise PlanError(
            f"no Ray cluster answers at {address} ({err}); check --address, or leave it out"
        ) from None


def first_line(err: BaseException) -> str:
    """Return what went wrong on one line: of a remote traceback the last line, which names the
    error.
    """
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
