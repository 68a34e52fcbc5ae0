"""The errors of this package, each one line with a next step; bad files and requests are
ValueErrors.
"""

from __future__ import annotations


class FormatError(ValueError):
    """Report a file, folder or request that cannot be used as it is."""


class DamagedError(FormatError):
    """Report stored pixels that cannot be decoded, found only when they were read; the place is
    named.
    """


class MissingCells(FormatError):
    """Report cells that were asked for before they were written."""


class CorruptCell(DamagedError):
    """Report a cell whose checksum or values show that its bytes are not the ones that were
    written.
    """


class LockedError(FormatError):
    """Report a run folder that another process is working on."""


class SupersededError(RuntimeError):
    """Report that a later attempt has taken the output over; this one must write nothing more."""


def one_line(error: BaseException) -> str:
    """Return a library's message on one line of at most 160 characters, with its type when it has
    no text.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def human_bytes(count: int) -> str:
    """Return a byte count for people, in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
