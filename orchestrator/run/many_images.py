"""Batch: many images as one run. Each is a run of its own, prepared and published on a thread of
its own; their tiles share the workers, so that what one image's wavefront leaves idle another's
fills. At most `window` images are open at a time: nothing but names and records grows with their
number.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kernels.denoiser_info import absolute_ref
from orchestrator.errors import PlanError, RunError
from orchestrator.events import Listener
from orchestrator.job.spec import JobSpec
from orchestrator.monitoring.history import read_summary
from orchestrator.run.batch_records import PUBLISHED, ImageRecord, ImageRecords
from orchestrator.run.run_queue import Elsewhere, RunQueue, Server
from orchestrator.run.session import Executor
from orchestrator.run_folder import RunDir
from storage.byte_source import redact
from storage.errors import DamagedError, FormatError, LockedError, SupersededError

if TYPE_CHECKING:
    from orchestrator.run.drive import Outcome

# Images that are open at a time: enough to fill a narrow wavefront's pauses, few enough for the
# driver's memory.
WINDOW = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a batch."""

    name: str
    """Of its output in the batch's folder, with / between folders."""
    root: Path
    source: str
    spec: Callable[[JobSpec | None], JobSpec]
    """Its job, or its options put on a job that was begun; raises PlanError."""


def is_done(image: Image, records: ImageRecords) -> bool:
    """Tell whether an image was published and recorded by a job with these options; else it is to
    be tried (again).
    """
    record = records.latest.get(image.name)
    run = RunDir(image.root)
    if record is None or record.state not in PUBLISHED or not run.published:
        return False
    begun = JobSpec.load_resolved(run.job)
    from orchestrator.planning.resolve import keep_reading, keep_regions

    wanted = keep_reading(image.spec(begun), begun)
    if wanted.regions:
        try:
            wanted = keep_regions(wanted, run)
        except PlanError:
            return False  # it is refused when it is tried
    here = {"run": begun.run, "output": begun.output, "denoiser": absolute_ref(wanted.denoiser)}
    return wanted.model_copy(update=here) == begun


class Watch(Protocol):
    """Whoever looks on; its methods are called on several threads."""

    def listener(self, image: Image) -> Listener:
        """Return what listens to an image's events."""
        ...

    def recorded(self, record: ImageRecord) -> None:
        """Take note of what became of an image."""
        ...


class ImageBatch:
    """Restore images; what goes wrong with one of them is in its record and stops no other."""

    def __init__(
        self,
        images: Sequence[Image],
        records: ImageRecords,
        *,
        window: int = WINDOW,
        verify: bool = True,
        overwrite: bool = False,
        take_over: bool = False,
        watch: Watch | None = None,
    ) -> None:
        """images: those to be restored now. take_over: also from drivers that hang. watch: is told
        of what happens.
        """
        self._records = records
        self._window = window
        self._verify = verify
        self._overwrite = overwrite
        self._take_over = take_over
        self._watch = watch
        self._left = deque(images)
        self._lock = threading.Lock()
        self._run_queue = RunQueue()
        self._halted = False
        self._working = 0
        self.trouble: Exception | None = None
        """What ended all images: the workers, the cluster, or a folder that takes no records."""

    def run(self, server: Server, drain_seconds: float) -> None:
        """Restore all images that are not done; raises KeyboardInterrupt when asked to stop.

        drain_seconds: how long images may then take to stop; what they have not committed by then
        is lost.
        """
        if not self._left:
            return
        executor = Elsewhere(self._run_queue, server.name)
        threads = [
            threading.Thread(
                target=self._work, args=(executor,), name=f"image {number}", daemon=True
            )
            for number in range(min(self._window, len(self._left)))
        ]
        self._working = len(threads)
        for thread in threads:
            thread.start()
        try:
            server.serve(self._run_queue)
        except RunError as err:
            self.trouble = err
        finally:
            self._halted = True
            until = time.monotonic() + drain_seconds
            for thread in threads:
                thread.join(max(until - time.monotonic(), 0.0))

    def _work(self, executor: Executor) -> None:
        try:
            while (image := self._next()) is not None:
                record = self._restore(image, executor)
                with self._lock:
                    self._records.append(record)
                if self._watch is not None:
                    self._watch.recorded(record)
        except OSError as err:
            self.trouble = err
            self._halted = True
        finally:
            with self._lock:
                self._working -= 1
                last = not self._working
            if last:
                self._run_queue.close()

    def _next(self) -> Image | None:
        with self._lock:
            image = None if self._halted or not self._left else self._left.popleft()
            self._run_queue.more = bool(self._left) and not self._halted
            return image

    def _restore(self, image: Image, executor: Executor) -> ImageRecord:
        """Restore an image and return its record; nothing that goes wrong with it goes further."""
        began = time.perf_counter()
        facts: dict[str, Any] = {"state": "failed"}
        try:
            facts = self._facts(image, self._drive(image, executor))
        except (RunError, SupersededError, LockedError, DamagedError, OSError) as err:
            facts["error"] = str(err)
        except (PlanError, FormatError) as err:
            facts = {"state": "refused", "error": str(err)}
        except KeyboardInterrupt:
            facts = {"state": "interrupted", "error": "interrupted"}
        except Exception as err:  # a bug: said in full here, and no reason to stop the other images
            _log.exception("%s", image.name)
            facts["error"] = f"{type(err).__name__}: {err}"
        if (error := facts.get("error")) is not None:
            facts["error"] = redact(" ".join(error.split()))
        if facts["state"] != "refused":
            facts |= _spent(image)
        seconds = round(time.perf_counter() - began, 3)
        return ImageRecord(image=image.name, input=redact(image.source), seconds=seconds, **facts)

    def _drive(self, image: Image, executor: Executor) -> Outcome:
        from orchestrator.run.lifecycle import resume, start  # imports zarr

        run = RunDir(image.root)
        listeners = [] if self._watch is None else [self._watch.listener(image)]
        if self._overwrite or not run.job.exists():
            image.root.parent.mkdir(parents=True, exist_ok=True)
            return start(image.spec(None), executor, listeners, overwrite=self._overwrite)
        begun = JobSpec.load_resolved(run.job)
        wanted = image.spec(begun)
        if wanted.input.path != begun.input.path:
            raise PlanError(
                f"{image.root} was begun from {begun.input.path}; choose another output, or "
                "--overwrite"
            )
        return resume(image.root, executor, listeners, changes=wanted, take_over=self._take_over)

    def _facts(self, image: Image, outcome: Outcome) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "state": "published",
            "size": (outcome.plan.height, outcome.plan.width),
            "tiles": outcome.tiles,
            "resumed": outcome.resumed,
            "substituted": outcome.substituted,
        }
        return facts | _verified(image) if self._verify else facts


def _verified(image: Image) -> dict[str, Any]:
    """Return what is measured on a published image."""
    from orchestrator.run.verify import verify_run  # imports torch

    try:
        verification = verify_run(image.root)
    except (FormatError, OSError) as err:
        return {"state": "inconsistent", "error": str(err)}
    facts: dict[str, Any] = {"seam": round(verification.seams.overall.ratio, 4)}
    if (measured := verification.consistency) is not None:
        facts["consistency"] = {
            "max": round(measured.max, 4),
            "rms": round(measured.rms, 4),
            "limit": round(verification.limit, 4),
            "holds": verification.consistent,
            "noisy": verification.noisy,
        }
    if not verification.passed:
        failing = ", ".join(check.name for check in verification.checks if not check.passed)
        error = f"{failing}: not as it should be; see `gigarestore verify {image.root}`"
        facts |= {"state": "inconsistent", "error": error}
    return facts


def _spent(image: Image) -> dict[str, Any]:
    """Return what all attempts on an image took."""
    summary = read_summary(RunDir(image.root).events)
    return {"nfe": summary.nfe, "busy_seconds": round(summary.times.busy, 3)}
