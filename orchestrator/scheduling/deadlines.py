"""How long a batch may take before its worker counts as hung: learned from the run's own batches.
Pure: no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A batch may take this many times the usual, beside the slack.
TIMES = 5.0
# Seconds for a level's batches before one of them has ended: compilation, cold files, an unknown
# device.
FIRST_SECONDS = 1800.0
# Batches that the running mean remembers.
MEMORY = 32


@dataclass(slots=True)
class _Usual:
    batches: int = 0
    seconds: float = 0.0
    tiles: float = 0.0


@dataclass(slots=True)
class Deadlines:
    """What batches of each level usually take. None of this reaches a pixel."""

    slack: float
    """Seconds that any batch may be late."""
    first: float = FIRST_SECONDS
    _usual: dict[int, _Usual] = field(default_factory=dict)

    def ended(self, level: int, tiles: int, seconds: float) -> None:
        """Learn from a batch that was restored; seconds: from its dispatch to its report."""
        usual = self._usual.setdefault(level, _Usual())
        usual.batches += 1
        weight = 1 / min(usual.batches, MEMORY)
        usual.seconds += weight * (seconds - usual.seconds)
        usual.tiles += weight * (tiles - usual.tiles)

    def usual(self, level: int, tiles: int) -> float | None:
        """Return the seconds that so many tiles of a level usually take; None before the first has
        ended.
        """
        usual = self._usual.get(level)
        return None if usual is None else usual.seconds * max(1.0, tiles / usual.tiles)

    def allowed(self, level: int, tiles: int) -> float:
        """Return the seconds after which a batch's worker counts as hung."""
        usual = self.usual(level, tiles)
        return self.first + self.slack if usual is None else TIMES * usual + self.slack
