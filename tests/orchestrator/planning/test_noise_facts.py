"""What a job says of its input's noise: estimated once where the user asks, checked where given."""

import json

import numpy as np
import pytest
import skimage.data

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.registry import TASKS
from orchestrator.planning.fingerprint import fingerprint
from orchestrator.planning.resolve import load_plan, plan_job
from orchestrator.run.lifecycle import resume, start
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run_folder import RunDir

SIDE = 96


def scene(sigma, bands=1, dtype="uint8", seed=0):
    """Return smooth shapes with noise, (bands, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    clean = 120 + 40 * np.sin(x / 17) * np.cos(y / 23) + 30 * (x > SIDE / 2)
    values = clean + rng.normal(0, 1, (bands, SIDE, SIDE)) * np.reshape(sigma, (-1, 1, 1))
    return np.rint(values).clip(0, 255).astype(dtype)


@pytest.fixture
def planned(write_picture, tmp_path):
    def plan(pixels, task, **source):
        path = write_picture(tmp_path / "in.png", pixels)
        return plan_job(JobSpec.build({"input": {"path": str(path), **source}, "task": task}))

    return plan


@pytest.mark.parametrize(
    "task",
    [{"name": "denoise"}, {"name": "sr", "scale": 2}, {"name": "deblur", "blur": "gaussian:1"}],
    ids=lambda task: task["name"],
)
def test_a_job_that_asks_for_the_level_is_given_one(planned, task):
    plan = planned(scene(10), {**task, "sigma": "auto"})
    assert plan.spec.task.sigma == pytest.approx(10, rel=0.15)
    assert plan.spec.task.noise_from == "estimated"
    assert plan.levels[0].sigma_y > 0
    assert "estimated" in plan.inputs.noise.used()
    assert JobSpec.from_toml(plan.spec.to_toml()) == plan.spec


def test_the_fingerprint_holds_the_number_and_not_where_it_came_from(planned):
    estimated = planned(scene(10), {"name": "denoise", "sigma": "auto"})
    given = planned(scene(10), {"name": "denoise", "sigma": estimated.spec.task.sigma})
    assert fingerprint(estimated) == fingerprint(given)


def test_the_noisiest_band_decides_and_the_user_is_told(planned):
    plan = planned(scene([5, 5, 15], bands=3), {"name": "denoise", "sigma": "auto"})
    assert plan.spec.task.sigma == pytest.approx(15, rel=0.15)
    assert "the largest is used" in plan.inputs.noise.used()


def test_a_file_without_noise_is_noise_free(planned):
    plan = planned(scene(0), {"name": "sr", "scale": 2, "sigma": "auto"})
    assert plan.spec.task.sigma == 0
    assert not plan.spec.task.noisy


@pytest.mark.parametrize(
    ("pixels", "says"),
    [(scene(0), "has no noise to remove"), (scene(0) * 0, "cannot be told")],
    ids=["clean", "black"],
)
def test_a_level_that_is_not_there_is_refused_on_one_line(planned, pixels, says):
    with pytest.raises(PlanError, match=says) as refused:
        planned(pixels, {"name": "denoise", "sigma": "auto"})
    assert "\n" not in str(refused.value)
    assert "--sigma LEVELS" in str(refused.value)


def test_a_job_without_a_file_is_planned_before_its_level_is_known():
    task = {"name": "denoise", "sigma": "auto"}
    plan = plan_job(JobSpec.build({"input": {"size": (64, 64)}, "task": task}))
    assert plan.spec.task.noisy


def test_a_task_without_a_picture_has_none_to_estimate_from():
    task = {"name": "generate", "sigma": "auto"}
    with pytest.raises(PlanError, match="--sigma auto looks at a picture"):
        plan_job(JobSpec.build({"input": {"size": (64, 64)}, "task": task}))


def test_a_run_that_goes_on_estimates_nothing(job, write_picture, tmp_path):
    """The file is gone by then."""
    source = write_picture(tmp_path / "in.png", scene(10))
    out = tmp_path / "out"
    spec = job(source, out, task={"name": "denoise", "sigma": "auto"}, sampling={"steps": 1})
    start(spec, SerialExecutor())
    begun = load_plan(RunDir(out)).spec
    source.unlink()
    outcome = resume(out, SerialExecutor())
    assert outcome.plan.spec.task == begun.task
    assert begun.task.noise_from == "estimated"


@pytest.mark.parametrize(
    "task",
    [
        {"name": "denoise", "sigma": 90},
        {"name": "sr", "scale": 2, "sigma": 100},
        {"name": "denoise", "sigma": 0.4, "sigma_unit": "fraction"},
    ],
    ids=["denoise", "sr", "percent"],
)
def test_noise_above_a_third_of_the_range_is_refused_on_one_line(planned, task):
    with pytest.raises(PlanError, match="at most a third") as refused:
        planned(scene(10), task)
    assert "\n" not in str(refused.value)


def test_the_range_that_counts_is_the_one_of_the_job(planned):
    pixels = scene(10, dtype="uint16")
    plan = planned(pixels, {"name": "denoise", "sigma": 90}, values=(0, 1000))
    assert plan.spec.task.sigma == 90
    with pytest.raises(PlanError, match="at most a third"):
        planned(pixels, {"name": "denoise", "sigma": 90})


@pytest.mark.parametrize("given", [{"sigma": 10}, {"sigma": "auto"}, {"noise": "poisson:2"}])
def test_bands_on_scales_of_their_own_have_no_one_level(planned, given):
    ranges = ((0, 255), (0, 200), (50, 255))
    with pytest.raises(PlanError, match="one level for all bands") as refused:
        planned(scene(10, bands=3), {"name": "denoise", **given}, values=ranges)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("sigma", [30, 80])
def test_a_level_far_above_the_noise_is_warned_of(planned, sigma):
    (line,) = planned(scene(8), {"name": "denoise", "sigma": sigma}).inputs.warnings
    assert f"--sigma {sigma} is" in line
    assert "about 7.85 grey levels" in line
    assert "\n" not in line


def test_a_level_far_below_the_noise_is_warned_of(planned):
    (line,) = planned(scene(30), {"name": "denoise", "sigma": 10}).inputs.warnings
    assert "--sigma auto" in line


@pytest.mark.parametrize("sigma", [3, 5, 8])
@pytest.mark.parametrize("name", ["grass", "gravel", "brick", "hubble_deep_field", "coffee"])
def test_texture_and_the_small_levels_that_are_given_for_codecs_raise_no_alarm(
    planned, name, sigma
):
    pixels = np.atleast_3d(getattr(skimage.data, name)()).transpose(2, 0, 1)[:, :256, :256]
    given = {"name": "sr", "scale": 2, "sigma": sigma}
    assert planned(pixels.copy(), given).inputs.warnings == ()


def test_a_command_warns_and_refuses_on_one_line(cli, write_picture, tmp_path):
    path = write_picture(tmp_path / "in.png", scene(8))
    options = ("--task", "denoise", "--steps", 1, "--executor", "serial", "--quiet")
    warned = cli("restore", path, tmp_path / "out", *options, "--sigma", 40)
    assert warned.code == 0
    assert warned.err.count("warning") == warned.err.strip().count("\n") + 1 == 1
    refused = cli("restore", path, tmp_path / "other", *options, "--sigma", "50%")
    again = cli("resume", tmp_path / "out", "--sigma", 41)
    assert again.code == 2
    assert "task.sigma was 40.0" in again.complaint
    assert refused.code == 2
    assert "at most a third" in refused.complaint
    assert not (tmp_path / "other").exists()


def test_a_run_whose_level_was_estimated_takes_auto_again(cli, write_picture, tmp_path):
    path = write_picture(tmp_path / "in.png", scene(8))
    options = ("--task", "denoise", "--steps", 1, "--executor", "serial", "--quiet")
    begun = cli("restore", path, tmp_path / "out", *options, "--sigma", "auto")
    assert "estimated" in begun.out
    assert cli("resume", tmp_path / "out", "--sigma", "auto").code == 0


def test_every_task_that_measures_a_picture_takes_auto(planned):
    own = {
        "inpaint": {"nodata": 7},
        "inpaint+colorize+sr": {"nodata": 7},
        "outpaint": {"pad": (0, 8, 0, 8)},
    }
    for name, kind in TASKS.items():
        if not (kind.measured and kind.picture):
            continue
        bands = 1 if kind.grey else 3
        task = {"name": name, "sigma": "auto", "scale": kind.least_scale}
        task |= {"blur": "gaussian:1"} if name == "deblur" else {}
        pixels = scene(10, bands=bands)
        pixels[..., 0, 0] = 7
        plan = planned(pixels, task, **own.get(name, {}))
        assert plan.spec.task.sigma == pytest.approx(10, rel=0.2), name


def test_info_says_what_noise_there_is(cli, write_picture, tmp_path):
    even = cli("info", write_picture(tmp_path / "even.png", scene(8)))
    assert "noise:           about" in even.out
    uneven = write_picture(tmp_path / "uneven.png", scene([4, 4, 20], bands=3))
    assert "differs from band to band" in cli("info", uneven).out
    assert json.loads(cli("info", uneven, "--json").out)["noise"][2] == pytest.approx(20, rel=0.2)
    black = write_picture(tmp_path / "black.png", scene(8) * 0)
    assert "cannot be told" in cli("info", black).out
