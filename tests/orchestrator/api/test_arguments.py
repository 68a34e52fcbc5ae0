"""The arguments of the Python API are the options of the command line; importing it is cheap."""

import subprocess
import sys
from html.parser import HTMLParser
from typing import get_type_hints

import pytest

import gigarestore as gr
from orchestrator.api.job_options import PLACES, JobOptions, build_spec
from orchestrator.job.spec import JobSpec
from tests.places import ROOT

# What `gigarestore info` and a first import may cost before anything is asked for, CPU seconds.
IMPORT_SECONDS = 0.3


def test_every_option_of_the_command_is_an_argument_in_the_same_place():
    from cluster.options.options import FLAGS, OPTIONS, RENAMED

    of_their_own = {"path", "output", *RENAMED}
    places = {
        FLAGS.get(name, name).removeprefix("--").replace("-", "_"): option
        for name, option in OPTIONS.items()
        if name not in of_their_own
    }
    found = {name: f"{option.section}.{option.field}" for name, option in places.items()}
    assert found == PLACES


SAID = {
    "grey levels": ({"sigma": 25}, {"sigma": "25"}),
    "percent": ({"sigma": "10%"}, {"sigma": "10%"}),
    "a level to estimate": ({"sigma": "auto"}, {"sigma": "auto"}),
    "counts": ({"noise": "poisson:2,8"}, {"noise": "poisson:2,8"}),
    "a band": ({"channel": 1}, {"channel": "1"}),
    "bands": ({"channel": [0, 2]}, {"channel": "0,2"}),
    "padding": ({"task": "outpaint", "pad": (0, 8, 0, 4)}, {"task": "outpaint", "pad": "0,8,0,4"}),
    "size": ({"task": "generate", "size": (64, 96)}, {"task": "generate", "size": "64x96"}),
    "range": ({"value_range": (0, 4095)}, {"value_range": "0,4095"}),
    "travel": ({"travel": (10, 3)}, {"travel": "10,3"}),
    "eta": ({"eta": 0.5}, {"eta": "0.5"}),
    "eta by name": ({"eta": "ddpm"}, {"eta": "ddpm"}),
    "symmetries": ({"ensemble": 4}, {"ensemble": "4"}),
    "region": (
        {"region": [((0, 0, 32, 64), "builtin"), ((32, 0, 64, 64), "diffusers:net", 3)]},
        {"region": ["0,0,32,64:builtin", "32,0,64,64:diffusers:net:3"]},
    ),
    "operator": (
        {"operator": "package.module:Blur", "operator_args": {"taps": 3}},
        {"operator": "package.module:Blur", "operator_args": ["taps=3"]},
    ),
    "scale": (
        {"scale": 2, "tile": 64, "order_block": 8},
        {"scale": 2, "tile": 64, "order_block": 8},
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_pythons_values_say_the_same_as_the_commands_text(case):
    from cluster.options.options import job_spec

    here, there = SAID[case]
    serial = {"executor": "serial"}
    assert build_spec({**here, **serial}) == job_spec(JobSpec(), {**there, **serial})


def test_a_class_is_an_operators_name_and_ray_is_used_where_it_is_asked_for():
    assert build_spec({"operator": HTMLParser}).task.operator == "html.parser:HTMLParser"
    assert build_spec({}).run.executor == "serial"
    assert build_spec({"workers": 2}).run.executor == "ray"
    assert build_spec({"address": "auto"}).run.executor == "ray"


def test_every_argument_is_typed():
    hints = get_type_hints(JobOptions, localns={"NDArray": list})
    assert set(hints) == set(PLACES) - {"task"}


def test_every_place_is_a_field_of_the_job():
    values = JobSpec().model_dump()
    for place in PLACES.values():
        section, field = place.split(".")
        assert field in (values[section] if section else values)


def test_every_task_of_the_job_has_a_method_that_an_editor_completes():
    names = set(JobSpec.model_json_schema()["$defs"]["TaskSpec"]["properties"]["name"]["enum"])
    made = {
        task.name
        for task in (
            gr.Task.sr(2),
            gr.Task.colorize(),
            gr.Task.inpaint("mask.png"),
            gr.Task.denoise("10%"),
            gr.Task.generate((64, 64)),
            gr.Task.sr_colorize(2),
            gr.Task.inpaint_colorize_sr(2, "mask.png"),
            gr.Task.deblur("gaussian:2"),
            gr.Task.cs(),
            gr.Task.outpaint((0, 8, 0, 8)),
            gr.Task.operator("package.module:Class", {"taps": 3}),
        )
    }
    assert made == names


@pytest.mark.slow
def test_importing_costs_little_and_every_name_is_there():
    code = (
        "import time; began = time.process_time(); import gigarestore; "
        "print(time.process_time() - began); "
        "print(all(getattr(gigarestore, name) is not None for name in dir(gigarestore)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seconds, complete = done.stdout.split()
    assert float(seconds) < IMPORT_SECONDS
    assert complete == "True"


def test_a_plan_needs_no_image_and_says_what_it_would_take():
    planned = gr.plan(size=(1000, 1200), scale=4, workers=8)

    assert planned.size == (4000, 4800)
    assert planned.numbers.tiles == sum(level.tiles for level in planned.numbers.levels)
    assert "4000 x 4800 px" in repr(planned)
