"""The errors that a user is meant to read: one line each."""

from __future__ import annotations


class PlanError(ValueError):
    """Bad input or usage, found before anything runs: the command line prints the message and exits
    with 2.
    """


class RunError(RuntimeError):
    """A run that could not finish; everything committed is kept and `gigarestore resume` goes on
    from it (exit 1).
    """


class TileError(RunError):
    """A tile that failed after a bounded number of tries."""

    def __init__(self, key: tuple[int, int, int], cause: str, beside: str = "") -> None:
        super().__init__(
            f"tile level {key[0]} row {key[1]} column {key[2]} failed: {cause}{beside}"
        )
        self.key = key
        self.cause = cause
        self.beside = beside

    def __reduce__(self) -> tuple[type[TileError], tuple[tuple[int, int, int], str, str]]:
        return type(self), (
            self.key,
            self.cause,
            self.beside,
        )  # an exception's own way gives the message alone


class WorkerError(RuntimeError):
    """What went wrong with a worker's batch, in words."""


class WorkerBroken(WorkerError):
    """A worker's device is lost for its process: it must be replaced."""
