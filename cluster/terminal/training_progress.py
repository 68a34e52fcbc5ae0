"""Progress of a training: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from cluster.terminal.live_view import LiveView

if TYPE_CHECKING:
    from kernels.training.trainer import Progress as Standing


class TrainingView(LiveView):
    """Show a training on stderr: a bar on a terminal, lines now and then elsewhere, and every
    validation.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._task: TaskID | None = None

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
        elif self._bar is None and self.line_is_due:
            self.say(f"step {now.step} of {now.steps}: {text}")
