"""The exit codes of every command, and the one line on stderr that goes with a failure."""

from __future__ import annotations

import sys
from typing import NoReturn

DONE = 0
FAILED = 1
"""Failed, but resumable."""
BAD_INPUT = 2
"""Bad input or usage."""
UNREACHABLE = 69
"""A scheduler that does not answer."""
NO_RAY = 70
"""Ray's head did not start on the nodes."""
RESUMABLE = 75
"""Stopped before its end; `resume` goes on."""
TIMED_OUT = 124
"""`wait --timeout` is over, the run goes on."""
INTERRUPTED = 130
"""Ctrl-C or SIGTERM; of `wait` and `submit --follow`: detached, the run goes on."""


def fail(message: str, code: int) -> NoReturn:
    """Complain and end the command with an exit code."""
    import typer  # the launcher on the nodes reads the codes without any package

    complain(message)
    raise typer.Exit(code)


def complain(message: str) -> None:
    """Print one line, without what a URL in it may carry of credentials."""
    from storage.byte_source import redact

    print(f"gigarestore: {redact(' '.join(message.split()))}", file=sys.stderr, flush=True)
