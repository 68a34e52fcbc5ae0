"""What a run of the scheduler took, and whether that is what is promised."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# Share of the tiles after which the driver's memory is read first: by then everything is loaded.
WARM = 0.25
# What is promised (README): ideal / makespan, also for batches of half a second or more, and for
# which numbers of workers; bound / makespan; the forecast's relative error; the driver's CPU time
# and memory per tile.
AGAINST_IDEAL = 0.95
AGAINST_IDEAL_LONG = 0.97
LONG_SECONDS = 0.5
PROMISED_WORKERS = (8, 16, 32)
AGAINST_BOUND = 0.95
FORECAST_ERROR = 0.10
DRIVER_MS = 0.3
DRIVER_BYTES = 20.0
MANY_TILES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerTiming:
    """One run with a number of workers; times in s."""

    workers: int
    processes: int
    tiles: int
    batches: int
    makespan: float
    """From the last worker's joining to the last commit."""
    ideal: float
    """The simulator's makespan."""
    forecast: float
    """What `plan` says that it takes with this cost model and no jitter."""
    bound: float
    promised_ideal: float | None
    """The least ideal / makespan that is promised; None for numbers of workers of which nothing is.
    """
    promised_bound: float | None
    """The same for bound / makespan; None where workers x batch is beyond the graph's mean
    parallelism.
    """
    driver_cpu: float
    """CPU time of the driver's process, Ray's threads in it included."""
    bare_cpu: float
    """CPU time of a call of Ray's at this pace, when nothing else is done."""
    bare_gap: float
    """What then lies between a worker's batch and its next."""
    driver_bytes: int
    """Growth of the driver's resident memory during the run."""
    driver_bytes_warm: int
    """The same after the first quarter of the tiles: what more tiles would add, the constant part
    aside.
    """
    journal_seconds: float
    """Time spent waiting for the disk."""

    load: float
    """Processes that wanted a core at the end, on average over a minute, these included."""

    @property
    def bytes_per_tile(self) -> float:
        """What a tile adds to the driver's memory."""
        return self.driver_bytes_warm / ((1 - WARM) * self.tiles)

    @property
    def ms_per_tile(self) -> float:
        """CPU time of the driver for a tile."""
        return 1000 * self.driver_cpu / self.tiles

    @property
    def bare_ms_per_tile(self) -> float:
        """What of it as many bare calls of Ray's cost."""
        return 1000 * self.bare_cpu * self.batches / self.tiles

    @property
    def against_ideal(self) -> float:
        return self.ideal / self.makespan

    @property
    def claims(self) -> dict[str, bool | None]:
        """What is promised, and whether it was kept; None where it does not apply."""
        return {
            "ideal/time": _kept(self.promised_ideal, self.against_ideal),
            "bound/time": _kept(self.promised_bound, self.bound / self.makespan),
            "plan": abs(self.forecast / self.makespan - 1) <= FORECAST_ERROR,
            "CPU": self.ms_per_tile <= DRIVER_MS,
            # Among fewer tiles the megabytes that an allocator takes at once hide the bytes.
            "bytes": self.bytes_per_tile <= DRIVER_BYTES if self.tiles >= MANY_TILES else None,
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ideal_over_makespan": self.against_ideal,
            "bound_over_makespan": self.bound / self.makespan,
            "driver_ms_per_tile": self.ms_per_tile,
            "bare_ms_per_tile": self.bare_ms_per_tile,
            "driver_cores": self.driver_cpu / self.makespan,
            "driver_bytes_per_tile": self.bytes_per_tile,
            "claims": self.claims,
        }


def _kept(promised: float | None, reached: float) -> bool | None:
    return None if promised is None else reached >= promised
