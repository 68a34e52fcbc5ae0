"""The command `verify`: does the published image hold what was measured?"""

from __future__ import annotations

import json

import typer

from cluster.options import options as opt
from cluster.options.arguments import Out
from cluster.options.exit_codes import FAILED


def verify(out: Out, as_json: opt.AsJson = False) -> None:
    """Check the published image: A x = y over the whole image, seams, completeness. Exit 1 when it
    does not hold.
    """
    from orchestrator.run.verify import verify_run

    found = verify_run(out)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        from cluster.terminal.tables import print_verification

        print_verification(found)
    if not found.passed:
        raise typer.Exit(FAILED)
