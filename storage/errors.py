"""The errors of this package, each one line with a next step.

Bad files and requests are ValueErrors.
"""

from __future__ import annotations

# Characters of a library's message.
_LONGEST = 160


class FormatError(ValueError):
    """Report a file, folder or request that cannot be used as it is."""


class DamagedError(FormatError):
    """Report stored pixels that cannot be decoded, found only by reading them; with the place."""


class MissingCells(FormatError):
    """Report cells that were asked for before they were written."""


class CorruptCell(DamagedError):
    """Report a cell whose checksum or values show that its bytes have changed."""


class LockedError(FormatError):
    """Report a run folder that another process is working on."""


class SupersededError(RuntimeError):
    """Report that a later attempt has taken the output over; this one must write nothing more."""


def one_line(error: BaseException) -> str:
    """Return a library's message on one line of at most 160 characters, or else its type's name."""
    text = " ".join(str(error).split())
    if not text:
        text = type(error).__name__
    if len(text) <= _LONGEST:
        return text
    return text[: _LONGEST - 3] + "..."


def human_bytes(count: int) -> str:
    """Return a byte count for people, in binary units."""
    if count < 1024:
        return f"{count:.0f} B"
    value = count / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
