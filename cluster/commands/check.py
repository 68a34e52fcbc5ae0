"""The command `check`: is a network read rightly?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.exit_codes import BAD_INPUT, fail
from cluster.options.options import takes
from cluster.options.parsers import parse_channels
from orchestrator.errors import PlanError

if TYPE_CHECKING:
    from orchestrator.planning.network_trial import NetworkCheck

SHOWN = 12
"""Rows of the table: the stated reading and the best others."""


@takes("channel", "z", "t", "max_pixels")
def check(
    denoiser: Annotated[str, typer.Argument(help="A denoiser, as --denoiser of restore.")],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A sharp image of its kind.")],
    *,
    label: Annotated[
        int | None, typer.Option("--class", help="Class of a conditional network.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: opt.AsJson = False,
    **given: Any,
) -> None:
    """Try DENOISER on noised windows of IMAGE, in every way in which it may be read.

    Exit code 0 where it denoises as it is stated, else 2 with what to write where.
    """
    from orchestrator.job.fields.sections import InputSpec
    from orchestrator.planning.network_trial import check_network
    from storage.errors import FormatError

    channel = None if given["channel"] is None else parse_channels(given["channel"])
    source = InputSpec(**{**given, "path": image, "channel": channel})
    try:
        checked = check_network(denoiser, source, label, device)
    except FormatError as err:
        raise PlanError(str(err)) from None
    print(json.dumps(checked.as_dict()) if as_json else "\n".join(_lines(checked)))
    if not checked.denoises:
        fail(checked.line, BAD_INPUT)


def _lines(checked: NetworkCheck) -> list[str]:
    """Return the table of readings, and the verdict where it is a good one."""
    levels = "".join(f"{sigma:>8g}" for sigma in checked.sigmas)
    lines = [f"{'rms of eps^ - eps at':34}{levels}   residual"]
    for tried in checked.readings[:SHOWN]:
        figures = "".join(f"{_short(level):>8}" for level in tried.levels)
        lines.append(f"{tried.reading:34}{figures}   {_short(tried.residual)}")
    left_out = len(checked.readings) - SHOWN
    if left_out > 0:
        lines.append(f"and {left_out} others")
    return [*lines, checked.line] if checked.denoises else lines


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.0e}"
