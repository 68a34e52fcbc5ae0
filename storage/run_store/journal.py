"""An append-only record of what is committed: text lines, each with its CRC, fsynced by `append`.

    {"format": "gigarestore-journal", "version": 1, "header": {...}} 5b1c0a77
    <payload> <crc32 of the payload, 8 hex digits>

Data first, then its record, then the records of whatever depends on it: after a kill the journal
names only what is whole, and nothing without what it was built on.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from storage import atomic_files
from storage.errors import FormatError

_FORMAT = "gigarestore-journal"
_VERSION = 1


class Journal:
    """Append records, one writer at a time (the driver, holding the run's lock); replay them.

    Nothing grows with the number of records: they are streamed from the file whenever they are
    asked for.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        end: int,
    ) -> None:
        self.path = path
        self.header = header
        self._end = end
        self._fd: int | None = os.open(path, os.O_WRONLY | os.O_APPEND)

    @classmethod
    def create(cls, path: Path | str, header: Mapping[str, Any]) -> Self:
        """Write a new journal that holds only `header` (JSON values).

        Raises FormatError when the file exists.
        """
        path = Path(path)
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "header": dict(header),
        }
        line = _stored(json.dumps(document, ensure_ascii=False, allow_nan=False))
        if not atomic_files.write_once(path, [line], fsync=True):
            raise FormatError(f"{path}: exists already; resume the run, or remove its folder")
        atomic_files.fsync_folder(path.parent)
        return cls(path, dict(header), len(line))

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Check every record of a journal, drop a torn last line, and get ready to append.

        Raises FormatError naming the line when anything before the last one is damaged.
        """
        path = Path(path)
        ends = (line.end for line in _lines(path))
        end = max(ends, default=0)
        torn = end < path.stat().st_size
        if torn:
            with path.open("r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        return cls(path, read_header(path), end)

    @classmethod
    def take_over(cls, path: Path | str) -> Self:
        """Open a journal as a new file of the same records.

        What an earlier attempt still appends lands nowhere: it has the old file open, which loses
        its name here. Raises what `open` does.
        """
        path = Path(path)
        if not path.is_file():
            raise _absent(path)
        with (
            atomic_files.atomic_output(path, overwrite=True) as temporary,
            temporary.open("xb") as copy,
        ):
            copy.writelines(_stored(line.payload) for line in _lines(path))
        return cls.open(path)

    @property
    def records(self) -> Iterator[str]:
        """Yield the payloads committed so far, in order, from the file."""
        return read_records(self.path)

    def append(self, records: Sequence[str]) -> None:
        """Commit records: one write, one fsync; when this returns they survive a power cut.

        Raises ValueError for a record that is empty or holds a line break, OSError when the disk
        refuses (then none of the records counts, and the journal is closed: reopen it).
        """
        if self._fd is None:
            raise ValueError(f"{self.path}: the journal is closed; open it again")
        if not records:
            return
        data = b"".join(map(_stored, records))
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                raise OSError(
                    f"{self.path}: {written} of {len(data)} bytes were written; is the disk full?"
                )
            os.fsync(self._fd)
        except OSError:
            self._undo()
            raise
        self._end += len(data)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _undo(self) -> None:
        """Cut off what a failed append left.

        After a failed fsync nobody knows what is on the disk, so close too. A disk that refuses
        this as well leaves a torn record, which `open` cuts off; the first error is the one to
        tell.
        """
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
        self.close()


def read_header(path: Path | str) -> dict[str, Any]:
    """Return the header of a journal without changing the file; raises FormatError otherwise."""
    path = Path(path)
    first = next(_lines(path, header=True), None)
    if first is None:
        raise FormatError(
            f"{path}: line 1 is damaged: not a journal of this program; remove the run's folder"
        )
    try:
        document = json.loads(first.payload)
        version = document["format"], document["version"]
        header = document["header"]
    except (ValueError, KeyError, TypeError):
        raise FormatError(
            f"{path}: line 1 is not a journal header; remove the run's folder"
        ) from None
    own = (_FORMAT, _VERSION)
    if version != own:
        raise FormatError(
            f"{path}: journal format {version}, this program writes {own}; use its version"
        )
    return dict(header)


def read_records(path: Path | str) -> Iterator[str]:
    """Yield the payloads of a journal without changing the file; a torn last line is left out.

    Raises FormatError naming the line when anything before the last one is damaged.
    """
    return (line.payload for line in _lines(Path(path)) if line.number > 1)


def _absent(path: Path) -> FormatError:
    return FormatError(f"{path}: no such journal; start a new run")


def _stored(payload: str) -> bytes:
    """Return a line of the file."""
    if not payload or "\n" in payload or "\r" in payload:
        raise ValueError(
            f"a journal record needs at least one character and no line break, got {payload[:60]!r}"
        )
    data = payload.encode()
    return data + b" %08x\n" % zlib.crc32(data)


def _payload(line: bytes) -> str | None:
    """Return the payload of a stored line, or None when the line is not whole."""
    data, separator, checksum = line[:-1].rpartition(b" ")
    ended = line.endswith(b"\n") and separator
    if not ended or checksum != b"%08x" % zlib.crc32(data):
        return None
    return data.decode()


class _Line(NamedTuple):
    """A whole line of a journal."""

    number: int
    """Counted from 1, which is the header."""
    payload: str
    end: int
    """Byte offset after the line."""


def _lines(path: Path, *, header: bool = False) -> Iterator[_Line]:
    """Yield the whole lines; with `header` only the first.

    A damaged last line is what a kill leaves and ends the iteration; the header is written
    atomically, never torn. Raises FormatError for a damaged line that others follow.
    """
    if not path.is_file():
        raise _absent(path)
    end = 0
    damaged = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if damaged is not None:
                raise _damaged(path, damaged)
            payload = _payload(line)
            if payload is None:
                damaged = number
                continue
            end += len(line)
            yield _Line(number, payload, end)
            if header:
                return
    if damaged == 1:
        raise _damaged(path, damaged)


def _damaged(path: Path, number: int) -> FormatError:
    return FormatError(
        f"{path}: line {number} is damaged and lines follow it, or it is the header: not a torn "
        "end; restore the file from a copy, or remove the run's folder and start again"
    )
