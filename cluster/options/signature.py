"""Give a command parameters out of a table: typer reads a command's options off its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., None])


def with_parameters(command: Command, annotations: Mapping[str, Any]) -> Command:
    """Return the command with further keyword-only parameters, before those of its own.

    annotations: by name, with typer's option in each. The parameters reach the command as its
    `**given`, None where the option is not given.
    """
    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    ]
    own = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    positional = [
        parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    keyword_only = own[len(positional) :]
    extended = signature.replace(parameters=[*positional, *added, *keyword_only])
    command.__signature__ = extended  # type: ignore[attr-defined]  # what typer asks for
    return command
