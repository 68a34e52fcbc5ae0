"""What the documents name exists: modules, commands, pages."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.fences import documents
from tests.places import ROOT

PATHS = re.compile(
    r"(?<![\w/.-])((?:kernels|storage|orchestrator|cluster|tests|docs)/[\w/.-]*[\w]|"
    r"[A-Za-z_]+\.py)(?![\w(])"
)
LINKS = re.compile(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)")
# Pages that MkDocs makes of the code when it builds the site.
GENERATED = ("reference/options.md", "changelog.md", "design/", "tutorials/")
# Of the reader, not of this repository.
OF_THE_READER = ("my_operator.py",)
# Said by the library that reads the command line.
OF_TYPER = ("No such option",)

ids = pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))


@ids
def test_modules_and_files_that_a_page_names_exist(page):
    for name in PATHS.findall(page.read_text(encoding="utf-8")):
        if name in OF_THE_READER:
            continue
        at_the_top = (ROOT / name).exists()
        anywhere = "/" not in name and any(ROOT.glob(f"*/**/{name}"))
        assert at_the_top or anywhere, f"{page.name} names {name}, which is not there"


@ids
def test_links_between_pages_lead_somewhere(page):
    for link in LINKS.findall(page.read_text(encoding="utf-8")):
        if link.startswith(GENERATED) and page.parent.name == "docs":
            continue
        assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"


def test_error_texts_of_the_troubleshooting_page_are_those_of_the_code():
    texts = "\n".join(spoken())
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert rows
    assert not [row for row in rows if row not in texts and row not in OF_TYPER]


def spoken():
    """Yield what the code's strings say, values left out."""
    for package in ("kernels", "storage", "orchestrator", "cluster"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "..." for p in node.values]
                    yield "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
