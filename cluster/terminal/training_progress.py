"""Progress of a training: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from kernels.training.trainer import Progress as Standing

# Seconds between lines where there is no terminal.
PLAIN_INTERVAL = 10.0


class TrainingView:
    """Show a training on stderr: a bar on a terminal, lines now and then elsewhere, and every
    validation.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, now: Standing) -> None:
        text = "start" if math.isnan(now.loss) else f"loss {now.loss:.4f}"
        if self._console.is_terminal and self._bar is None:
            columns = (
                TextColumn("{task.fields[text]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("steps", total=now.steps, text=text)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=now.step, text=text)
        if now.psnr:
            figures = " / ".join(f"{value:.2f}" for value in now.psnr)
            self.say(f"step {now.step} of {now.steps}: {text}, validation {figures} dB")
        elif self._bar is None and time.monotonic() - self._last > PLAIN_INTERVAL:
            self.say(f"step {now.step} of {now.steps}: {text}")

    def say(self, text: str) -> None:
        self._last = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif not self._console.quiet:
            print(text, file=sys.stderr, flush=True)
