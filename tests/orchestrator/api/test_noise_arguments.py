"""Levels and models of noise as arguments of the Python API."""

import numpy as np
import pytest

import gigarestore as gr

QUICK = {"tile": 32, "stride": 24, "levels": 1, "steps": 1, "ensemble": 1}
RNG = np.random.default_rng(0)
NOISY = np.rint(100 + RNG.normal(0, 12, (48, 64))).clip(0, 255).astype(np.uint8)
SPECKLED = (0.1 * RNG.gamma(4, 1 / 4, (48, 64))).astype(np.float32)


def test_an_array_s_level_is_estimated():
    restored = gr.restore(NOISY, gr.Task.denoise("auto"), **QUICK)
    assert np.asarray(restored).std() < 0.5 * NOISY.std()


def test_speckle_of_floats_is_taken_off_an_array():
    restored = np.asarray(gr.restore(SPECKLED, gr.Task.denoise(noise="speckle:4"), **QUICK))
    assert restored.dtype == np.float32
    assert restored.mean() == pytest.approx(SPECKLED.mean(), rel=0.02)
    assert restored.std() < 0.5 * SPECKLED.std()


def test_a_level_far_from_the_noise_is_warned_of():
    with pytest.warns(UserWarning, match=r"^sigma=60 is [0-9.]+ times the noise") as told:
        gr.restore(NOISY, "denoise", sigma=60, **QUICK)
    assert "sigma='auto'" in str(told[0].message)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "denoise", "sigma": 100}, "at most a third"),
        ({"task": "denoise", "noise": "poisson:2", "sigma": 3}, "has no effect"),
        ({"task": "sr", "noise": "poisson:2"}, "task sr takes no noise="),
        ({"task": "denoise", "noise": "poisson:x"}, "give poisson:GAIN"),
    ],
)
def test_what_cannot_be_is_refused_in_words_of_python(options, says, tmp_path):
    with pytest.raises(gr.PlanError, match=says) as refused:
        gr.restore(NOISY, out=tmp_path / "out", **options)
    assert "--" not in str(refused.value)
    assert "\n" not in str(refused.value)
