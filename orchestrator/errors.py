"""The errors that a user is meant to read: one line each."""

from __future__ import annotations


class PlanError(ValueError):
    """Bad input or usage, found before anything runs: the command line prints the message and exits with 2."""


class RunError(RuntimeError):
    """A run that could not finish; everything committed is kept and `gigarestore resume` goes on from it (exit 1)."""


class TileError(RunError):
    """A tile that failed after a bounded number of tries."""

    def __init__(self, key: tuple[int, int, int], cause: str) -> None:
        super().__init__(f"tile level {key[0]} row {key[1]} column {key[2]} failed: {cause}")
        self.key = key
        self.cause = cause
