"""What a job says of its input's noise: estimated once where the user asks, checked where given."""

import numpy as np
import pytest

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
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
