"""The command `verify`: does the published image hold what was measured?"""

from __future__ import annotations

import json

import typer

from cluster.options import options as opt
from cluster.options.arguments import Out
from cluster.options.exit_codes import FAILED


def verify(out: Out, as_json: opt.AsJson = False) -> None:
    """Check the published image: A x = y everywhere, seams, completeness; exit 1 where it fails."""
    from orchestrator.run.verify import verify_run

    verification = verify_run(out)
    if as_json:
        print(json.dumps(verification.as_dict()))
    else:
        from cluster.terminal.tables import print_verification

        print_verification(verification)
    if not verification.passed:
        raise typer.Exit(FAILED)
