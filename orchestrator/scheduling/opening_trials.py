"""OpeningTrials: which runs may have killed the workers that got ready for them. Pure: no Ray, no
clock.

A worker that dies while it opens a run, and has tiles of other runs too, proves nothing: either may
have been the cause. The run is then suspect, and is opened by one worker at a time that has nothing
else to do: its trial. Deaths that nothing else explains are counted, and too many condemn the run.

    trusted --death beside tiles--> suspect --choose--> on trial --ready--> trusted
                                       ^                   |
                                       +-- worker left, ---+--death--> counted: suspect, condemned
                                           or refused
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

# Workers that may die of a run that is opened with nothing beside it, one after another: by then it
# is the run. With those that died of it together before they are fewer than the pool endures.
ALONE = 2

R = TypeVar("R", bound=Hashable)
W = TypeVar("W", bound=Hashable)


class Standing(Enum):
    """How a run stands with regard to deaths of workers that open it."""

    TRUSTED = "trusted"
    """Any number of workers may open it, whatever else they do."""
    SUSPECT = "suspect"
    """Nobody opens it until a worker is chosen for its trial."""
    ON_TRIAL = "on trial"
    """One worker opens it, or will when it has nothing else to do."""


class OpeningTrial(NamedTuple, Generic[R, W]):
    """A suspect run, and the worker that is to have nothing else to do while it opens it."""

    run: R
    worker: W


@dataclass(slots=True)
class OpeningTrials(Generic[R, W]):
    """The standing of all runs; at most one is on trial at a time. Any hashable values name runs
    and workers.
    """

    trial: OpeningTrial[R, W] | None = None
    _suspects: dict[R, None] = field(default_factory=dict)
    _deaths: dict[R, int] = field(default_factory=dict)

    def standing(self, run: R) -> Standing:
        """Return how a run stands."""
        if run not in self._suspects:
            return Standing.TRUSTED
        on_trial = self.trial is not None and self.trial.run == run
        return Standing.ON_TRIAL if on_trial else Standing.SUSPECT

    def deaths(self, run: R) -> int:
        """Return the number of workers that died of opening a run and of nothing else."""
        return self._deaths.get(run, 0)

    @property
    def any_suspects(self) -> bool:
        return bool(self._suspects)

    def died(self, run: R, worker: W, most: int, *, beside: bool) -> bool:
        """Record that a worker died while it opened a run; True when that condemns the run.

        most: deaths that a run may cause. beside: the worker had tiles of other runs too.
        """
        alone = self.trial == (run, worker)
        if alone:
            self.trial = None
        elif beside:
            self._suspects[run] = None
            return False
        self._deaths[run] = self.deaths(run) + 1
        endured = min(most, ALONE) if alone else most
        return self._deaths[run] > endured

    def ready(self, run: R) -> bool:
        """Record that a worker is ready for a run; True when that clears it of suspicion."""
        if self.trial is not None and self.trial.run == run:
            self.trial = None
        cleared = run in self._suspects
        self._suspects.pop(run, None)
        return cleared

    def released(self, worker: W) -> None:
        """Record that a worker has left, or cannot take what it opened: its trial is over."""
        if self.trial is not None and self.trial.worker == worker:
            self.trial = None

    def ended(self, run: R) -> None:
        """Forget a run."""
        if self.trial is not None and self.trial.run == run:
            self.trial = None
        self._suspects.pop(run, None)
        self._deaths.pop(run, None)

    def choose(
        self, takers: Callable[[R], Iterable[W]], is_busy: Callable[[W], bool]
    ) -> OpeningTrial[R, W] | None:
        """Return the trial, a new one if there is none: preferably by a worker with nothing to do.

        takers: the workers that could open a run now. None when no run is suspect, or nobody can.
        """
        if self.trial is None:
            trials = [OpeningTrial(run, worker) for run in self._suspects for worker in takers(run)]
            self.trial = min(trials, key=lambda trial: is_busy(trial.worker), default=None)
        return self.trial
