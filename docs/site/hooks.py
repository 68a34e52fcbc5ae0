"""Pages that MkDocs makes of the code when it builds the site: the option reference from the
command line's own help, the packages' designs, and the changelog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kernels", "storage", "orchestrator", "cluster")

# The first line of a fence: its language, and what a test is told of it.
INFO = re.compile(r"^( *```[a-z]+) .*$", re.MULTILINE)
# A link to a notebook-style script, which is a page of the site.
SCRIPT_LINK = re.compile(r"\]\(([^)]*tutorials/\w+)\.py\)")
# Where a cell of a notebook-style script begins.
CELL = re.compile(r"^# %%", re.MULTILINE)
# Where the Python reference stands on its page.
PUBLIC_NAMES = "<!-- every public name of gigarestore: docs/site/hooks.py -->"
# What typer writes of a default, at the end of a help text.
DEFAULT = re.compile(r"\s*\[(?:default: (?P<value>.*?))?(?:; )?(?P<required>required)?\]$")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave out what fences say to the tests (tests/docs/fences.py), which is not for readers, and
    put in the Python reference.
    """
    if PUBLIC_NAMES in markdown:
        markdown = markdown.replace(PUBLIC_NAMES, python_reference())
    markdown = SCRIPT_LINK.sub(r"](\1.md)", markdown)
    return INFO.sub(r"\1", markdown)


def python_reference() -> str:
    """Return what mkdocstrings makes the reference of: each public name and where it lives."""
    import gigarestore

    return "\n\n".join(_reference(name) for name in sorted(gigarestore.__all__, key=_order))


def _order(name: str) -> tuple[bool, str]:
    """Functions before classes."""
    return name[0].isupper(), name


def _reference(name: str) -> str:
    import gigarestore

    value = getattr(gigarestore, name)
    is_module = not hasattr(value, "__qualname__")
    place = value.__name__ if is_module else f"{value.__module__}.{value.__qualname__}"
    options = f"    options:\n      heading: gr.{name}\n      toc_label: {name}"
    return f"::: {place}\n{options}"


def pages() -> dict[str, str]:
    """Return the generated pages, path below docs -> markdown."""
    made = {f"design/{name}.md": design(name) for name in PACKAGES}
    for script in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
        made[f"tutorials/{script.stem}.md"] = tutorial(script)
    made["reference/options.md"] = option_reference()
    made["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return made


def design(package: str) -> str:
    """Return a package's DESIGN.md with its links as seen from a page of the site."""
    text = (ROOT / package / "DESIGN.md").read_text(encoding="utf-8")
    return text.replace("](../docs/", "](../")


def tutorial(script: Path) -> str:
    """Return a notebook-style script as a page: the text of its cells between their code."""
    parts: list[str] = []
    for cell in CELL.split(script.read_text(encoding="utf-8"))[1:]:
        title, _, body = cell.partition("\n")
        if title.strip() == "[markdown]":
            parts.append(re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip())
        else:
            parts += [f"## {title.strip()}", f"```python\n{body.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def option_reference() -> str:
    """Return a page of all commands with their arguments, options and defaults, from their help."""
    import typer

    from cluster.cli import app

    lines = [
        "# Options",
        "",
        "Generated from the command line's own help when this page was built. `gigarestore COMMAND "
        "--help` prints the same.",
        "",
    ]
    top = typer.main.get_command(app)
    for names, command, context in _commands(top, ("gigarestore",), None):
        lines += _section(names, command, context)
    return "\n".join(lines)


def _commands(group: Any, names: tuple[str, ...], parent: Any) -> Iterator[tuple[Any, Any, Any]]:
    context = group.context_class(group, info_name=names[-1], parent=parent)
    for name in sorted(group.commands):
        command = group.commands[name]
        if hasattr(command, "commands"):
            yield from _commands(command, (*names, name), context)
        else:
            inner = command.context_class(command, info_name=name, parent=context)
            yield (*names, name), command, inner


def _section(names: tuple[str, ...], command: Any, context: Any) -> list[str]:
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"## {' '.join(names[1:])}", "", " ".join((command.help or "").split()), ""]
    lines += ["```text", " ".join(usage.split()), "```", ""]
    rows = [
        _row(record)
        for parameter in command.params
        if (record := parameter.get_help_record(context)) is not None
    ]
    if rows:
        lines += ["| | | default |", "|---|---|---|", *rows, ""]
    return lines


def _row(record: tuple[str, str]) -> str:
    flags, text = record
    default = ""
    if (match := DEFAULT.search(text)) is not None:
        text = text[: match.start()]
        default = match["required"] or match["value"].strip("()")
    cells = (f"`{flags}`", _cell(text), _cell(default))
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return re.sub(r"([|*_\[\]])", r"\\\1", text).replace("<", "&lt;")
