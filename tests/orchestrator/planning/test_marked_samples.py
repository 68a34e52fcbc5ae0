"""A value that is to be filled and that no sample has leaves nothing to do: refused, where that is
certain.
"""

import numpy as np
import pytest
import tifffile

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job


def planned(path, nodata, **source):
    fields = {
        "input": {"path": str(path), "nodata": nodata, **source},
        "denoiser": "analytic:",
        "task": {"name": "inpaint"},
    }
    return plan_job(JobSpec.model_validate(fields))


def picture(folder, pixels):
    tifffile.imwrite(folder / "in.tif", pixels, photometric="minisblack")
    return folder / "in.tif"


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 5), ("int16", -7), ("float32", "nan")])
def test_a_value_that_no_sample_has_is_refused_by_name(tmp_path, dtype, value):
    path = picture(tmp_path, np.full((40, 40), 99, dtype))
    with pytest.raises(PlanError, match=f"--nodata {value}: no sample of .* nothing is left to"):
        planned(path, value)


def test_one_sample_of_it_is_enough(tmp_path):
    pixels = np.full((40, 40), 99, "uint8")
    pixels[39, 39] = 5
    assert planned(picture(tmp_path, pixels), 5).spec.input.nodata == 5


def test_what_lies_outside_of_the_chosen_part_does_not_count(tmp_path):
    pixels = np.full((40, 60), 99, "uint8")
    pixels[39, 59] = 5
    with pytest.raises(PlanError, match="nothing is left to fill"):
        planned(picture(tmp_path, pixels), 5, crop=(0, 0, 32, 32))


def test_an_image_that_is_only_looked_at_in_parts_is_taken(tmp_path):
    pixels = np.full((64, 3000), 99, "uint8")
    pixels[0, 1000] = 5
    assert planned(picture(tmp_path, pixels), 5).spec.input.nodata == 5
