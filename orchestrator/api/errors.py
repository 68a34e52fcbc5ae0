"""Errors of the Python API: the same one line as the command's, in the words of a Python call."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from orchestrator.api.job_options import OPTION_WORDS, PLACES
from orchestrator.errors import PlanError, RunError
from storage.errors import FormatError

# Options whose name on the command line is not that of their argument.
_RENAMED = {
    "class": "label",
    "range": "value_range",
    "operator-arg": "operator_args",
    "overwrite": "overwrite",
    "take-over": "take_over",
}
_SWITCHES = ("overwrite", "take-over", "keep-work")
_ARGUMENTS = {name.replace("_", "-"): name for name in PLACES} | _RENAMED
# An option as typed, and the value after it where the message gives one: a number, a list in
# capitals (LOW,HIGH), a quoted text or one of the words that an option can take.
_OPTION = re.compile(
    r"--([a-z][a-z-]*)(?: ('[^']*'|-?[\d.]+(?:,-?[\d.]+)*|[A-Z][A-Z,]*\b|[a-z+]+\b))?"
)
_RESUME = re.compile(r"`?gigarestore resume (\S+?)`?(?=[\s;,)]|$)")
_VERIFY = re.compile(r"`?gigarestore verify (\S+?)`?(?=[\s;,)]|$)")
_FIELD = re.compile(r"^the options: ([a-z_.0-9]+) = (.*?): ", re.DOTALL)
_NAMES = {place: name for name, place in PLACES.items()}


class RunCancelled(RunError):
    """A run that `cancel` or Ctrl-C ended; everything committed is kept and `resume` goes on."""


@contextlib.contextmanager
def python_words() -> Iterator[None]:
    """Within: refusals speak of keyword arguments (`scale=4`) instead of options (`--scale 4`).

    Unreadable inputs become PlanError as well, so that one `except ValueError` takes all of them.
    """
    try:
        yield
    except (PlanError, FormatError) as err:
        raise PlanError(as_argument_names(str(err))) from None
    except RunError as err:
        err.args = (as_argument_names(str(err)),)
        raise


def as_argument_names(message: str) -> str:
    """Return a message of the command line as a Python user has to read it, on one line."""
    text = " ".join(message.split())
    text = _RESUME.sub(r"gigarestore.resume('\1')", text)
    text = _VERIFY.sub(r"gigarestore.open('\1').verify()", text)
    field = _FIELD.match(text)
    if field is not None and field[1] in _NAMES:
        text = f"{_NAMES[field[1]]}={field[2]}: {text[field.end() :]}"
    return _OPTION.sub(_argument, text)


def _argument(option: re.Match[str]) -> str:
    flag = option[1].rstrip("-")
    if flag not in _ARGUMENTS:
        return option[0]
    name = _ARGUMENTS[flag]
    value = option[2]
    after = "" if value is None else f" {value}"
    if flag in _SWITCHES:
        return f"{name}=True{after}"
    if value is None:
        return f"{name}="
    if value[0].islower():  # a word: what the option takes, or how the sentence goes on
        return f"{name}={value!r}" if value in OPTION_WORDS else f"{name}={after}"
    if "," in value and value[0] != "'":
        return f"{name}=({value.replace(',', ', ')})"
    return f"{name}={value}"
