"""The commands `config ...`: the settings of submissions, and where each comes from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.options import options as opt
from cluster.submission.settings import keys, load

config = typer.Typer(no_args_is_help=True, help="Settings of submissions.")


@config.command("show")
def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Print the settings: flag over environment over project file over user file over default."""
    loaded = load({}, Path.cwd(), os.environ)
    values = loaded.settings.model_dump(mode="json")
    rows = {}
    for key in keys():
        section, _, field = key.partition(".")
        source = loaded.origins.get(key, "default")
        rows[key] = {"value": values[section][field], "origin": source}
    if as_json:
        print(json.dumps(rows))
        return

    for key, row in rows.items():
        value = "" if row["value"] is None else json.dumps(row["value"])
        comment = f"  # {row['origin']}" if origin else ""
        print(f"{key} = {value}{comment}")
