"""The fenced code blocks of the documentation, and what each says of itself.

A block's first line may say after its language:
- `norun="reason"`: a test cannot run it, and why not;
- `file="NAME"`: its text is written to that file before the next block of the page is run;
- `output` (of `text`): what the block before printed, but for the numbers;
- `excerpt` (of `text`): some lines of it, but for the numbers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.places import ROOT

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A fenced block: where it stands, what it is, what it holds."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def reason(self) -> str | None:
        """Why it is not run; None where it is."""
        return self.attributes.get("norun")


def documents() -> list[Path]:
    """Return the pages that people read: README, CONTRIBUTING, designs and everything in docs."""
    top = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    designs = sorted(ROOT.glob("*/DESIGN.md"))
    return [*top, *designs, *sorted((ROOT / "docs").rglob("*.md"))]


def fences(page: Path) -> list[Fence]:
    """Return a page's blocks in their order."""
    return list(_fences(page, page.read_text(encoding="utf-8").splitlines()))


def _fences(page: Path, lines: list[str]) -> Iterator[Fence]:
    opened: tuple[int, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(lines, start=1):
        match = FENCE.match(line)
        if match is None:
            body.append(line)
        elif opened is None:
            opened = (number, match["indent"], match["info"])
            body = []
        else:
            start, indent, info = opened
            text = "\n".join(row.removeprefix(indent) for row in body)
            yield _fence(page, start, info, text)
            opened = None
    assert opened is None, f"{page}: a block is not closed"


def _fence(page: Path, line: int, info: str, text: str) -> Fence:
    language, *rest = shlex.split(info) or [""]
    attributes = dict(word.split("=", 1) for word in rest if "=" in word)
    words = tuple(word for word in rest if "=" not in word)
    return Fence(
        page=page, line=line, language=language, words=words, attributes=attributes, text=text
    )
