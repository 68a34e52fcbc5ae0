"""The tutorials run as they stand, and what they print is what they promise."""

import os
import re
import subprocess
import sys

import pytest

from tests.places import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the first tutorial prints, run as a script in an empty folder."""
    done = subprocess.run(
        [sys.executable, str(TUTORIALS / "first_steps.py")],
        cwd=tmp_path_factory.mktemp("tutorial"),
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_five_lines_restore_an_array_better_than_bicubic(printed):
    decibels = {
        name: float(value) for name, value in re.findall(r"^(\w+): ([\d.]+) dB$", printed, re.M)
    }
    assert set(decibels) == {"bicubic", "restored"}
    assert decibels["restored"] > decibels["bicubic"] + 0.5


@pytest.mark.slow
def test_every_later_cell_shows_what_it_says(printed):
    lines = printed.splitlines()
    assert any(line.startswith("A x = y: True") for line in lines)
    assert "known pixels are kept: True" in lines
    assert "['BatchCommitted', 'RunFinished', 'RunStarted', 'WorkerStarted']" in printed.replace(
        "'DomainChecked', ", ""
    )
    (residual,) = re.findall(r"\|A x - y\| is at most (\S+)", printed)
    assert float(residual) < 1e-5


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.py")), ids=lambda path: path.stem)
def test_a_tutorial_is_made_of_cells(path):
    cells = re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.M)
    assert cells[0] == ""
    assert len(cells) > 3
    for cell in cells[1:]:
        compile("#" + cell, str(path), "exec")
