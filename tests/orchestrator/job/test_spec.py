"""JobSpec: read, written, refused by name; and the fingerprint that decides whether a run may be
resumed.
"""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning.fingerprint import check_same, fingerprint
from orchestrator.planning.resolve import plan_job

BASE = {
    "input": {"size": (24, 28), "bands": 3, "dtype": "uint8"},
    "task": {"name": "sr", "scale": 4},
}

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20
)


@st.composite
def specs(draw):
    def maybe(strategy):
        return draw(st.one_of(st.none(), strategy))

    values = {
        "input": {
            "path": maybe(NAMES),
            "mask": maybe(NAMES),
            "size": maybe(st.tuples(*[st.integers(1, 10**6)] * 2)),
        },
        "output": maybe(NAMES),
        "task": {
            "name": draw(
                st.sampled_from(
                    ["sr", "colorize", "inpaint", "denoise", "generate", "inpaint+colorize+sr"]
                )
            ),
            "scale": draw(st.integers(1, 64)),
            "sigma": draw(st.floats(0, 1e5)),
        },
        "sampling": {
            "intent": maybe(st.sampled_from(["faithful", "detail", "paper"])),
            "eta": maybe(st.one_of(st.floats(0, 1), st.just("ddpm"))),
            "steps": maybe(st.integers(1, 1000)),
            "travel": maybe(st.tuples(st.integers(1, 50), st.integers(1, 5))),
            "seed": draw(st.integers(0, 2**63 - 1)),
        },
        "tiling": {
            "tile": maybe(st.integers(8, 4096)),
            "order": maybe(st.sampled_from(["raster", "centre"])),
        },
        "run": {
            "executor": draw(st.sampled_from(["ray", "serial"])),
            "workers": maybe(st.integers(1, 1000)),
        },
    }
    return JobSpec.build(values)


@given(specs())
@pytest.mark.slow
def test_toml_gives_back_the_same_specification(spec: JobSpec):
    assert JobSpec.from_toml(spec.to_toml()) == spec


def test_an_empty_job_file_is_all_defaults():
    assert JobSpec.from_toml("") == JobSpec()


REFUSED = [
    ({"sampling": {"step": 10}}, ["unknown key 'sampling.step'", "did you mean 'steps'"]),
    ({"tilling": {}}, ["unknown key 'tilling'", "did you mean 'tiling'"]),
    (
        {"run": {"xyzzy": 1}},
        ["unknown key 'run.xyzzy'", "known: address, batch, drain_seconds, executor, hang_seconds"],
    ),
    ({"task": {"name": "dehaze"}}, ["task.name", "'dehaze'", "'inpaint'"]),
    ({"task": {"sigma": -1}}, ["task.sigma", "-1", "greater than or equal to 0"]),
    ({"task": {"scale": 65}}, ["task.scale", "65", "64"]),
    ({"task": {"scale": 0}}, ["task.scale", "0"]),
    ({"task": {"scale": 2.5}}, ["task.scale", "2.5"]),
    ({"task": {"sigma": "nan"}}, ["task.sigma"]),
    ({"task": {"sigma": float("nan")}}, ["task.sigma"]),
    ({"task": {"sigma": float("inf")}}, ["task.sigma"]),
    ({"sampling": {"eta": 2}}, ["sampling.eta", "2"]),
    ({"sampling": {"eta": float("nan")}}, ["sampling.eta"]),
    ({"sampling": {"eta": "all"}}, ["sampling.eta", "'all'"]),
    ({"sampling": {"steps": 0}}, ["sampling.steps", "0"]),
    ({"sampling": {"travel": [0, 3]}}, ["sampling.travel", "0"]),
    ({"sampling": {"seed": -3}}, ["sampling.seed", "-3"]),
    ({"sampling": {"noise_scale": 1.5}}, ["sampling.noise_scale", "1.5"]),
    ({"sampling": {"intent": "pretty"}}, ["sampling.intent", "'pretty'", "'faithful'"]),
    ({"tiling": {"tile": 4}}, ["tiling.tile", "4"]),
    ({"tiling": {"levels": 0}}, ["tiling.levels", "0"]),
    ({"tiling": {"order": "spiral"}}, ["tiling.order", "'spiral'", "'centre'"]),
    ({"run": {"executor": "dask"}}, ["run.executor", "'dask'"]),
    ({"run": {"workers": 0}}, ["run.workers", "0"]),
    ({"run": {"batch": 0}}, ["run.batch", "0"]),
    ({"input": {"size": [0, 5]}}, ["input.size", "0"]),
]


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=[str(values) for values, _ in REFUSED])
def test_a_bad_value_is_refused_by_its_name(values, said):
    with pytest.raises(PlanError) as refused:
        JobSpec.build(values)
    message = str(refused.value)
    assert "\n" not in message
    assert all(part in message for part in said), message


def test_a_file_that_is_not_toml_or_not_there_is_refused(tmp_path):
    (tmp_path / "job.toml").write_text("tile = = 3")
    with pytest.raises(PlanError, match=r"job\.toml is not valid TOML"):
        JobSpec.load(tmp_path / "job.toml")
    with pytest.raises(PlanError, match=r"cannot read .*none\.toml: No such file"):
        JobSpec.load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=r"binary\.toml"):
        JobSpec.load(tmp_path / "binary.toml")


JOBS = [
    {"task": {"name": "sr", "scale": 4}},
    {"task": {"name": "sr", "scale": 3}},
    {"task": {"name": "colorize"}},
    {"task": {"name": "denoise", "sigma": 25}},
    {"task": {"name": "generate"}},
    {"task": {"name": "sr+colorize", "scale": 2}},
    {"task": {"name": "sr", "scale": 4, "sigma": 5}, "sampling": {"intent": "paper"}},
    {"sampling": {"intent": "detail"}, "tiling": {"order": "raster"}},
    {"denoiser": "analytic:"},
    {"tiling": {"order": "bridge"}},
]


@pytest.mark.parametrize("values", JOBS, ids=str)
def test_a_resolved_specification_leaves_nothing_to_choose_and_resolves_to_itself(values):
    resolved = plan_job(JobSpec.build({**BASE, **values})).spec
    chosen = {**resolved.sampling.model_dump(), **resolved.tiling.model_dump()}
    optional = {"quality", "zeta", "eta_b", "ilvr_stop"}  # None is the published value
    if resolved.tiling.order != "bridge":
        optional.add("block")
    # From pure noise, or (denoise) from where the measurement's own noise is.
    free = resolved.sampling.init == "none" or resolved.task.name == "denoise"
    pure_noise = {"start", "guided_start"} if free else set()
    assert {name for name, value in chosen.items() if value is None} <= pure_noise | optional
    assert plan_job(resolved).spec == resolved
    assert plan_job(JobSpec.from_toml(resolved.to_toml())).spec == resolved


PIXEL_CHANGES = {
    "denoiser": {"denoiser": "analytic:"},
    "input_bands": {"input": {"bands": 1}},
    "input_dtype": {"input": {"dtype": "uint16"}},
    "input_size": {"input": {"size": (24, 32)}},
    "input_values": {"input": {"values": (0, 100)}},
    "input_grey_as": {"input": {"grey_as": "mean"}},
    "input_bands_as": {"input": {"bands_as": "single"}},
    "regions": {"regions": [{"box": (0, 0, 32, 32), "denoiser": "analytic:"}]},
    "sampling.method": {"sampling": {"method": "ilvr"}},
    "sampling.zeta": {"sampling": {"method": "dps", "zeta": 0.5}},
    "sampling.eta_b": {"sampling": {"method": "ddrm", "eta_b": 0.5}},
    "sampling.ilvr_stop": {"sampling": {"method": "ilvr", "ilvr_stop": 5}},
    "sampling.pixel_rules": {"sampling": {"pixel_rules": 1}},
    "sampling.quality": {"sampling": {"quality": "draft"}},
    "task.kernel": {"task": {"kernel": "bicubic"}},
    "task.skip_flat": {"task": {"skip_flat": 1}},
    "task.scale": {"task": {"scale": 2}},
    "task.noise": {"task": {"name": "denoise", "scale": 1, "noise": "poisson:2"}},
    "task.sigma": {"task": {"sigma": 1}},
    "task.sigma_unit": {"task": {"sigma": 1, "sigma_unit": "fraction"}},
    "predictor": {"task": {"sigma": 1}},
    "sampling.intent": {"sampling": {"intent": "detail"}},
    "sampling.form": {"sampling": {"form": "posterior"}},
    "sampling.eta": {"sampling": {"eta": 0.5}},
    "sampling.steps": {"sampling": {"steps": 7}},
    "sampling.guided_steps": {"sampling": {"guided_steps": 4}},
    "sampling.start": {"sampling": {"start": 99}},
    "sampling.guided_start": {"sampling": {"guided_start": 99}},
    "sampling.spacing": {"sampling": {"spacing": "uniform"}},
    "sampling.inverse": {"sampling": {"inverse": "replicate"}},
    "sampling.guide": {"sampling": {"guide": "constraint"}},
    "sampling.ensemble": {"sampling": {"ensemble": "2"}},
    "sampling.init": {"sampling": {"init": "none"}},
    "sampling.pins": {"sampling": {"pins": "gradient"}},
    "sampling.clip": {"sampling": {"clip": False}},
    "sampling.ddnm_plus": {"task": {"sigma": 1}, "sampling": {"ddnm_plus": "scalar"}},
    "sampling.noise_scale": {"sampling": {"noise_scale": 0.5}},
    "sampling.travel": {"sampling": {"travel": (2, 2)}},
    "sampling.seed": {"sampling": {"seed": 1}},
    "tiling.tile": {"tiling": {"tile": 64}},
    "tiling.stride": {"tiling": {"stride": 128}},
    "tiling.margin": {"tiling": {"margin": 0}},
    "tiling.levels": {"tiling": {"levels": 2}},
    "tiling.order": {"tiling": {"order": "raster"}},
    "tiling.block": {"tiling": {"order": "bridge", "block": 3}},
}


def with_changes(changes):
    values = JobSpec.build(BASE).model_dump()
    for section, change in changes.items():
        values[section] = {**values[section], **change} if isinstance(change, dict) else change
    return JobSpec.build(values)


@pytest.mark.parametrize("name", PIXEL_CHANGES)
def test_every_change_of_pixels_changes_the_fingerprint_and_is_named(name):
    kept, now = (
        fingerprint(plan_job(with_changes(changes))) for changes in ({}, PIXEL_CHANGES[name])
    )
    assert kept[name] != now[name]
    with pytest.raises(PlanError, match="cannot resume: ") as refused:
        check_same(kept, now)
    differing = [field for field in kept if kept[field] != now[field]]
    assert any(f" {field} was " in str(refused.value) for field in differing)
    assert "\n" not in str(refused.value)


def test_every_field_that_changes_pixels_is_in_this_test():
    fields = set(fingerprint(plan_job(JobSpec.build(BASE))))
    guided = {
        "guidance.label",
        "guidance.classifier",
        "guidance.scale",
    }  # need a checkpoint: tests/orchestrator/planning/test_guiding.py
    # Belong to other tasks (tests/orchestrator/run/test_more_tasks.py restores with them).
    others = {
        "alignment",
        "block",
        "blur",
        "cs_seed",
        "operator",
        "operator_args",
        "ratio",
        "weights",
    }
    inputs = {
        f"input.{name}"
        for name in (
            "channel",
            "crop",
            "extent",
            "fine_mask",
            "keep_mask",
            "keep_nodata",
            "mask_holes",
            "mask_white",
            "nodata",
            "pad",
            "t",
            "z",
        )
    }
    untested = {
        "operator_content",
        "pixel_version",
        "input",
        "mask",
        "valid_file",
        "task.name",
        *guided,
        *inputs,
        *(f"task.{name}" for name in others),
    }
    assert fields == set(PIXEL_CHANGES) | untested


def test_where_it_runs_and_is_put_is_not_in_the_fingerprint():
    run = {"executor": "serial", "workers": 7, "batch": 3, "address": "x:1", "keep_work": True}
    changed = with_changes({"run": run, "output": "elsewhere"})
    assert fingerprint(plan_job(changed)) == fingerprint(plan_job(JobSpec.build(BASE)))


def test_the_fingerprint_knows_the_input_by_its_content(tmp_path, make_picture, write_picture):
    first = write_picture(tmp_path / "a.png", make_picture(20, 20))
    moved = shutil.copy(first, tmp_path / "b.png")
    other = write_picture(tmp_path / "c.png", make_picture(20, 20, seed=1))
    marks = [
        fingerprint(plan_job(JobSpec.build({**BASE, "input": {"path": str(p)}})))
        for p in (first, moved, other)
    ]
    assert marks[0] == marks[1]
    assert [name for name in marks[0] if marks[0][name] != marks[2][name]] == ["input"]


@pytest.mark.parametrize("batching", ["fair", "continuous"])
def test_a_job_file_of_an_older_version_may_say_how_tiles_shared_batches(batching):
    text = f'[run]\nexecutor = "serial"\nbatch = 2\nbatching = "{batching}"\n'
    assert JobSpec.from_toml(text) == JobSpec.build({"run": {"executor": "serial", "batch": 2}})


def test_the_options_of_a_new_job_do_not_say_how_tiles_share_batches():
    with pytest.raises(PlanError, match=r"unknown key 'run\.batching'"):
        JobSpec.build({"run": {"batching": "fair"}})
