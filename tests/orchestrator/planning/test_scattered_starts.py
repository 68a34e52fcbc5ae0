"""Where single pixels are missing, a restoration starts the later the fewer are known."""

import numpy as np
import pytest
import tifffile

from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job

SIDE = 96
USUAL = 100


def known_pixels(share):
    return np.random.default_rng(0).random((SIDE, SIDE)) < share


def planned(tmp_path, known, *, by_value=False, **sampling):
    image = np.full((SIDE, SIDE), 100, "uint8")
    image[~known] = 7
    tifffile.imwrite(tmp_path / "in.tif", image)
    tifffile.imwrite(tmp_path / "mask.tif", known.astype("uint8") * 255)
    told = {"nodata": 7} if by_value else {"mask": str(tmp_path / "mask.tif")}
    values = {
        "input": {"path": str(tmp_path / "in.tif"), **told},
        "output": str(tmp_path / "out.zarr"),
        "task": {"name": "inpaint"},
        "sampling": sampling,
    }
    return plan_job(JobSpec.build(values)).spec.sampling


@pytest.mark.parametrize("by_value", [False, True], ids=["mask", "nodata"])
@pytest.mark.parametrize(
    ("share", "start", "guided"),
    [
        *((0.03, 5, 5), (0.1, 5, 5), (0.2, 12, 10), (0.35, 20, 10)),
        *((0.5, 40, 10), (0.8, USUAL, USUAL)),
    ],
)
def test_the_fewer_pixels_are_known_the_later_it_starts(tmp_path, share, start, guided, by_value):
    sampling = planned(tmp_path, known_pixels(share), by_value=by_value)
    assert (sampling.start, sampling.guided_start) == (start, guided)


@pytest.mark.parametrize("side", [4, 40, 90])
def test_holes_start_as_ever(tmp_path, side):
    known = np.ones((SIDE, SIDE), bool)
    known[3 : 3 + side, 3 : 3 + side] = False
    assert planned(tmp_path, known).start == USUAL


def test_a_given_start_wins(tmp_path):
    sampling = planned(tmp_path, known_pixels(0.1), start=70)
    assert (sampling.start, sampling.guided_start) == (70, 70)


@pytest.mark.parametrize(
    "sampling", [{"pixel_rules": 1}, {"intent": "detail"}, {"intent": "paper"}], ids=str
)
def test_the_first_rules_and_samples_of_the_posterior_start_as_ever(tmp_path, sampling):
    scattered = planned(tmp_path, known_pixels(0.1), **sampling)
    hole = np.ones((SIDE, SIDE), bool)
    hole[:8] = False
    assert scattered == planned(tmp_path, hole, **sampling)
