"""Plans: levels, alignment and cost of every job that can be planned; refusals that name what would
work.
"""

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.job.geometry import alignment
from orchestrator.job.spec import JobSpec
from orchestrator.planning.estimate import disk_bytes, estimate, worker_bytes
from orchestrator.planning.resolve import plan_job

TASKS = [
    {"name": "sr", "scale": 2},
    {"name": "sr", "scale": 3},
    {"name": "sr", "scale": 4},
    {"name": "sr", "scale": 6},
    {"name": "sr", "scale": 16},
    {"name": "colorize"},
    {"name": "denoise", "sigma": 25},
    {"name": "generate"},
    {"name": "sr+colorize", "scale": 4},
    {"name": "sr+colorize", "scale": 3},
]


def plan_of(height, width, task, *, tiling=None, **other):
    size = {
        "size": (height, width),
        "bands": 1 if "colorize" in task["name"] else 3,
        "dtype": "uint8",
    }
    return plan_job(JobSpec.build({"input": size, "task": task, "tiling": tiling or {}, **other}))


@st.composite
def plans(draw):
    task = draw(st.sampled_from(TASKS))
    unit = 24 if task.get("scale") in (3, 6) else 16
    tiling = {
        "tile": draw(st.sampled_from([None, 2, 4, 8])),
        "order": draw(st.sampled_from(["raster", "centre"])),
        "margin": draw(st.sampled_from([None, 0])),
    }
    if tiling["tile"]:
        tiling["tile"] *= unit
    return plan_of(draw(st.integers(1, 700)), draw(st.integers(1, 700)), task, tiling=tiling)


@given(plans())
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_every_size_can_be_planned_and_every_level_covers_its_picture(plan):
    scale = plan.task.scale
    assert (plan.height, plan.width) == tuple(side * scale for side in plan.spec.input.size)
    for level in plan.levels:
        grid = level.grid
        assert level.height == -(-plan.height // level.factor)
        assert grid.rows.length >= level.height
        assert grid.cols.length >= level.width
        assert grid.rows.tile == grid.cols.tile == plan.tile


@given(plans())
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_tiles_start_and_end_on_operator_and_hierarchy_boundaries(plan):
    last = len(plan.levels) - 1
    for level in plan.levels:
        unit = alignment(plan.task, level.index, last)
        for axis in (level.grid.rows, level.grid.cols):
            for i in {0, 1 % axis.count, axis.count - 2 if axis.count > 1 else 0, axis.count - 1}:
                assert axis.start(i) % unit == 0
                assert axis.end(i) % unit == 0
                assert all(edge % unit == 0 for edge in axis.owned(i))
    assert plan.tile % plan.denoiser.multiple == 0


@given(plans())
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_a_coarser_level_lies_under_all_of_a_finer_one(plan):
    for fine, coarse in zip(plan.levels, plan.levels[1:], strict=False):
        assert coarse.grid.rows.length * 2 >= fine.grid.rows.length
        assert coarse.grid.cols.length * 2 >= fine.grid.cols.length


@given(plans())
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_levels_stop_where_one_tile_is_enough_or_the_measurement_determines_the_rest(plan):
    last = plan.levels[-1]
    one_tile = max(last.height, last.width) <= plan.tile
    assert one_tile or plan.task.posed(last.factor * 2) is None
    for level in plan.levels[:-1]:
        assert max(level.height, level.width) > plan.tile
    assert [level.guided for level in plan.levels] == [True] * (len(plan.levels) - 1) + [False]


def test_super_resolution_by_16_has_the_levels_of_the_paper():
    plan = plan_of(64, 64, {"name": "sr", "scale": 16}, tiling={"tile": 128})
    assert [(level.posed.scale, level.posed.pool) for level in plan.levels] == [
        (16, 1),
        (8, 1),
        (4, 1),
        (2, 1),
    ]


def test_noise_shrinks_where_the_measurement_is_pooled():
    plan = plan_of(512, 512, {"name": "denoise", "sigma": 25.5}, tiling={"tile": 128})
    assert [level.sigma_y for level in plan.levels] == pytest.approx([0.2, 0.1, 0.05])
    share = plan_of(
        512, 512, {"name": "denoise", "sigma": 0.1, "sigma_unit": "fraction"}, tiling={"tile": 128}
    )
    assert share.levels[0].sigma_y == pytest.approx(0.2)


def numbers_offered(message):
    return [int(n) for n in re.findall(r"\d+", message.rpartition("choose ")[2])]


SCALES = [2, 3, 4, 5, 6, 7, 8, 12, 16]


@given(st.sampled_from(SCALES), st.integers(8, 300), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
@pytest.mark.slow
def test_a_tile_that_does_not_fit_is_refused_with_tiles_that_do(scale, tile, levels):
    task = {"name": "sr", "scale": scale}
    try:
        plan_of(500, 500, task, tiling={"tile": tile, "levels": levels})
    except PlanError as refused:
        message = str(refused)
        assume("--levels" not in message)
        if "no room for an overlap" in message:
            plan_of(500, 500, task, tiling={"tile": numbers_offered(message)[0], "levels": levels})
            return
        assert f"tile {tile}" in message
        for better in numbers_offered(message):
            assert plan_of(500, 500, task, tiling={"tile": better, "levels": levels}).tile == better


@given(st.sampled_from(SCALES), st.integers(4, 240))
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_a_stride_that_does_not_fit_is_refused_with_strides_that_do(scale, stride):
    task = {"name": "sr", "scale": scale}
    tile = 8 * scale * (1 if scale % 8 else 2)
    try:
        plan_of(500, 500, task, tiling={"tile": tile, "levels": 1, "stride": stride})
    except PlanError as refused:
        message = str(refused)
        assert f"stride {stride}" in message
        assert "\n" not in message
        for better in numbers_offered(message):
            if better < tile:
                plan_of(500, 500, task, tiling={"tile": tile, "levels": 1, "stride": better})


@given(st.integers(0, 100), st.sampled_from([16, 32, 48]))
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_a_margin_that_does_not_fit_is_refused_with_margins_that_do(margin, stride):
    tiling = {"tile": 64, "stride": stride, "levels": 2}
    try:
        plan_of(100, 100, TASKS[2], tiling={**tiling, "margin": margin})
    except PlanError as refused:
        for better in numbers_offered(str(refused)):
            plan_of(100, 100, TASKS[2], tiling={**tiling, "margin": better})
    else:
        assert 2 * margin <= 64 - stride


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_more_levels_than_the_task_has_are_refused_with_the_most_that_it_has(task):
    tiling = {"tile": 48 if task.get("scale") in (3, 6) else 64}
    try:
        plan_of(50, 50, task, tiling={**tiling, "levels": 20})
    except PlanError as refused:
        (most,) = numbers_offered(str(refused))
        assert len(plan_of(50, 50, task, tiling={**tiling, "levels": most}).levels) == most
        with pytest.raises(PlanError, match="--levels"):
            plan_of(50, 50, task, tiling={**tiling, "levels": most + 1})


BAD_JOBS = [
    ({"name": "sr", "scale": 1}, {}, "needs --scale of at least 2"),
    ({"name": "denoise"}, {}, "needs --sigma above 0"),
    ({"name": "colorize", "scale": 2}, {}, "has no scale"),
    ({"name": "sr", "scale": 4}, {"sampling": {"start": 1000}}, "choose 1 to 999"),
    ({"name": "sr", "scale": 4, "sigma": 2}, {"sampling": {"inverse": "smooth"}}, "noise-free"),
    ({"name": "sr", "scale": 4}, {"denoiser": "magic"}, "known schemes: builtin:"),
    ({"name": "sr", "scale": 4}, {"denoiser": "guided-diffusion:"}, "write guided-diffusion:PATH"),
]


@pytest.mark.parametrize(("task", "other", "said"), BAD_JOBS, ids=str)
def test_a_job_that_cannot_work_is_refused_on_one_line(task, other, said):
    with pytest.raises(PlanError, match=said) as refused:
        plan_of(24, 28, task, **other)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bands", [2, 4, 7])
def test_bands_that_the_network_does_not_have_are_restored_in_groups(bands):
    size = {"size": (24, 28), "bands": bands, "dtype": "uint8"}
    plan = plan_job(JobSpec.build({"input": size, "task": TASKS[2]}))
    assert plan.out_channels == bands
    assert len(plan.bands.groups) == -(-bands // 3)
    assert estimate(plan, 1).nfe == -(-bands // 3) * estimate(plan_of(24, 28, TASKS[2]), 1).nfe


def test_an_estimate_adds_up():
    plan = plan_of(250, 300, TASKS[2], tiling={"tile": 128})
    numbers = estimate(plan, workers=4, step_seconds=0.5)
    assert numbers.tiles == plan.graph().count == sum(level.tiles for level in numbers.levels)
    assert numbers.nfe == sum(level.tiles * level.nfe_per_tile for level in numbers.levels)
    assert 1 <= numbers.critical_path <= numbers.tiles
    assert numbers.seconds >= max(0.5 * numbers.nfe / 4, 0.5 * numbers.critical_path)
    alone = estimate(plan, workers=1, step_seconds=0.5)
    assert alone.seconds == pytest.approx(0.5 * numbers.nfe)
    assert numbers.disk == disk_bytes(plan) > plan.height * plan.width * 3 * 4


def test_a_ten_gigapixel_run_needs_a_few_gigabytes_beside_its_result():
    size = {"size": (25_000, 25_000), "bands": 3, "dtype": "uint8"}
    spec = JobSpec.build(
        {"input": size, "task": {"name": "sr", "scale": 4}, "tiling": {"order": "raster"}}
    )
    published = 100_000**2 * 3 * 4 // 3
    pooled = sum(
        level.height * level.width * 12 for level in plan_job(spec).levels if level.posed.pool > 1
    )
    assert disk_bytes(plan_job(spec)) - published - pooled < 16e9
    kept = spec.model_copy(update={"run": spec.run.model_copy(update={"keep_work": True})})
    assert disk_bytes(plan_job(kept)) - published > 120e9


def test_centre_out_order_has_about_half_the_critical_path():
    paths = [
        estimate(
            plan_of(500, 500, TASKS[2], tiling={"tile": 128, "levels": 1, "order": order}), 1
        ).critical_path
        for order in ("raster", "centre")
    ]
    assert paths[1] < 0.6 * paths[0]


def test_a_plan_counts_the_weights_of_its_network():
    spec = JobSpec.build({"input": {"size": (64, 64)}, "task": {"name": "sr", "scale": 4}})
    plan = plan_job(spec)
    heavier = replace(
        plan,
        denoiser=replace(plan.denoiser, weight_bytes=plan.denoiser.weight_bytes + 2_000_000_000),
    )
    assert plan.denoiser.weight_bytes > 1_000_000
    assert worker_bytes(heavier) - worker_bytes(plan) == 2_000_000_000
