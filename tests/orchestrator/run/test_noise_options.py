"""Noise that depends on the brightness: counts and speckle are restored on the scale on which their
noise is even, and come back without a bias.
"""

import numpy as np
import pytest

from kernels.metrics import psnr
from orchestrator.errors import PlanError
from orchestrator.job.fields.noise_option import read_noise
from orchestrator.job.spec import JobSpec
from orchestrator.job.value_range import Values
from orchestrator.planning.resolve import plan_job
from orchestrator.run.lifecycle import resume
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run

SIDE = 64


def blobs(low, high):
    """Return bright blobs on a dark ground, (1, SIDE, SIDE) float64."""
    y, x = np.mgrid[:SIDE, :SIDE]
    places = [(14, 16, 7), (40, 20, 9), (24, 46, 8), (50, 52, 6)]
    bumps = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * r * r)) for a, b, r in places)
    return (low + (high - low) * np.minimum(bumps, 1))[None]


def counted(scene, gain, seed=0):
    counts = np.random.default_rng(seed).poisson(scene / gain)
    return np.rint(counts * gain).clip(0, 65535).astype(np.uint16)


def speckled(power, looks, seed=0):
    return power * np.random.default_rng(seed).gamma(looks, 1 / looks, power.shape)


@pytest.fixture
def denoised(job, serially, published_pixels, write_picture, tmp_path):
    """Denoise pixels and return the published ones."""

    def run(pixels, values=None, name="out", **task):
        source = write_picture(tmp_path / "in.tif", pixels)
        tiling = {"tile": 64, "stride": 48, "levels": None}
        spec = job(
            source,
            tmp_path / name,
            task={"name": "denoise", **task},
            sampling={"intent": "faithful", "steps": 1},
            tiling=tiling,
            input={} if values is None else {"values": values},
        )
        serially(spec)
        return published_pixels(tmp_path / name)

    return run


def test_counts_are_denoised_better_than_as_noise_of_one_level(denoised, tmp_path):
    clean = blobs(100, 4000)
    noisy = counted(clean, gain=100)
    gaussian = denoised(noisy, (0, 8000), "a", sigma=float((noisy - clean).std()))
    poisson = denoised(noisy, (0, 8000), "b", noise="poisson:100")
    assert psnr(poisson, clean, 4000) > psnr(gaussian, clean, 4000) + 1
    assert poisson.mean() == pytest.approx(clean.mean(), rel=0.02)
    verified = verify_run(tmp_path / "b")
    assert verified.passed
    assert verified.noisy


@pytest.mark.parametrize("model", ["poisson:100,20", "speckle:4"])
def test_an_interrupted_run_of_two_levels_goes_on_to_the_same_bytes_and_keeps_the_mean(
    job, serially, write_picture, published_files, published_pixels, tmp_path, model
):
    pixels = counted(blobs(400, 4000), 100)
    source = write_picture(tmp_path / "in.tif", pixels)
    tiling = {"tile": 32, "stride": 24, "levels": 2}
    task = {"name": "denoise", "noise": model}

    def named(name):
        sampling = {"intent": "faithful", "steps": 1, "ensemble": "1"}
        return job(source, tmp_path / name, task=task, tiling=tiling, sampling=sampling)

    committed = []

    def stop(event):
        committed.extend(getattr(event, "keys", ()))
        if len(committed) > 3:
            raise KeyboardInterrupt

    serially(named("whole"))
    with pytest.raises(KeyboardInterrupt):
        serially(named("out"), [stop])
    assert resume(tmp_path / "out", SerialExecutor()).resumed > 0
    assert published_files(tmp_path / "out") == published_files(tmp_path / "whole")
    if model.startswith("poisson"):
        assert published_pixels(tmp_path / "out").mean() == pytest.approx(pixels.mean(), rel=0.01)


def test_a_fitted_gain_stands_in_the_job(job, write_picture, tmp_path):
    y, x = np.mgrid[:256, :256]
    clean = (500 + 12 * x + 300 * np.sin(y / 30))[None]
    source = write_picture(tmp_path / "in.tif", counted(clean, gain=20))
    task = {"name": "denoise", "noise": "poisson:auto"}
    plan = plan_job(job(source, tmp_path / "out", task=task))
    assert read_noise(plan.spec.task.noise).gain == pytest.approx(20, rel=0.2)
    assert plan.spec.task.noise_from == "estimated"
    assert plan.spec.task.noise in plan.inputs.noise.used()
    assert JobSpec.from_toml(plan.spec.to_toml()) == plan.spec


@pytest.mark.parametrize("amplitude", [False, True])
def test_speckle_keeps_the_power_and_zeros(denoised, amplitude):
    power = blobs(900, 9000)
    samples = speckled(power, looks=16)
    stored = np.sqrt(samples) * 100 if amplitude else samples
    pixels = np.rint(stored).clip(1, 65535).astype(np.uint16)
    pixels[:, :8, :8] = 0
    model = "speckle:16,amplitude" if amplitude else "speckle:16"
    restored = denoised(pixels, noise=model)
    assert (restored[:, :8, :8] == 0).all(), "nothing was measured there"
    measured = np.ones(power.shape, bool)
    measured[:, :8, :8] = False
    assert (restored[measured] > 0).all()
    found = (restored / 100.0) ** 2 if amplitude else restored.astype(float)
    given = samples[measured].mean()
    assert found[measured].mean() == pytest.approx(given, rel=0.01)
    spread = np.log(found[measured] / power[measured]).std()
    assert spread < 0.5 * np.log(samples[measured] / power[measured]).std()


def test_speckle_of_floats_keeps_what_is_not_positive(denoised, write_picture):
    power = blobs(0.01, 0.2)
    pixels = speckled(power, looks=4).astype(np.float32)
    pixels[:, :8, :8] = -0.5
    pixels[:, 60:, 60:] = np.nan
    restored = denoised(pixels, (0.001, 1.0), noise="speckle:4")
    assert (restored[:, :8, :8] == -0.5).all()
    assert np.isnan(restored[:, 60:, 60:]).all()


@pytest.mark.parametrize("model", ["poisson:3.5", "poisson:4,30,100", "speckle:1", "speckle:4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_is_free_of_noise_comes_back(model, dtype):
    """The mean of stabilised samples of a value leads back to that value."""
    noise = read_noise(model)
    values = Values.build(dtype, None, noise)
    most = np.iinfo(dtype).max
    stored = np.unique(np.linspace(110, most, 500).astype(dtype))
    unit = np.array([values.place(float(value)) for value in stored], np.float32)
    assert np.abs(values.from_unit(unit).astype(int) - stored.astype(int)).max() <= 1
    assert unit[-1] == pytest.approx(1)
    black = values.from_unit(np.array([-1.0, -9.0]))
    assert black.min() >= (1 if model.startswith("speckle") else 0)


@pytest.mark.parametrize("model", ["poisson:3.5", "poisson:4,30,100", "speckle:1", "speckle:4"])
def test_what_was_measured_stands_for_a_tile_that_failed_as_it_was(model):
    values = Values.build("uint16", None, read_noise(model))
    stored = np.arange(150, 60000, 97).astype(np.uint16)
    back = values.from_unit(values.unrestored(values.to_unit(stored)))
    assert np.abs(back.astype(int) - stored.astype(int)).max() <= 1


REFUSED = {
    "another task": ({"name": "sr", "noise": "poisson:2"}, "task sr takes no --noise"),
    "no task's": (
        {"name": "deblur", "blur": "gaussian:1", "noise": "speckle:1"},
        "use --task",
    ),
    "two levels": ({"noise": "poisson:2", "sigma": 3}, "--sigma has no effect with --noise"),
    "level auto": ({"noise": "poisson:2", "sigma": "auto"}, "--sigma has no effect with --noise"),
    "flat": ({"noise": "poisson:2", "skip_flat": 1}, "--skip-flat"),
    "no model": ({"noise": "gamma:2"}, "give poisson:GAIN"),
    "no number": ({"noise": "poisson:much"}, "give poisson:GAIN"),
    "no gain": ({"noise": "poisson:0"}, "above 0"),
    "negative read noise": ({"noise": "poisson:1,-2"}, "give 0 or more"),
    "too many numbers": ({"noise": "poisson:1,2,3,4"}, "give poisson:GAIN"),
    "no looks": ({"noise": "speckle:0"}, "equivalent number of looks"),
    "offset above white": ({"noise": "poisson:1,0,70000"}, "no brighter than no light"),
    "empty": ({"noise": "speckle:"}, "give poisson:GAIN"),
    "another word": ({"noise": "speckle:4,power"}, "give poisson:GAIN"),
    "not finite": ({"noise": "poisson:nan"}, "above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_on_one_line(case, job, write_picture, tmp_path):
    task, says = REFUSED[case]
    source = write_picture(tmp_path / "in.tif", counted(blobs(100, 4000), 100))
    with pytest.raises(PlanError) as refused:
        plan_job(job(source, tmp_path / "out", task={"name": "denoise", **task}))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def textured(side=256):
    """Return a scene of many brightnesses with fine texture, (1, side, side)."""
    y, x = np.mgrid[:side, :side]
    grain = np.random.default_rng(3).normal(0, 1, (side, side)) * (x > side / 2)
    return (600 + 8 * x + 200 * np.sin(y / 11) + 60 * grain)[None]


@pytest.mark.parametrize(
    ("model", "warned"),
    [
        ("poisson:30", False),
        ("poisson:20,100", False),
        ("poisson:5", False),
        ("poisson:120", True),
        ("poisson:30,900", True),
    ],
)
def test_a_gain_that_makes_more_noise_than_there_is_is_warned_of(
    job, write_picture, tmp_path, model, warned
):
    source = write_picture(tmp_path / "in.tif", counted(textured(), gain=30))
    task = {"name": "denoise", "noise": model}
    warnings = plan_job(job(source, tmp_path / "out", task=task)).inputs.warnings
    assert len(warnings) == warned
    assert not warned or "stored values per photon" in warnings[0]


@pytest.mark.parametrize(("looks", "warned"), [(4, False), (8, False), (1, True)])
def test_fewer_looks_than_there_are_are_warned_of(job, write_picture, tmp_path, looks, warned):
    pixels = np.rint(speckled(textured(), looks=4)).astype(np.uint16)
    source = write_picture(tmp_path / "in.tif", pixels)
    task = {"name": "denoise", "noise": f"speckle:{looks}"}
    warnings = plan_job(job(source, tmp_path / "out", task=task)).inputs.warnings
    assert len(warnings) == warned


@pytest.mark.parametrize("model", ["poisson:4000", "poisson:1,3000", "speckle:0.2"])
def test_a_model_whose_noise_fills_the_range_is_refused(job, write_picture, tmp_path, model):
    source = write_picture(tmp_path / "in.tif", counted(blobs(100, 4000), 100))
    task = {"name": "denoise", "noise": model}
    given = {"values": (20, 4000)}
    with pytest.raises(PlanError, match="at most a third") as refused:
        plan_job(job(source, tmp_path / "out", task=task, input=given))
    assert "\n" not in str(refused.value)


def test_black_of_speckle_in_floats_is_above_zero(job, write_picture, tmp_path):
    source = write_picture(tmp_path / "in.tif", np.ones((1, SIDE, SIDE), np.float32))
    task = {"name": "denoise", "noise": "speckle:1"}
    with pytest.raises(PlanError, match="LOW above 0"):
        plan_job(job(source, tmp_path / "out", task=task, input={"values": (0, 1)}))


def test_one_brightness_fits_no_gain(job, write_picture, tmp_path):
    flat = np.full((1, SIDE, SIDE), 700, np.uint16)
    source = write_picture(tmp_path / "in.tif", flat)
    task = {"name": "denoise", "noise": "poisson:auto"}
    with pytest.raises(PlanError, match="no noise that grows with the brightness"):
        plan_job(job(source, tmp_path / "out", task=task))
