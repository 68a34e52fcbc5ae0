import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.denoisers.builtin import PriorConfig, load_prior
from kernels.training import self_test as smoke
from kernels.training.command import CHECKPOINT, export, main, train
from kernels.training.recipe import PRESETS, TrainingSpec, learning_rate, make_batch
from kernels.training.sample_cache import ImagePool
from kernels.training.trainer import Trainer
from tests.places import ROOT

TINY = TrainingSpec(
    config=PriorConfig(channels=(4, 6, 8), blocks=(1, 1, 1), embedding=8),
    steps=20,
    batch=4,
    crop=16,
    warmup=5,
    learning_rate=2e-3,
    image_side=48,
    shard_images=4,
    shards=2,
    steps_per_shard=10,
)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_first_twenty_losses(tmp_path: Path) -> None:
    losses = [train(TINY, tmp_path / name) for name in ("a", "b")]
    assert len(losses[0]) == 20
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_another_seed_gives_other_losses(tmp_path: Path) -> None:
    short = replace(TINY, steps=3)
    assert train(short, tmp_path / "a") != train(replace(short, seed=1), tmp_path / "b")


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_same_losses(tmp_path: Path) -> None:
    whole = train(TINY, tmp_path / "whole")
    trainer = Trainer(TINY)
    with ImagePool(TINY.collection(tmp_path / "part" / "images")) as pool:
        first = [trainer.advance(make_batch(TINY, pool, step)) for step in range(8)]
    trainer.save(tmp_path / "part" / CHECKPOINT)
    assert first + train(TINY, tmp_path / "part") == whole


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path) -> None:
    losses = train(replace(TINY, steps=120, batch=8), tmp_path)
    assert np.mean(losses[-30:]) < 0.95 * np.mean(losses[:15])


def start(out: Path, steps: int) -> subprocess.Popen[bytes]:
    """Start a run of the tiny preset in a process of its own, with a checkpoint at every step."""
    program = (
        "import sys, torch; from pathlib import Path; from dataclasses import replace\n"
        "from kernels.denoisers.builtin import PriorConfig\n"
        "from kernels.training.command import train\n"
        "from kernels.training.recipe import PRESETS\n"
        "torch.set_num_threads(1)\n"
        "config = PriorConfig(channels=(4, 6, 8), blocks=(1, 1, 1), embedding=8)\n"
        "spec = replace(PRESETS['smoke'], config=config, steps=int(sys.argv[2]), batch=2, crop=16,"
        " image_side=48, shard_images=4, shards=1)\n"
        "train(spec, Path(sys.argv[1]), save_every=0.0)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(out), str(steps)], cwd=ROOT, stdout=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_a_killed_run_leaves_a_whole_checkpoint_and_continues(tmp_path: Path) -> None:
    process = start(tmp_path, 100_000)
    deadline = time.monotonic() + 60
    while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    step = torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"]
    assert step > 0
    assert start(tmp_path, step + 5).wait(timeout=60) == 0
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == step + 5


@pytest.mark.slow
def test_a_new_end_changes_the_rate_and_another_specification_is_refused(tmp_path: Path) -> None:
    train(replace(TINY, steps=4), tmp_path)
    assert len(train(replace(TINY, steps=6), tmp_path)) == 2
    with pytest.raises(ValueError, match=r"another batch, crop"):
        train(replace(TINY, batch=2, crop=8), tmp_path)


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    spec = replace(TINY, steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(spec, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9]
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_a_batch_is_a_function_of_seed_and_step_and_grows_at_the_end(tmp_path: Path) -> None:
    with ImagePool(TINY.collection(tmp_path)) as pool:
        early, again, late = (make_batch(TINY, pool, step) for step in (3, 3, 15))
    assert torch.equal(early.z, again.z)
    assert torch.equal(early.sigma, again.sigma)
    assert early.x0.shape == (4, 3, 16, 16)
    assert late.x0.shape == (1, 3, 32, 32)
    assert early.x0.abs().max() <= 1
    assert (early.sigma > 0).all()


@pytest.mark.slow
def test_an_exported_prior_loads_and_tells_its_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(TINY, steps=2), tmp_path)
    assert main(["export", str(tmp_path), str(tmp_path / "own.safetensors")]) == 0
    assert "step 2" in capsys.readouterr().out
    loaded = load_prior(tmp_path / "own.safetensors")
    average = torch.load(tmp_path / CHECKPOINT, weights_only=True)["average"]
    for key, value in loaded.net.state_dict().items():
        assert torch.equal(value, average[key].half().float())


@pytest.mark.slow
def test_training_can_start_from_an_exported_prior_of_the_same_shape_only(tmp_path: Path) -> None:
    train(replace(TINY, steps=2), tmp_path)
    export(tmp_path, tmp_path / "own.safetensors")
    tuned = replace(TINY, init=str(tmp_path / "own.safetensors"))
    average = torch.load(tmp_path / CHECKPOINT, weights_only=True)["average"]
    assert torch.equal(Trainer(tuned).net.stem.weight, average["stem.weight"].half().float())
    with pytest.raises(ValueError, match="choose its own preset"):
        Trainer(replace(tuned, config=PriorConfig()))


def test_the_log_holds_loss_and_validation(tmp_path: Path) -> None:
    train(replace(TINY, steps=3), tmp_path)
    (record,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert record["step"] == 3
    assert all(math.isfinite(value) for value in [record["loss"], *record["psnr"]])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_can_crop_what_they_draw_and_stay_below_ten_megabytes(name: str) -> None:
    spec = PRESETS[name]
    assert 2 * spec.crop <= spec.image_side
    assert spec.crop % spec.config.multiple == 0
    with torch.device("meta"):
        from kernels.denoisers.builtin import LocalUNet

        assert 2 * sum(p.numel() for p in LocalUNet(spec.config).parameters()) < 10e6


@pytest.mark.slow
def test_the_smoke_run_improves_resumes_and_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as `make prior-smoke`, much shorter, and so with a smaller margin."""
    assert smoke.main(["--steps", "80", "--margin", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "same seed, same first 20 losses: yes" in told
    assert "resumed from step" in told


@pytest.mark.slow
def test_an_unreached_margin_fails_the_smoke_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main(["--steps", "21", "--margin", "50"]) == 1
    assert "at least +50.00 wanted" in capsys.readouterr().out
