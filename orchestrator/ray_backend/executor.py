"""The Ray executor: the frontier's loop over actors. Keys and small reports travel through Ray,
never pixels.

It serves one run or several at a time: they share the actors, each of which opens every run once.
What goes wrong with a run ends that run; what goes wrong with the actors or the cluster ends all.
"""

from __future__ import annotations

import math

from orchestrator.ray_backend.actor_pool import Pool
from orchestrator.ray_backend.actors import WorkerKind
from orchestrator.ray_backend.connection import Cluster, check_reachable, connected
from orchestrator.ray_backend.driver_loop import DriverLoop
from orchestrator.ray_backend.driver_state import DriverState
from orchestrator.ray_backend.event_queue import EventQueue
from orchestrator.ray_backend.run_registry import RunRegistry
from orchestrator.run.run_queue import RunQueue
from orchestrator.run.session import Session
from orchestrator.scheduling.batch_policy import CPU_BATCH, GPU_BATCH
from orchestrator.scheduling.dispatcher import Dispatcher
from orchestrator.shutdown import Stop


class RayExecutor:
    """Run tiles on Ray actors: one per GPU where there are GPUs, CPU actors otherwise.

    address: of a running cluster, HOST:PORT or auto; None starts Ray on this machine. stop: who may
    ask to end. Raises PlanError when nobody answers there.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        batch: int | None = None,
        address: str | None = None,
        kind: WorkerKind | None = None,
        stop: Stop | None = None,
    ) -> None:
        if address is not None:
            check_reachable(address)
        self.workers = workers
        self.batch = batch
        self.address = address
        self._kind = kind or WorkerKind()
        self._stop = stop or Stop()

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end.

        Raises RunError when workers keep dying or the cluster is gone, OSError when the disk is
        full, KeyboardInterrupt when asked to stop.
        """
        run_queue = RunQueue()
        ended = run_queue.put(session)
        run_queue.close()
        self.serve(run_queue)
        ended.result()

    def serve(self, run_queue: RunQueue) -> None:
        """Drive the frontiers of all sessions that arrive to their ends, all of them on the same
        workers.

        Raises RunError when workers keep dying or the cluster is gone, KeyboardInterrupt when asked
        to stop; all sessions then end with it.
        """
        try:
            if not run_queue.wait():
                return
            cpus = math.ceil((self.workers or 1) / self._kind.slots)
            with connected(self.address, cpus, self._stop) as cluster:
                state = self._begin(cluster)
                DriverLoop(state, run_queue, self._stop, gather=self._kind.gather).run()
        except BaseException as err:
            run_queue.refuse(err)
            raise

    def _begin(self, cluster: Cluster) -> DriverState:
        queue = EventQueue()
        registry = RunRegistry(queue)
        pool = Pool(self._kind, cluster, self.workers, registry.tell_lost)
        most = self.batch or (GPU_BATCH if pool.on_gpu else CPU_BATCH)
        return DriverState(
            cluster=cluster,
            queue=queue,
            registry=registry,
            pool=pool,
            dispatcher=Dispatcher(most),
        )
