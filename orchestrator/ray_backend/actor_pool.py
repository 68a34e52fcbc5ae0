"""The pool of Ray actors: they join when the cluster has room, are replaced when they die, and go
with their nodes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.errors import RunError
from orchestrator.events import WorkerLost
from orchestrator.ray_backend.actors import WorkerInfo, WorkerKind
from orchestrator.ray_backend.connection import Cluster, first_line
from orchestrator.scheduling.dispatcher import MOST_BATCHES

# Calls of a worker beside batches: `ready` or `close`, and `open`, which takes a while.
OTHER_CALLS = 2
# Worker deaths without any progress in between, beyond one per worker, before the run is given up.
SPARE_DEATHS = 5
# The first replacement starts at once; then pauses begin with the first of these and double up to
# the second, seconds.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
# How long a run waits for a first worker, or for any after all have gone, and how often it says so,
# seconds.
ROOM_SECONDS = 1800.0
REMIND_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Member:
    """A worker: an actor, or one of the slots of one."""

    handle: Any
    slot: int
    name: str = "starting"
    node: str = ""
    traits: dict[str, Any] = field(default_factory=dict)
    """Its device, threads and niceness, once it is ready."""
    heard: float = 0.0
    """When it last reported a batch, s."""
    losses: int = 0
    """Machines that the cluster had lost when it was started."""


def start_actor(kind: WorkerKind, calls: int, *, gpu: bool = False) -> Any:
    """Start a worker process and return its handle; calls: how many may be under way on it."""
    # max_restarts=0: Ray's own restart is slower and keeps a poison tile on one actor; we requeue
    # and replace.
    actor = ray.remote(kind.actor).options(
        num_cpus=1,
        num_gpus=1 if gpu else 0,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=calls,
        enable_task_events=False,
    )
    return actor.remote(*kind.arguments)


def _pause(deaths: int) -> float:
    """Return the seconds until a replacement may start after so many deaths in a row."""
    if deaths < 2:
        return 0.0
    return float(min(FIRST_PAUSE * 2 ** (deaths - 2), LONGEST_PAUSE))


class Pool:
    """Keep as many workers as were asked for and the cluster has room for.

    wanted: workers; None for all that fit. Workers take a GPU each if the cluster has any when the
    run begins.
    """

    def __init__(
        self,
        kind: WorkerKind,
        cluster: Cluster,
        wanted: int | None,
        tell: Callable[[Member, WorkerLost], None],
    ) -> None:
        """tell: of workers that are lost."""
        self._kind = kind
        self._cluster = cluster
        self._wanted = wanted
        self._tell = tell
        self.on_gpu = kind.gpus and cluster.room("GPU") > 0
        self.joining: dict[Any, Member] = {}
        self._members: list[Member] = []
        self._spare: list[Member] = []
        self._deaths = 0
        self._most = 0
        self._not_before = 0.0
        self._alone_since = self._reminded = time.monotonic()
        self.proven = False
        """A worker was once ready for a run: later deaths are bad luck rather than a setting that
        cannot work.
        """
        if wanted and wanted > self._room:
            log.warning("%d workers asked for, the cluster has room for %d", wanted, self._room)

    @property
    def live(self) -> int:
        """Number of workers that take tiles, or soon will."""
        return len(self._members) + len(self.joining)

    @property
    def target(self) -> int:
        """Number of workers that there should be."""
        return min(self._wanted or self._room, self._room)

    @property
    def _room(self) -> int:
        return self._cluster.room("GPU" if self.on_gpu else "CPU") * self._kind.slots

    def fill(self) -> list[Any]:
        """Start the workers that are missing, unless a pause after deaths lasts; return what tells
        that they are ready.
        """
        now = time.monotonic()
        target = self.target
        new = []
        self._most = max(self._most, target)
        if now >= self._not_before:
            new = [self._start() for _ in range(target - self.live)]
        if not self._members:
            self._wait_for_room(now)
        return new

    def joined(self, ref: Any, answer: Future[WorkerInfo]) -> Member | None:
        """Take in a worker that is ready, or record that it could not start."""
        member = self.joining.pop(ref)
        try:
            info = answer.result()
        except RayError as err:
            gone = self._cluster.lost_since(
                member.losses
            )  # on which machine it was to be nobody tells
            self._lost(member, f"did not start: {first_line(err)}", gone=gone)
            return None
        member.name = info.name
        member.node = info.node
        member.traits = {
            "device": info.device,
            "threads": info.threads,
            "niceness": info.niceness,
        }
        self._members.append(member)
        return member

    def lost(self, member: Member, cause: str, *, kill: bool = False, gone: bool = False) -> None:
        """Record a worker's death; kill: it lives, but cannot be used any more; gone: its machine
        is.

        Raises RunError after too many deaths that no machine's end explains.
        """
        if kill:
            ray.kill(member.handle)
        if member in self._members:  # else another of its calls has told already
            self._members.remove(member)
            self._lost(member, cause, gone=gone)

    def progress(self) -> None:
        """Forget the deaths so far: something was done since."""
        self._deaths = 0
        self._not_before = 0.0

    def close(self) -> None:
        """End all workers."""
        members = [*self._members, *self.joining.values()]
        for handle in {id(member.handle): member.handle for member in members}.values():
            ray.kill(handle)
        self._members = []
        self.joining = {}
        self._spare = []

    def _start(self) -> Any:
        if not self._spare:
            calls = self._kind.slots * (MOST_BATCHES + OTHER_CALLS)
            handle = start_actor(self._kind, calls, gpu=self.on_gpu)
            self._spare = [Member(handle, slot) for slot in range(self._kind.slots)]
        member = self._spare.pop()
        member.losses = self._cluster.losses
        ref = member.handle.ready.remote()
        self.joining[ref] = member
        return ref

    def _lost(self, member: Member, cause: str, *, gone: bool = False) -> None:
        self._spare = [spare for spare in self._spare if spare.handle is not member.handle]
        self._alone_since = time.monotonic()
        if gone:
            self._tell(member, WorkerLost(worker=member.name, cause=cause, pause=0.0))
            return
        self._deaths += 1
        pause = _pause(self._deaths)
        self._not_before = time.monotonic() + pause
        self._tell(member, WorkerLost(worker=member.name, cause=cause, pause=pause))
        if self._deaths > self._most + (SPARE_DEATHS if self.proven else 0):
            raise RunError(
                f"workers died {self._deaths} times without finishing a tile; the last: {cause}"
            )

    def _wait_for_room(self, now: float) -> None:
        """Say now and then that nobody works, and give up in the end."""
        if now - self._alone_since > ROOM_SECONDS:
            raise RunError(
                f"no worker could start for {ROOM_SECONDS / 60:.0f} min; is the cluster full or "
                "too small?"
            )
        if now - max(self._alone_since, self._reminded) > REMIND_SECONDS:
            self._reminded = now
            log.warning(
                "waiting for workers: %d are to start, the cluster has room for %d",
                self.live,
                self._room,
            )
