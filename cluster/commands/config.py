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
    settings = {key: values[key.partition(".")[0]][key.partition(".")[2]] for key in keys()}
    if as_json:
        print(
            json.dumps(
                {
                    k: {"value": v, "origin": loaded.origins.get(k, "default")}
                    for k, v in settings.items()
                }
            )
        )
        return
    for key, value in settings.items():
        said = f"  # {loaded.origins.get(key, 'default')}" if origin else ""
        print(f"{key} = {'' if value is None else json.dumps(value)}{said}")
