"""The log of a run's events: one JSON object a line, written while it runs, read at any time."""

from __future__ import annotations

import contextlib
import json
import time
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from orchestrator.events import Event
from storage.byte_source import redact

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Event)}
_NAMES: dict[type[Any], tuple[str, ...]] = {
    kind: tuple(item.name for item in fields(kind)) for kind in _KINDS.values()
}


class LoggedEvent(NamedTuple):
    """An event and when it was written, s since 1970."""

    time: float
    event: Event


class EventLog:
    """Append events to a JSON-lines file: one object a line with its kind and wall-clock time.

    The log is a convenience: when the disk is full or the store away it misses events, and the run
    goes on.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)

    def __call__(self, event: Event) -> None:
        kind: type[Any] = type(event)
        values = {name: getattr(event, name) for name in _NAMES[kind]}  # asdict would copy all keys
        line = json.dumps({"time": round(time.time(), 3), "event": kind.__name__, **values})
        with contextlib.suppress(OSError):
            self._file.write(redact(line) + "\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def read_events(path: Path) -> Iterator[LoggedEvent]:
    """Yield a log's events; a last line that a dying driver did not finish is left out.

    Logs of older versions are read: what they do not say has the value that it had then.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            if (logged := _parse(line)) is not None:
                yield logged


def _parse(line: str) -> LoggedEvent | None:
    """Return the event of a line; None where the disk was full as it was written, or for a kind
    that this version does not know.
    """
    try:
        values = json.loads(line)
        kind = _KINDS[values["event"]]
    except (ValueError, KeyError):
        return None
    when = values["time"]
    if kind.__name__ == "BatchCommitted":
        values.setdefault("ended", when)  # older logs tell only when it was durable
    known = {name: _tuples(values[name]) for name in _NAMES[kind] if name in values}
    return LoggedEvent(when, kind(**known))


def _tuples(value: Any) -> Any:
    """Return a value of JSON with tuples for lists, as events have them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
