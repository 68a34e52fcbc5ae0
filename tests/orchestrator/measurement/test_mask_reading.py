"""Masks mean what they say: one reading of grey ones, and a refusal where nothing is left to do."""

import numpy as np
import pytest
import tifffile

from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import InputSpec
from orchestrator.measurement.mask_reading import mask_known, survey_mask


def mask(path, values):
    tifffile.imwrite(path, np.asarray(values))
    return str(path)


def holed(value=0, white=255, dtype="uint8"):
    image = np.full((40, 50), white, dtype)
    image[5:9, 5:9] = value
    image[20:30, 10:12] = value
    image[20:22, 10:30] = value
    return image


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint8", 1), ("uint16", 65535)])
def test_known_share_and_holes_are_counted(tmp_path, dtype, white):
    survey = survey_mask(mask(tmp_path / "m.tif", holed(0, white, dtype)), None)
    assert survey.white == white
    assert survey.holes == 2
    unknown = 16 + 20 + 40 - 4
    assert survey.known == pytest.approx(1 - unknown / 2000)
    assert str(survey) == f"{survey.known:.1%} of the mask is known, holes: 2"


@pytest.mark.parametrize("value", [1, 4, 30, 128, 200])
def test_what_is_not_nearly_white_is_a_hole(tmp_path, value):
    image = holed(value)
    survey = survey_mask(mask(tmp_path / "m.tif", image), None)
    known = mask_known(InputSpec(mask_white=survey.white), 2, image[None])[0]
    assert np.array_equal(known, image == 255)


def test_nearly_white_is_known_as_jpeg_leaves_it():
    image = np.array([[[255, 250, 240, 230]]], "uint8")
    assert mask_known(InputSpec(mask_white=255), 2, image).all()


def test_the_other_polarity_is_said_by_an_option(tmp_path):
    path = mask(tmp_path / "m.tif", 255 - holed())
    survey = survey_mask(path, "white")
    assert survey.holes == 2
    assert survey.known > 0.9


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((20, 20), 255, "uint8"), "everything is known"),
        (np.zeros((20, 20), "uint8"), "nothing is known"),
        (np.arange(400, dtype="uint8").reshape(20, 20), "neither black nor white"),
    ],
)
def test_a_mask_that_leaves_nothing_to_do_is_refused_in_one_line(tmp_path, values, said):
    with pytest.raises(PlanError, match=said) as refused:
        survey_mask(mask(tmp_path / "m.tif", values), None)
    assert "--mask" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_under_the_first_rules_whatever_is_not_black_is_known():
    image = np.array([[[0, 1, 128, 255]]], "uint8")
    assert mask_known(InputSpec(), 1, image).tolist() == [[[False, True, True, True]]]


def test_a_large_mask_is_looked_at_in_spread_windows(tmp_path):
    image = np.full((1500, 1500), 255, "uint8")
    image[::2] = 0
    survey = survey_mask(mask(tmp_path / "m.tif", image), None)
    assert survey.holes is None
    assert survey.known == pytest.approx(0.5, abs=0.02)
    assert str(survey).startswith("about ")


def test_many_holes_are_counted_apart_by_their_sides(tmp_path):
    image = np.full((9, 9), 255, "uint8")
    image[::2, ::2] = 0
    assert survey_mask(mask(tmp_path / "m.tif", image), None).holes == 25
    image[1, 0] = 0
    assert survey_mask(mask(tmp_path / "m.tif", image), None).holes == 24
