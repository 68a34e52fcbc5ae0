"""The registry of tasks: one row per task, and a new task that is one file."""

import subprocess
import sys
import textwrap
from typing import get_args

import numpy as np
import pytest
import tifffile

from orchestrator.api.job_options import TaskName
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.registry import TASKS, trials
from tests.places import ROOT

# Name: options that it needs besides an input, what is known of its measurement, its levels at a
# side of 1000 px and tiles of 256 px.
ROWS = {
    "sr": ({"scale": 4}, "all bands, cells", 2),
    "colorize": ({}, "grey, cells", 3),
    "inpaint": ({}, "masked, cells", 3),
    "denoise": ({"sigma": 25}, "all bands, cells", 3),
    "generate": ({}, "nothing", 3),
    "sr+colorize": ({"scale": 2}, "grey, cells", 3),
    "inpaint+colorize+sr": ({"scale": 2}, "grey, masked, cells", 3),
    "deblur": ({"weights": [[0.25, 0.5, 0.25]]}, "all bands, stencil", 1),
    "cs": ({"ratio": 0.25}, "coefficients", 1),
    "outpaint": ({}, "masked, cells", 3),
    "operator": ({"operator": "a.module:Class"}, "its own", 1),
}


def nature(task):
    if not task.measured:
        return "nothing"
    if not task.picture:
        return "coefficients" if task.coefficients else "its own"
    parts = ["grey"] * task.grey + ["masked"] * task.masked
    return ", ".join([*(parts or ["all bands"]), "cells" if task.stencil is None else "stencil"])


def test_every_task_has_a_row_in_the_order_in_which_messages_name_them():
    assert list(ROWS) == list(TASKS)


@pytest.mark.parametrize("name", ROWS)
def test_a_task_measures_what_its_row_says_and_has_as_many_levels(name):
    options, known, levels = ROWS[name]
    task = JobSpec.build({"task": {"name": name, **options}}).resolved_task()
    assert nature(task) == known
    assert task.deepest(1000, 1000, 256) + 1 == levels
    assert task.pixelwise == ("cells" in known)


def test_bicubic_super_resolution_is_the_same_task_with_a_stencil():
    task = JobSpec.build({"task": {"name": "sr", "scale": 2, "kernel": "bicubic"}}).resolved_task()
    assert nature(task) == "all bands, stencil"
    assert task.posed(1).scale == 2


@pytest.mark.parametrize("name", TASKS)
def test_every_task_refuses_the_options_of_the_others(name):
    from orchestrator.job.tasks.registry import check_options

    foreign = {"blur": "uniform:3", "ratio": 0.5, "operator": "a:B", "kernel": "bicubic"}
    flags = {"blur": "--blur", "ratio": "--ratio", "operator": "--operator", "kernel": "--kernel"}
    own = {option.flag.split()[0] for option in TASKS[name].own_options}
    for field, value in foreign.items():
        given = JobSpec.build({"task": {"name": name, field: value}}).task
        if flags[field] in own:
            check_options(given)
            continue
        with pytest.raises(PlanError, match=rf"takes no {flags[field]}.*; use --task"):
            check_options(given)


def test_trials_name_tasks_and_build():
    for trial in trials().values():
        assert JobSpec.build({"task": dict(trial.task)}).resolved_task()


def test_the_python_api_offers_every_task_to_editors():
    assert set(get_args(TaskName)) == set(TASKS)


NEW_TASK = '''
"""Means over two rows: a task that this package does not know."""

from orchestrator.job.tasks.task import Task


class Rows(Task):
    """Every pair of rows, and of columns, as its mean, in an operator of its own."""

    name = "rows"
    place = 200
    scaled = True
    least_scale = 2
    default_scale = 2
    has_coarser_levels = False
    under_output = False
    picture = False

    @classmethod
    def operator(cls, given):
        from kernels.operators.elementary import AveragePool

        return AveragePool(given.scale)
'''


@pytest.mark.slow
def test_a_new_task_is_one_file(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "rows.py").write_text(NEW_TASK)
    pixels = np.random.default_rng(0).integers(60, 190, (24, 20, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb")
    code = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[1])
        from orchestrator.job import tasks
        tasks.__path__.append("tasks")
        from cluster.cli import _run
        quick = "--tile 32 --stride 16 --steps 2 --executor serial --quiet".split()
        codes = [
            _run(["restore", "in.tif", "out.zarr", "--task", "rows", *quick]),
            _run(["verify", "out.zarr"]),
            _run(["degrade", "in.tif", "half.tif", "--task", "rows"]),
            _run(["restore", "in.tif", "no.zarr", "--task", "rows", "--mask", "in.tif"]),
        ]
        print(codes)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["[0, 0, 0, 2]"], done.stdout + done.stderr
    assert "task rows takes no --mask; use --task inpaint" in done.stderr
    assert tifffile.imread(tmp_path / "half.tif").shape == (12, 10, 3)
