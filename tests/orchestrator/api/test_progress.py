"""progress=True draws a bar, a function hears every event, and nothing is printed otherwise."""

import io
import sys

import pytest

import gigarestore as gr
from orchestrator.api.text_bar import TextBar
from orchestrator.events import BatchCommitted, DomainChecked, RunStarted, Staging


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def photo(make_picture):
    return make_picture(8, 8).transpose(1, 2, 0)


def test_a_bar_ends_with_all_tiles(photo, quick, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())

    gr.restore(photo, progress=True, **quick)

    last = sys.stderr.getvalue().split("\r")[-1]
    assert last.startswith("[##############################] ")
    assert " NFE/s" in last
    assert last.endswith("\n")


def test_nothing_is_printed_unless_it_is_asked_for(photo, quick, capfd):
    heard = []

    gr.restore(photo, progress=heard.append, **quick)

    assert capfd.readouterr() == ("", "")
    assert {type(event) for event in heard} >= {RunStarted, BatchCommitted}


def test_where_there_is_no_terminal_lines_are_few_and_whole():
    stream = io.StringIO()
    with TextBar(stream) as bar:
        bar(Staging(name="photo.png", done=1, total=4))
        bar(RunStarted(tiles=100, done=0, executor="serial"))
        bar(DomainChecked(residual=2.0, known=1.0, limit=1.5, far=True))
        for tile in range(100):
            bar(BatchCommitted(worker="serial", keys=((0, 0, tile),), seconds=0.1, nfe=2))

    lines = stream.getvalue().splitlines()
    assert lines[0] == "reading photo.png: 25 %"
    assert lines[1].startswith("this prior does not know such images")
    assert lines[-1].startswith("[##############################] 100/100 tiles")
    assert len(lines) == 3
    assert "\r" not in stream.getvalue()
