"""Every block of code that README and docs print is run, or says why it is not."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.fences import Fence, documents, fences
from tests.docs.inputs import write_inputs
from tests.places import ROOT

LANGUAGES = ("bash", "python", "toml", "csv", "json", "dockerfile", "text")
# Diagrams, handles and excerpts are no code.
PLAIN = ("text",)
RUN = ("bash", "python")
# A reason is a sentence, not a word.
SHORTEST_REASON = 12

# The commands as printed, but in this process's Python, and, where a page has many runs, without
# starting Ray for each: both executors give the same bytes.
COMMAND = """#!/bin/bash
{serial}
exec {python} -m cluster "$@"
"""
SERIAL = """case "$1 $*" in
  *--executor*) ;;
  restore*|batch*|resume*) set -- "$@" --executor serial ;;
esac"""

PAGES = [page for page in documents() if any(f.language in RUN for f in fences(page))]
AS_PRINTED = ROOT / "README.md"


def runs(page: Path) -> list[Fence]:
    """Return the blocks of a page that are run."""
    return [f for f in fences(page) if f.reason is None and f.language in RUN]


def cases() -> list:
    """Return a case for each page with something to run; those that restore take a while."""
    found = []
    for page in PAGES:
        text = "\n".join(fence.text for fence in runs(page))
        marks = [pytest.mark.slow] if "gigarestore" in text else []
        if page == AS_PRINTED:
            marks.append(pytest.mark.ray)
        if text:
            found.append(pytest.param(page, marks=marks, id=str(page.relative_to(ROOT))))
    return found


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_has_a_language_and_a_reason_where_it_is_not_run(page):
    for fence in fences(page):
        assert fence.language in LANGUAGES, f"{fence.place}: language {fence.language!r}"
        if fence.reason is not None:
            assert len(fence.reason) >= SHORTEST_REASON, f"{fence.place}: {fence.reason!r}"


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_stands_in_fences_so_that_it_can_be_found(page):
    inside = False
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        inside ^= line.lstrip().startswith("```")
        indented = line.startswith("    ") and not before.strip()
        assert inside or not indented, f"{page.name}:{number}: code without a fence"
        before = line


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_data_blocks_can_be_parsed(page):
    for fence in fences(page):
        if fence.language == "toml":
            assert tomllib.loads(fence.text), fence.place
        elif fence.language == "json":
            assert json.loads(fence.text), fence.place
        elif fence.language == "python":
            ast.parse(fence.text, filename=fence.place)


@pytest.mark.parametrize("page", cases())
def test_the_commands_of_a_page_do_what_it_says(page, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    write_inputs(work)
    environment = surroundings(tmp_path, serial=page != AS_PRINTED)
    printed = ""
    for fence in fences(page):
        if name := fence.attributes.get("file"):
            (work / name).write_text(fence.text + "\n", encoding="utf-8")
        elif fence.language in RUN and fence.reason is None:
            printed = run(fence, work, environment)
        elif "output" in fence.words:
            assert masked(printed) == masked(fence.text), fence.place
        elif "excerpt" in fence.words:
            missing = set(masked(fence.text)) - set(masked(printed))
            assert not missing, fence.place


def surroundings(folder: Path, *, serial: bool) -> dict[str, str]:
    """Return an environment in which `gigarestore` is this checkout's command."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    command = bin_folder / "gigarestore"
    command.write_text(COMMAND.format(python=sys.executable, serial=SERIAL if serial else ""))
    command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return environment | {
        "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": str(folder),
    }


def run(fence: Fence, work: Path, environment: dict[str, str]) -> str:
    """Run a block to its end; return its stdout, without what begins and ends with spaces."""
    program = [sys.executable, "-"] if fence.language == "python" else ["bash", "-e"]
    done = subprocess.run(
        program,
        input=fence.text,
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, f"{fence.place}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout


def masked(text: str) -> list[str]:
    """Return lines of text in which every number is N: times and sizes are the machine's."""
    return [re.sub(r"\d[\d.,]*", "N", line).strip() for line in text.strip().splitlines()]
