"""Of every scheduler the clean estimate is its own, or the folder is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.denoisers.denoiser import load_denoiser
from kernels.denoisers.denoiser_registry import describe
from kernels.schedule import base_alpha_bar
from tests.kernels.denoisers.diffusers_folders import (
    alter,
    clean_estimate,
    diffusers,
    network,
    refusal,
    write_parts,
)

# The library's own, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

TIMESTEPS = (1, 5, 500, 900)
TOLERANCE = 2e-3

OWN_INPUT = {
    "DDPMScheduler": [{}, {"beta_schedule": "sigmoid"}, {"prediction_type": "v_prediction"}],
    "DDIMScheduler": [{"prediction_type": "sample"}, {"clip_sample": False}],
    "DDPMParallelScheduler": [{"beta_schedule": "sigmoid"}],
    "DDIMParallelScheduler": [{}],
    "LCMScheduler": [
        {},
        {"prediction_type": "v_prediction", "clip_sample": True},
        {"prediction_type": "sample", "timestep_scaling": 3.0},
    ],
}
"""Schedulers whose step takes x_t as the network does and gives back a clean estimate."""

SIGMA_INPUT = {
    "EulerDiscreteScheduler": [{}, {"use_karras_sigmas": True, "prediction_type": "v_prediction"}],
    "EulerAncestralDiscreteScheduler": [{}],
    "LMSDiscreteScheduler": [{}, {"prediction_type": "sample"}],
    "HeunDiscreteScheduler": [{}, {"prediction_type": "v_prediction"}, {"use_karras_sigmas": True}],
    "KDPM2DiscreteScheduler": [{}],
    "KDPM2AncestralDiscreteScheduler": [{}],
    "TCDScheduler": [{}, {"prediction_type": "v_prediction"}],
}
"""Schedulers that keep x_0 + sigma eps and scale it for the network, or give no estimate back."""

CONVERTING = {
    "DPMSolverMultistepScheduler": [{}, {"prediction_type": "v_prediction"}],
    "DPMSolverSinglestepScheduler": [{}],
    "DEISMultistepScheduler": [{}],
    "UniPCMultistepScheduler": [{"prediction_type": "sample"}],
    "SASolverScheduler": [{}],
}
"""Schedulers that convert the network's answer to a clean estimate before they step."""

NOT_LIKE_THESE = {
    "EDMEulerScheduler": {},
    "EDMDPMSolverMultistepScheduler": {},
    "CMStochasticIterativeScheduler": {},
    "ScoreSdeVeScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {},
    "FlowMatchHeunDiscreteScheduler": {},
    "IPNDMScheduler": {},
    "VQDiffusionScheduler": {"num_vec_classes": 10},
    "CogVideoXDDIMScheduler": {},
    "UnCLIPScheduler": {},
}


def cases(table: dict[str, list[dict[str, Any]]]) -> list[Any]:
    return [
        pytest.param(kind, settings, id=f"{kind}-{'-'.join(settings) or 'usual'}")
        for kind, many in table.items()
        for settings in many
    ]


def x_at(t: int) -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(t))


def in_range(picture: Tensor) -> Tensor:
    """Clip as the sampler does."""
    return picture.clamp(-1, 1)


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def answer(model: Any, x: Tensor, t: int) -> Tensor:
    with torch.no_grad():
        said: Tensor = model(x, torch.tensor([t])).sample
    return said


@pytest.mark.parametrize(("kind", "settings"), cases(OWN_INPUT))
def test_the_estimate_is_that_of_a_step_in_x_t(
    tmp_path: Path, model: Any, kind: str, settings: dict[str, Any]
) -> None:
    scheduler = getattr(diffusers, kind)(**settings)
    denoiser = load_denoiser(f"diffusers:{write_parts(tmp_path, model, scheduler)}")
    for t in TIMESTEPS:
        if kind == "LCMScheduler":
            scheduler.set_timesteps(timesteps=[t])
        else:
            scheduler.set_timesteps(1000)
        x = x_at(t)
        done = scheduler.step(answer(model, x, t), t, x)
        theirs = done.denoised if kind == "LCMScheduler" else done.pred_original_sample
        ours = in_range(clean_estimate(denoiser, x, t))
        assert (ours - in_range(theirs)).abs().max() < TOLERANCE


@pytest.mark.parametrize(("kind", "settings"), cases(SIGMA_INPUT))
def test_the_estimate_is_that_of_a_step_in_noise_levels(
    tmp_path: Path, model: Any, kind: str, settings: dict[str, Any]
) -> None:
    scheduler = getattr(diffusers, kind)(**settings)
    denoiser = load_denoiser(f"diffusers:{write_parts(tmp_path, model, scheduler)}")
    prediction = scheduler.config.prediction_type
    for t in TIMESTEPS:
        a = scheduler.alphas_cumprod[t].sqrt()
        sigma = (1 - scheduler.alphas_cumprod[t]).sqrt() / a
        x = x_at(t)
        kept = x / a  # what such a scheduler keeps; it scales it back for the network
        said = answer(model, kept / (sigma**2 + 1).sqrt(), t)
        theirs = {
            "epsilon": kept - sigma * said,
            "v_prediction": kept / (sigma**2 + 1) - said * sigma / (sigma**2 + 1).sqrt(),
            "sample": said,
        }[prediction]
        ours = clean_estimate(denoiser, x, t)
        assert (in_range(ours) - in_range(theirs)).abs().max() < TOLERANCE


@pytest.mark.parametrize("settings", [{}, {"prediction_type": "v_prediction"}])
@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_the_estimate_is_what_the_step_itself_gives_back(
    tmp_path: Path, model: Any, kind: str, settings: dict[str, Any]
) -> None:
    scheduler = getattr(diffusers, kind)(**settings)
    denoiser = load_denoiser(f"diffusers:{write_parts(tmp_path, model, scheduler)}")
    for t in TIMESTEPS:
        scheduler.set_timesteps(1000)
        x = x_at(t)
        kept = x / scheduler.alphas_cumprod[t].sqrt()
        timestep = scheduler.timesteps[999 - t]
        assert int(timestep) == t
        said = answer(model, scheduler.scale_model_input(kept, timestep), t)
        theirs = scheduler.step(said, timestep, kept).pred_original_sample
        ours = clean_estimate(denoiser, x, t)
        assert (in_range(ours) - in_range(theirs)).abs().max() < TOLERANCE


@pytest.mark.parametrize(("kind", "settings"), cases(CONVERTING))
def test_the_estimate_is_what_a_solver_converts_the_answer_to(
    tmp_path: Path, model: Any, kind: str, settings: dict[str, Any]
) -> None:
    scheduler = getattr(diffusers, kind)(**settings)
    denoiser = load_denoiser(f"diffusers:{write_parts(tmp_path, model, scheduler)}")
    for t in TIMESTEPS:
        scheduler.set_timesteps(1000)
        x = x_at(t)
        scheduler._init_step_index(t)
        theirs = scheduler.convert_model_output(answer(model, x, t), sample=x)
        if kind == "DEISMultistepScheduler":  # converts to eps
            a = scheduler.alphas_cumprod[t].sqrt()
            theirs = (x - (1 - a**2).sqrt() * theirs) / a
        ours = clean_estimate(denoiser, x, t)
        assert (in_range(ours) - in_range(theirs)).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["PNDMScheduler", "RePaintScheduler"])
def test_other_schedulers_of_the_same_networks_have_their_own_table(
    tmp_path: Path, model: Any, kind: str
) -> None:
    scheduler = getattr(diffusers, kind)()
    info = describe(f"diffusers:{write_parts(tmp_path, model, scheduler)}")
    table = base_alpha_bar(info.alpha_bar, info.n_timesteps)
    np.testing.assert_allclose(table, scheduler.alphas_cumprod.double().numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    "kind", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "TCDScheduler"]
)
def test_what_a_configuration_leaves_out_is_as_in_its_class(
    tmp_path: Path, model: Any, kind: str
) -> None:
    scheduler = getattr(diffusers, kind)()
    path = write_parts(tmp_path, model, scheduler)
    whole = describe(f"diffusers:{path}")
    (path / "scheduler/scheduler_config.json").write_text(f'{{"_class_name": "{kind}"}}')
    assert describe(f"diffusers:{path}").alpha_bar == whole.alpha_bar


@pytest.mark.parametrize("kind", NOT_LIKE_THESE)
def test_a_scheduler_of_other_networks_is_refused_by_name(
    tmp_path: Path, model: Any, kind: str
) -> None:
    scheduler = getattr(diffusers, kind)(**NOT_LIKE_THESE[kind])
    line = refusal(write_parts(tmp_path, model, scheduler))
    assert f"is a {kind}" in line
    assert "sigma:package.module:name" in line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_flow_sigmas": True}, "a flow-matching network"),
        ({"prediction_type": "flow_prediction"}, "a flow-matching network"),
        ({"timestep_type": "continuous"}, "timestep_type 'continuous'"),
        ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0"),
        ({"thresholding": True, "sample_max_value": 1.5}, "sample_max_value is 1.5"),
    ],
)
def test_a_setting_with_which_a_network_means_something_else_is_refused(
    tmp_path: Path, model: Any, changes: dict[str, Any], says: str
) -> None:
    path = write_parts(tmp_path, model, diffusers.DDPMScheduler())
    alter(path / "scheduler/scheduler_config.json", **changes)
    assert says in refusal(path)


def test_a_range_to_which_nothing_is_clipped_is_not_read(tmp_path: Path, model: Any) -> None:
    scheduler = diffusers.DDPMScheduler(clip_sample=False, clip_sample_range=2.0)
    assert describe(f"diffusers:{write_parts(tmp_path, model, scheduler)}").channels == 3


def test_the_boundary_of_a_consistency_model_is_part_of_what_it_is(
    tmp_path: Path, model: Any
) -> None:
    path = write_parts(tmp_path, model, diffusers.LCMScheduler())
    before = describe(f"diffusers:{path}").content
    alter(path / "scheduler/scheduler_config.json", timestep_scaling=3.0)
    assert describe(f"diffusers:{path}").content != before
