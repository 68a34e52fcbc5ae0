"""What papers published and the defaults are not is offered by name, and refused where it does
nothing.
"""

import pytest

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job


def planned(sampling, task="generate", **task_fields):
    return plan_job(
        JobSpec.model_validate(
            {
                "input": {"size": (64, 64)} if task == "generate" else task_fields.pop("input"),
                "denoiser": "analytic:",
                "task": {"name": task, **task_fields},
                "sampling": {"intent": "paper", "steps": 4, **sampling},
            }
        )
    )


@pytest.fixture
def noisy(tmp_path):
    import numpy as np
    import tifffile

    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.full((32, 32, 3), 99, "uint8"), photometric="rgb")
    return {"path": str(path)}


def test_generation_in_the_papers_way_is_pulled_by_its_pins():
    assert planned({}).spec.sampling.pins == "gradient"


@pytest.mark.parametrize(
    "sampling", [{"pins": "replace"}, {"method": "pigdm"}, {"method": "dps"}, {"pixel_rules": 1}]
)
def test_pins_replace_where_that_is_said_or_the_method_pulls_everything(sampling):
    assert planned(sampling).spec.sampling.pins == "replace"


def test_what_is_measured_everywhere_keeps_pins_that_replace(noisy):
    plan = planned({}, "sr", input=noisy, scale=2)
    assert plan.spec.sampling.pins == "replace"


def test_a_hole_is_pulled_by_its_pins(noisy, tmp_path):
    import numpy as np
    import tifffile

    mask = np.full((32, 32), 255, "uint8")
    mask[8:24, 8:24] = 0
    tifffile.imwrite(tmp_path / "m.tif", mask)
    source = {**noisy, "mask": str(tmp_path / "m.tif")}
    assert planned({}, "inpaint", input=source).spec.sampling.pins == "gradient"


def test_scalar_weights_and_unclipped_estimates_are_offered(noisy):
    said = {"ddnm_plus": "scalar", "clip": False}
    sampling = planned(said, "denoise", input=noisy, sigma=9.0).spec.sampling
    assert (sampling.ddnm_plus, sampling.clip) == ("scalar", False)
    usual = planned({}, "denoise", input=noisy, sigma=9.0).spec.sampling
    assert (usual.ddnm_plus, usual.clip) == ("projector", True)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (
            {"ddnm_plus": "scalar"},
            "--ddnm-plus scalar has no effect with --method ddnm without --sigma",
        ),
        ({"pins": "gradient", "method": "dps"}, "--pins gradient has no effect with --method dps"),
    ],
)
def test_what_has_no_effect_is_refused(sampling, message):
    with pytest.raises(PlanError, match=message):
        planned(sampling)
