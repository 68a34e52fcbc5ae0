"""Where super-resolution starts: a network's prediction, better than an enlargement, and when it is
asked for.
"""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F

from kernels.denoiser_info import BUILTIN_WEIGHTS, PREDICTOR_WEIGHTS, file_hash
from kernels.denoisers.builtin import PriorConfig, load_prior, read_prior
from kernels.denoisers.denoiser_registry import describe
from kernels.denoisers.predictor import FORMAT, load_predictor, predict
from kernels.operators.smooth_pool import SmoothPool
from kernels.training.command import export, train
from kernels.training.recipe import PRESETS, enlarged, undetermined
from orchestrator.job.spec import JobSpec
from orchestrator.job.trajectory import trajectory
from orchestrator.planning.fingerprint import fingerprint
from orchestrator.planning.resolve import plan_job

TINY = replace(
    PRESETS["predictor"],
    config=PriorConfig(channels=(8, 8, 8), blocks=(1, 1, 1)),
    steps=6,
    batch=2,
    crop=32,
    image_side=64,
    shard_images=2,
    shards=1,
)


def photograph(side: int = 192) -> torch.Tensor:
    picture = skimage.data.astronaut()[:side, 100 : 100 + side]
    return (
        torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 127.5 - 1
    )


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(-10 * torch.log10(((x.clamp(-1, 1) - y) / 2).square().mean()))


def plan(task: dict | None = None, sampling: dict | None = None, **more):
    task = {"name": "sr", "scale": 4} | (task or {})
    return plan_job(
        JobSpec.build(
            {"input": {"size": (128, 160)}, "task": task, "sampling": sampling or {}, **more}
        )
    )


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.slow
def test_a_prediction_is_nearer_to_a_photograph_than_its_enlargement(scale: int):
    clean = photograph()
    operator = SmoothPool(scale)
    y = F.avg_pool2d(clean, scale)
    start = F.interpolate(y, scale_factor=scale, mode="bicubic", align_corners=False)
    before, after = (operator.project(x, y) for x in (start, predict(load_predictor(), start)))
    assert psnr(after, clean) > psnr(before, clean) + 0.5


@pytest.mark.slow
def test_a_prediction_does_not_depend_on_the_pictures_beside_it():
    predictor = load_predictor()
    pictures = torch.cat(list(photograph().split(64, -1)))[..., :64, :]
    together = predict(predictor, pictures)
    assert together.shape == (3, 3, 64, 64)
    assert all(
        torch.equal(predict(predictor, pictures[i : i + 1])[0], together[i]) for i in range(3)
    )
    assert together.abs().max() <= 1


def test_neither_file_is_taken_for_the_other():
    with pytest.raises(ValueError, match="is no prior of this family"):
        load_prior(PREDICTOR_WEIGHTS)
    with pytest.raises(ValueError, match="is no prior of this family"):
        read_prior(BUILTIN_WEIGHTS, FORMAT)


def test_exact_super_resolution_starts_from_a_prediction_and_takes_three_steps():
    found = plan()
    assert found.spec.sampling.init == "predicted"
    assert [trajectory(found, level).nfe for level in found.levels] == [7] * len(found.levels)


@pytest.mark.parametrize(
    ("task", "sampling"),
    [
        ({"scale": 16}, {}),
        ({"scale": 3}, {}),
        ({"sigma": 0.02}, {}),
        ({}, {"start": 100}),
        ({}, {"intent": "detail"}),
        ({}, {"intent": "paper"}),
        ({}, {"method": "pigdm"}),
        ({"name": "inpaint", "scale": 1}, {}),
    ],
)
def test_other_tasks_start_as_before_whatever_they_are_told(task: dict, sampling: dict):
    masked = {"input": {"size": (128, 160), "nodata": 0}} if task.get("name") == "inpaint" else {}
    found = plan(task, sampling, **masked).spec.sampling
    assert found.init in ("bicubic", "none")
    if sampling != {"start": 100}:  # may be combined, if somebody says both
        predicted = plan().spec.sampling.model_dump(
            include={"init", "start", "guided_start", "steps", "guided_steps"}
        )
        assert plan(task, {**predicted, **sampling}, **masked).spec.sampling == found, (
            "as if nobody had said so"
        )


def test_both_networks_are_in_the_fingerprint_of_what_they_decide():
    one = fingerprint(plan())
    other = fingerprint(plan({"sigma": 0.02}))
    assert one["denoiser"] == other["denoiser"] == describe("builtin").content
    assert (one["predictor"], other["predictor"]) == (file_hash(PREDICTOR_WEIGHTS), None)


def test_examples_are_enlargements_and_what_is_measured_costs_nothing():
    clean = photograph(64)
    z = enlarged(clean, 4, rounded=False)
    assert torch.equal(
        z,
        F.interpolate(F.avg_pool2d(clean, 4), scale_factor=4, mode="bicubic", align_corners=False),
    )
    error = undetermined(z - clean, 4)
    assert F.avg_pool2d(error, 4).abs().max() < 1e-6
    flat = F.avg_pool2d(clean, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert undetermined(flat, 4).abs().max() < 1e-6


@pytest.mark.slow
def test_a_predictor_is_trained_resumed_and_exported_as_one(tmp_path):
    whole = train(TINY, tmp_path / "whole")
    part = train(replace(TINY, steps=3), tmp_path / "part")
    assert part == train(replace(TINY, steps=3), tmp_path / "again")
    assert len(whole) == 6
    assert export(tmp_path / "whole", tmp_path / "tiny.safetensors") == 6
    assert read_prior(tmp_path / "tiny.safetensors", FORMAT)[0] == TINY.config
