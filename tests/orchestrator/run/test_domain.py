import json

import numpy as np
import pytest

from kernels.denoisers.prior_metadata import DomainStatistics, domain_statistics
from kernels.training import synthetic as synth
from orchestrator.planning.resolve import plan_job
from orchestrator.run.domain_check import check_domain, probe, read_domain
from orchestrator.run_folder import RunDir


def scene(seed, side=96):
    return synth.draw(seed, 1_500_000_000, side)


def white_noise(seed, side=96):
    return np.random.default_rng(seed).integers(0, 256, (3, side, side)).astype(np.uint8)


def checkerboard(_seed, side=96):
    return np.repeat((np.indices((side, side)).sum(0) % 2 * 255)[None], 3, 0).astype(np.uint8)


@pytest.fixture
def checked(tmp_path, write_picture, job):
    """Return what a run would be told of a picture before its first tile, without restoring it."""

    def check(pixels, **options):
        number = len(list(tmp_path.iterdir()))
        source = write_picture(tmp_path / f"in{number}.png", pixels)
        run = RunDir(tmp_path / f"out{number}")
        plan = plan_job(job(source, "unused", **options))
        run.state.mkdir(parents=True)
        return check_domain(run, plan)

    return check


@pytest.mark.parametrize("seed", range(6))
def test_a_scene_is_known(checked, seed):
    found = checked(scene(seed))
    assert not found.far
    assert found.residual < 0.9 * found.limit


@pytest.mark.parametrize("picture", [white_noise, checkerboard])
def test_a_picture_whose_pixels_say_nothing_of_each_other_is_not(checked, picture):
    found = checked(picture(0))
    assert found.far
    assert found.residual > 1.2 * found.limit > 1.2 * found.known


@pytest.mark.slow
def test_stated_noise_is_not_taken_for_something_unknown(checked):
    noise = np.random.default_rng(0).normal(0, 50, (3, 256, 256))
    noisy = np.clip(scene(1, 256) + noise, 0, 255).astype(np.uint8)
    denoise = {"task": {"name": "denoise", "sigma": 50}, "tiling": {"levels": None}}
    assert checked(noisy).residual > 1.5 * checked(noisy, **denoise).residual
    assert not checked(noisy, **denoise).far


@pytest.mark.slow
def test_it_looks_at_a_few_windows_whatever_the_size(tmp_path, write_picture, job):
    for side in (40, 640):
        plan = plan_job(
            job(write_picture(tmp_path / f"{side}.png", scene(2, side)), tmp_path / "unused")
        )
        windows = list(probe(RunDir(tmp_path / "none"), plan))
        assert [window.shape for window in windows] == [(3, 64, 64)] * 6


@pytest.mark.slow
def test_the_answer_is_an_event_an_attribute_and_a_warning(tmp_path, write_picture, cli, capfd):
    source = write_picture(tmp_path / "in.png", white_noise(1, 24))
    out = tmp_path / "out"
    ended = cli(
        "restore", source, out, "--scale", 2, "--tile", 32, "--steps", 1, "--executor", "serial"
    )
    assert ended.code == 0
    kept = read_domain(RunDir(out))
    (warning,) = [line for line in ended.err.splitlines() if "does not know such images" in line]
    assert f"{kept.residual:.2f}" in warning
    assert f"{kept.known:.2f}" in warning
    events = [json.loads(line) for line in RunDir(out).events.read_text().splitlines()]
    (event,) = [event for event in events if event["event"] == "DomainChecked"]
    assert event["far"]
    attributes = json.loads((out / "zarr.json").read_text())["attributes"]["gigarestore"]
    assert attributes["domain"] == kept.as_dict()


def test_a_resumed_run_keeps_the_answer_of_its_beginning(tmp_path, write_picture, job):
    run = RunDir(tmp_path / "out")
    run.state.mkdir(parents=True)
    plan = plan_job(job(write_picture(tmp_path / "in.png", scene(3)), run.root))
    first = check_domain(run, plan)
    (tmp_path / "in.png").unlink()
    assert check_domain(run, plan) == first


def test_nothing_is_said_where_nothing_is_known(checked):
    assert domain_statistics("analytic:") is None
    assert checked(scene(4), denoiser="analytic:") is None


def test_the_limit_covers_every_validation_picture():
    close = DomainStatistics.of([0.2, 0.2, 0.2, 0.8], 0.5)
    assert close.limit >= 0.8
    alike = DomainStatistics.of([0.2] * 5, 0.5)
    assert 0.25 < alike.limit < 0.4
