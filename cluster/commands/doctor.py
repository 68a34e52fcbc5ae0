"""The command `doctor`: checks of this machine and of a cluster, a line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.doctor.check import Check
from cluster.doctor.local_checks import run_checks


def doctor(
    store: Annotated[
        Path | None,
        typer.Argument(metavar="STORE", help="Folder where outputs go.", show_default="here"),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to try, HOST:PORT or auto.")
    ] = None,
    nodes: Annotated[
        bool,
        typer.Option(
            "--nodes", help="Run the checks on every node of the cluster at --address, and compare."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of text.")
    ] = False,
) -> None:
    """Check this machine and a cluster: versions, names, GPUs, memory, store, ports, Ray, clocks;
    exit 1 on a failure.
    """
    checks = run_checks(store)
    if as_json and not (address or nodes):
        print(json.dumps([check.as_dict() for check in checks]))
    else:
        from cluster.doctor.nodes import check_cluster

        by_node = {"": checks, **check_cluster(address, nodes, store, checks)}
        _print(by_node, as_json)
        checks = [check for part in by_node.values() for check in part]
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)


def _print(by_node: dict[str, list[Check]], as_json: bool) -> None:
    """Print findings by node; "" is this machine and the cluster as a whole."""
    if as_json:
        rows = [
            {**check.as_dict(), "node": node}
            for node, checks in by_node.items()
            for check in checks
        ]
        print(json.dumps(rows))
        return
    for node, checks in by_node.items():
        for check in checks:
            print(f"{check.verdict:4}  {f'{node}: ' if node else ''}{check.name}: {check.text}")
