"""The command `gigarestore`: its commands in the order of a user's day, and what their errors exit
with.

Importing this module loads neither torch, ray nor zarr; each command loads what it needs. Exit
codes: 0 done, 2 bad input or usage, 1 failed but resumable, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from cluster.commands import bench, config, submissions, submit
from cluster.commands.batch import batch
from cluster.commands.check import check
from cluster.commands.degrade import degrade
from cluster.commands.demo import demo
from cluster.commands.doctor import doctor
from cluster.commands.evaluate import evaluate
from cluster.commands.export import export
from cluster.commands.info import info
from cluster.commands.plan import plan
from cluster.commands.report import report
from cluster.commands.restore import restore
from cluster.commands.resume import resume
from cluster.commands.status import status
from cluster.commands.train import train
from cluster.commands.verify import verify
from cluster.options.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain
from orchestrator.errors import PlanError, RunError

# One image; many images and clusters; a look at runs; one's own network; this machine.
ORDER = (
    *("restore", "resume", "plan", "info", "verify", "export"),
    *("batch", "submit", "status", "report", "logs", "wait", "cancel", "list", "config"),
    *("check", "train", "evaluate", "degrade"),
    *("doctor", "bench", "demo"),
)


class InOrder(TyperGroup):
    """Name the commands in the order of ORDER; typer itself would name groups of commands first."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="gigarestore",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Restore images of unlimited size with pre-trained diffusion models (DDNM, MSR, HiR) on "
        "Ray and Zarr."
    ),
)
for command in (
    *(restore, resume, plan, info, verify, export),
    *(batch, status, report, submissions.logs, submissions.wait, submissions.cancel),
    *(check, train, evaluate, degrade, doctor, demo),
):
    app.command()(command)
app.command(context_settings=submit.CONTEXT)(submit.submit)
app.command("list")(submissions.list_runs)
app.add_typer(config.config, name="config")
app.add_typer(bench.app, name="bench")

# typer brings its own copy of click in some versions and uses the installed one in others.
ClickException: type[Exception] = next(
    k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException"
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; bad input and usage are one line on stderr and exit code 2."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    from storage.errors import DamagedError, FormatError

    try:
        code: Any = app(args=arguments, standalone_mode=False)
        return int(code or DONE)
    except typer.Exit as err:
        return err.exit_code
    except (typer.Abort, KeyboardInterrupt):
        complain("interrupted")
        return INTERRUPTED
    except (DamagedError, RunError) as err:  # nothing the user asked for was wrong
        complain(str(err))
        return FAILED
    except (PlanError, FormatError) as err:
        message = str(err)
    except ClickException as err:
        message = err.format_message()  # type: ignore[attr-defined]
    except OSError as err:
        message = f"{err.strerror or err}{f': {err.filename}' if err.filename else ''}"
        complain(message)
        return FAILED
    complain(message)
    return BAD_INPUT
