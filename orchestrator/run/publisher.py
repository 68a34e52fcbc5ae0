"""Publisher: publish super-blocks while the run goes on, and delete the cells that nobody reads any
more.

A shard is durable before anything that it was made of is deleted; which ones exist is all that a
later attempt needs to know. Beside a cluster's driver a process of its own does it, so that the
driver holds no pixels; that process reads "ROW COL" lines, answers each with a line, and ends with
its driver.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, Self

from orchestrator.errors import RunError
from orchestrator.job.plan import Plan
from orchestrator.retry import retry_store
from orchestrator.run import publish_image as publish
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.cell_lifetime import Block, CellLifetime
from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.level_cells import LevelCells
from storage.box import Box
from storage.errors import FormatError, one_line

# Super-blocks that may wait for the publisher before the driver does: 1.6 GB of RGB cells.
MOST_WAITING = 32
# How long a publisher may take for its last block when a run ends early, seconds.
PATIENCE = 30.0
# What the helper answers: done, or the store failed with this errno, or a message.
_DONE = "ok"
_STORE = "errno "

_log = logging.getLogger(__name__)


class Publisher:
    """The sink of a session. Use it as a context manager: leaving it ends what runs beside the
    driver.
    """

    def __init__(
        self,
        run: RunDir,
        plan: Plan,
        frontier: Frontier,
        *,
        beside: bool,
        reclaim: bool,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """beside: publish in a process of its own. reclaim: delete cells that nobody reads any
        more.

        fence: raises SupersededError when another attempt has taken over, which may need cells
        again.
        """
        self._run = run
        self._plan = plan
        self._fence = fence
        writer = publish.begin(run, plan)
        blocks = publish.super_blocks(plan)
        there = [place for place in writer.levels[0].places() if writer.has(0, *place)]
        self._lifetime = CellLifetime(blocks, frontier, there, reclaim=reclaim)
        self._cells = [LevelCells.open(run, level) for level in plan.levels]
        self._helper = _Helper(run, plan) if beside else None
        self._thread = ThreadPoolExecutor(1) if beside else None
        self._waiting: dict[Future[None], Block] = {}
        ready, free = self._lifetime.resumed()
        self._delete(free)
        self._publish(ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._helper is not None and self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._helper.end()
            self._thread.shutdown()

    def committed(self, keys: Sequence[TileKey]) -> None:
        """Publish what these tiles complete and delete what only they still read; see
        `PublishSink.committed`.
        """
        ready, free = self._lifetime.committed(keys)
        if ready or free:
            self._fence()
        self._delete(free)
        self._publish(ready)
        self._collect(MOST_WAITING)

    def finish(self) -> None:
        """Publish what is left and make the image appear; all tiles are committed."""
        self._publish(self._lifetime.left())
        self._collect(0)
        self._fence()
        _resumable(lambda: publish.finish(self._run, self._plan))

    def _publish(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            if self._thread is None or self._helper is None:
                self._unless_superseded(partial(_publish_block, self._run, self._plan, block))
                self._delete(self._lifetime.published(block))
            else:
                self._waiting[self._thread.submit(self._helper.publish, block)] = block

    def _collect(self, most: int) -> None:
        """Act on the blocks that are published by now; wait while more than `most` are not."""
        for future in list(self._waiting):  # in the order in which they were asked for
            if future.done() or len(self._waiting) > most:
                self._unless_superseded(future.result)
                self._delete(self._lifetime.published(self._waiting.pop(future)))

    def _unless_superseded(self, act: Callable[[], None]) -> None:
        """Do something; what goes wrong because a later attempt has cleared the working arrays away
        is that.
        """
        try:
            act()
        except (RunError, OSError):
            self._fence()
            raise

    def _delete(self, keys: Iterable[TileKey]) -> None:
        for key in keys:
            cells = self._cells[key.level]
            box = Box(*self._plan.levels[key.level].grid.owned(key))
            retry_store(partial(cells.delete, box), self._plan.spec.run.store_seconds, _trouble)


def _trouble(cause: str) -> None:
    _log.warning("the store failed, trying again: %s", cause)


class _Helper:
    """A process that publishes one block at a time."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        # A session of its own: Ctrl-C is the driver's to handle. Python finds this package as the
        # driver did.
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.run.publisher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        )
        self._send(pickle.dumps((run, plan)))

    def publish(self, block: Block) -> None:
        """Publish a block; raises OSError when the store fails, RunError for another reason or when
        the process died.
        """
        self._send(f"{block[0]} {block[1]}\n".encode())
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().decode().strip()
        if answer.startswith(_STORE):
            raise OSError(
                int(answer.removeprefix(_STORE)), os.strerror(int(answer.removeprefix(_STORE)))
            )
        if answer != _DONE:
            raise RunError(answer or f"the publishing process died with super-block {block}")

    def end(self) -> None:
        """End the process, after the block that it is at."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead already
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RunError("the publishing process died") from None


def _publish_block(run: RunDir, plan: Plan, block: Block) -> None:
    """Publish a block, patient with a store that fails or shows cells late."""
    seconds = plan.spec.run.store_seconds
    _resumable(
        lambda: retry_store(lambda: publish.publish_block(run, plan, *block), seconds, _log.warning)
    )


def _resumable(act: Callable[[], None]) -> None:
    """Run a step of publishing; damaged or lost pixels leave a run that can be resumed."""
    try:
        act()
    except FormatError as err:
        raise RunError(f"publishing failed: {one_line(err)}") from err


def _serve(lines: BinaryIO) -> None:
    """Publish what the driver asks for until it closes the pipe or dies."""
    run, plan = pickle.load(lines)
    for line in lines:
        row, col = map(int, line.split())
        try:
            _publish_block(run, plan, (row, col))
        except RunError as err:
            answer = str(err)
        except OSError as err:
            answer = f"{_STORE}{err.errno or errno.EIO}"
        else:
            answer = _DONE
        print(answer, flush=True)


if __name__ == "__main__":
    _serve(sys.stdin.buffer)
