"""A restoration on a thread of its own: watched, waited for, and cancelled from anywhere."""

from __future__ import annotations

import html
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.api.errors import RunCancelled, python_words
from orchestrator.api.result import RestorationResult
from orchestrator.errors import RunError
from orchestrator.events import BatchCommitted, Event, Listener, RunStarted
from orchestrator.shutdown import Stop

if TYPE_CHECKING:
    from orchestrator.run.drive import Outcome

# Events that are kept for whoever asks late; all of them are in the run's log.
MOST_EVENTS = 10_000

State = Literal["running", "published", "failed", "cancelled"]
Drive = Callable[[list[Listener]], "Outcome"]


class BackgroundRun:
    """A restoration that goes on while its caller does something else."""

    def __init__(
        self, root: Path, drive: Drive, stop: Stop, *, axes: str | None, keep: object
    ) -> None:
        """drive: runs to the end with these listeners. keep: lives as long as the run and its
        result.
        """
        self.path = root
        """Folder of the result."""
        self._axes = axes
        self._keep = keep
        self._stop = stop
        self._changed = threading.Condition()
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._count = 0
        self._tiles = 0
        self._done = 0
        self._state: State = "running"
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._go, args=(drive,), name=f"restore {root.name}", daemon=True
        )
        self._thread.start()

    @property
    def state(self) -> State:
        """Return how it stands: running, published, failed or cancelled."""
        return self._state

    def events(self) -> Iterator[Event]:
        """Yield what has happened and what happens, until the run ends; any number of callers may.

        Whoever is more than 10,000 events behind misses the oldest.
        """
        seen = 0
        while True:
            with self._changed:
                while seen == self._count and self._state == "running":
                    self._changed.wait()
                fresh = list(self._events)[max(len(self._events) - (self._count - seen), 0) :]
                seen = self._count
                over = self._state != "running"
            yield from fresh
            if over:
                return

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, `timeout` seconds at most; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """End the run as Ctrl-C does: running batches may end, everything committed is kept."""
        self._stop.request()

    def result(self, timeout: float | None = None) -> RestorationResult:
        """Wait for the result.

        Raises TimeoutError after `timeout` seconds, PlanError for what was refused, RunCancelled
        after `cancel`, and RunError for what failed and can be resumed.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"{self.path} is not finished after {timeout} s")
        if self._error is not None:
            raise self._error
        return RestorationResult(self.path, axes=self._axes, keep=self._keep)

    def __repr__(self) -> str:
        return f"<Restoration {self._state}: {self.path}>"

    def _repr_html_(self) -> str:
        """Return how far it is, as a bar; shown again it is further."""
        tiles = self._tiles or 1
        return (
            f'<progress value="{self._done}" max="{tiles}"></progress> '
            f"{self._state}, {self._done} of {self._tiles} tiles: {html.escape(str(self.path))}"
        )

    def _go(self, drive: Drive) -> None:
        state: State = "failed"
        try:
            with python_words():
                drive([self._listen])
            state = "published"
        except KeyboardInterrupt:
            state = "cancelled"
            self._error = cancelled(self.path, temporary=self._keep is not None)
        except Exception as err:  # whatever it is, `result` raises it where it can be seen
            self._error = err
        finally:
            with self._changed:
                self._state = state
                self._changed.notify_all()

    def _listen(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._count += 1
            if isinstance(event, RunStarted):
                self._tiles = event.tiles
                self._done = event.done
            elif isinstance(event, BatchCommitted):
                self._done += len(event.keys)
            self._changed.notify_all()


def cancelled(root: Path, *, temporary: bool) -> RunError:
    """Return the error of a run that was ended."""
    if temporary:
        return RunCancelled(f"cancelled; its temporary folder {root.parent} goes with the run")
    return RunCancelled(
        f"cancelled, everything committed is kept; go on with gigarestore.resume('{root}')"
    )
