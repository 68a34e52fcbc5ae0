"""Every block of code that README and docs print is run, or says why it is not."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ended
from tests.docs.fences import Fence, documents, fences
from tests.docs.inputs import PHOTO_SIDE, write_inputs
from tests.places import ROOT

LANGUAGES = ("bash", "python", "toml", "csv", "json", "dockerfile", "text")
# Diagrams, handles and excerpts are no code.
PLAIN = ("text",)
RUN = ("bash", "python")
# A reason is a sentence, not a word.
SHORTEST_REASON = 12

# `gigarestore` as a program: this checkout's command in this process's Python.
COMMAND = """#!/bin/bash
exec {python} -m cluster "$@"
"""
# Both executors give the same bytes; starting Ray for each command would take minutes.
RESTORING = ("restore", "batch", "resume")
SERIALLY = ("--executor", "serial")

# Where nothing that is printed needs several tiles, one is enough, px.
SMALL_SIDE = 32

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


def test_the_lines_of_the_readmes_table_are_those_that_its_page_runs():
    table = re.findall(r"\| `(gigarestore [^`]+)` \|", AS_PRINTED.read_text(encoding="utf-8"))
    run = "\n".join(fence.text for fence in runs(ROOT / "docs" / "which-line.md")).splitlines()
    assert len(table) >= 5
    assert not [line for line in table if line not in run]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", cases())
def test_the_commands_of_a_page_do_what_it_says(page, tmp_path, monkeypatch, cli):
    work = tmp_path / "work"
    work.mkdir()
    several_tiles = any("+-" in fence.text for fence in fences(page))
    write_inputs(work, photo_side=PHOTO_SIDE if several_tiles else SMALL_SIDE)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(work))
    printed = ""
    for fence in fences(page):
        if name := fence.attributes.get("file"):
            (work / name).write_text(fence.text + "\n", encoding="utf-8")
        elif fence.language in RUN and fence.reason is None:
            as_programs = page == AS_PRINTED or fence.language == "python"
            printed = run_as_program(fence, tmp_path) if as_programs else run_here(fence, cli)
        elif "output" in fence.words:
            assert masked(printed) == masked(fence.text), fence.place
        elif "excerpt" in fence.words:
            missing = set(masked(fence.text)) - set(masked(printed))
            assert not missing, fence.place


def run_here(fence: Fence, cli: Callable[..., Ended]) -> str:
    """Run a block's commands in this process, with the serial executor; return their stdout."""
    printed = ""
    for line in fence.text.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "gigarestore", f"{fence.place}: {program} is not run here"
        if arguments[0] in RESTORING and "--executor" not in arguments:
            arguments += SERIALLY
        ended = cli(*arguments)
        assert ended.code == 0, f"{fence.place}: {line}: exit code {ended.code}\n{ended.err}"
        printed += ended.out
    return printed


def run_as_program(fence: Fence, folder: Path) -> str:
    """Run a block as printed, by the shell or Python; return its stdout."""
    program = [sys.executable, "-"] if fence.language == "python" else ["bash", "-e"]
    done = subprocess.run(
        program,
        input=fence.text,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{fence.place}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which `gigarestore` is this checkout's command."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    command = programs / "gigarestore"
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def masked(text: str) -> list[str]:
    """Return lines of text in which every number is N and every time T: they are the machine's."""
    timeless = re.sub(r"\d[\d.,]* (?:ms|s|min|h)\b", "T", text)
    return [re.sub(r"\d[\d.,]*", "N", line).strip() for line in timeless.strip().splitlines()]
