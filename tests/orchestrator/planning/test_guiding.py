"""A class reaches the network that knows it, a classifier is checked against network and tile
before anything runs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kernels.denoisers.guided_diffusion.checkpoints import describe_classifier
from kernels.denoisers.guided_diffusion.classifier import ClassifierConfig, ClassifierModel
from kernels.denoisers.guided_diffusion.unet import UNetConfig, UNetModel
from orchestrator.errors import PlanError
from orchestrator.job.class_guidance import ClassGuide, network_label
from orchestrator.job.spec import GuidanceSpec, JobSpec
from orchestrator.planning.fingerprint import fingerprint
from orchestrator.planning.resolve import plan_job
from orchestrator.run import lifecycle as run
from orchestrator.run.serial_executor import SerialExecutor
from storage.box import Box
from storage.readers.reader_registry import open_image

# Both are read without a word about assumptions beside what the sidecar says.
SETTINGS = (
    '{"image_size": 32, "num_head_channels": 32, "use_new_attention_order": false, '
    '"noise_schedule": "linear"}'
)
NETWORK = UNetConfig(
    image_size=32,
    model_channels=32,
    num_res_blocks=1,
    channel_mult=(1, 2),
    num_classes=4,
    num_head_channels=32,
)
CLASSIFIER = ClassifierConfig(
    image_size=32,
    model_channels=32,
    out_channels=5,
    num_res_blocks=1,
    attention_ds=(2,),
    channel_mult=(1, 1),
    num_head_channels=32,
    pool="attention",
)


def write(path: Path, model: nn.Module) -> Path:
    generator = torch.Generator().manual_seed(3)
    weights: dict[str, Tensor] = {
        key: torch.randn(value.shape, generator=generator) * 0.1
        for key, value in model.state_dict().items()
    }
    torch.save(weights, path)
    Path(f"{path}.json").write_text(SETTINGS)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return write(tmp_path / "net.pt", UNetModel(NETWORK))


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write(tmp_path / "cls.pt", ClassifierModel(CLASSIFIER))


def job(denoiser: str = "analytic:", tile: int = 32, steps: int = 2, **guidance: Any) -> JobSpec:
    return JobSpec.build(
        {
            "input": {"size": (32, 48)},
            "denoiser": denoiser,
            "task": {"name": "generate"},
            "sampling": {"intent": "paper", "steps": steps, "travel": (1, 1)},
            "tiling": {"tile": tile, "stride": 16, "levels": 1},
            "guidance": guidance,
        }
    )


def refusal(spec: JobSpec) -> str:
    with pytest.raises(PlanError) as caught:
        plan_job(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_a_conditional_network_draws_the_class_that_is_named(tmp_path: Path, network: Path) -> None:
    assert "give --class N" in refusal(job(f"guided-diffusion:{network}"))
    assert "4 was given" in refusal(job(f"guided-diffusion:{network}", label=4))
    pictures = []
    for label in (1, 2):
        spec = job(f"guided-diffusion:{network}", label=label)
        out = tmp_path / f"out{label}.zarr"
        run.start(spec.model_copy(update={"output": str(out)}), SerialExecutor())
        pictures.append(open_image(out).read(Box(0, 0, 32, 48)))
    assert (pictures[0] != pictures[1]).any()
    marks = [
        fingerprint(plan_job(job(f"guided-diffusion:{network}", label=label))) for label in (1, 2)
    ]
    assert marks[0]["denoiser"] != marks[1]["denoiser"]


def test_a_class_without_anything_that_knows_it_is_refused() -> None:
    assert "knows no classes" in refusal(job(label=3))


def test_a_classifier_is_checked_before_anything_runs(classifier: Path, network: Path) -> None:
    assert "needs a class, none was given: give --class N from 0 to 4" in refusal(
        job(classifier=str(classifier))
    )
    assert "5 was given" in refusal(job(classifier=str(classifier), label=5))
    assert "is a denoiser, not a classifier" in refusal(job(classifier=str(network), label=1))
    assert "does not exist" in refusal(job(classifier="absent.pt", label=1))
    assert "tiles of 32 px only" in refusal(job(classifier=str(classifier), label=1, tile=64))
    assert "give --classifier PATH too" in refusal(job(scale=2.0))
    plan = plan_job(job(classifier=str(classifier), label=1))
    assert plan.spec.guidance.scale == 1.0
    assert plan.spec.guidance.classifier == str(classifier.absolute())


def test_the_class_of_a_classifier_reaches_a_conditional_network_but_no_other(
    classifier: Path, network: Path
) -> None:
    given = GuidanceSpec(label=3, classifier=str(classifier))
    assert network_label(f"guided-diffusion:{network}", given) == 3
    assert network_label("analytic:", given) is None


def test_scale_class_and_classifier_decide_the_fingerprint(classifier: Path) -> None:
    base: dict[str, Any] = {"classifier": str(classifier), "label": 1, "scale": 1.0}
    marks = [
        fingerprint(plan_job(job(**given)))
        for given in (base, base | {"scale": 2.0}, base | {"label": 2}, {"label": None})
    ]
    assert len({str(sorted(mark.items())) for mark in marks}) == 4


def test_a_classifier_is_described_without_reading_it_whole(classifier: Path) -> None:
    info = describe_classifier(classifier)
    assert (info.channels, info.classes, info.tile, info.multiple, info.fixed_tile) == (
        3,
        5,
        32,
        2,
        True,
    )
    spatial = write(
        classifier.with_name("s.pt"), ClassifierModel(replace(CLASSIFIER, pool="spatial"))
    )
    assert not describe_classifier(spatial).fixed_tile


@pytest.mark.slow
def test_a_guided_run_differs_from_an_unguided_one(tmp_path: Path, classifier: Path) -> None:
    pytest.importorskip(
        "kernels.sampling.classifier_guidance"
    )  # random weights hardly know a class: hence the large scale
    pictures = []
    for number, given in enumerate(({}, {"classifier": str(classifier), "label": 1, "scale": 1e8})):
        out = tmp_path / f"out{number}.zarr"
        run.start(job(steps=6, **given).model_copy(update={"output": str(out)}), SerialExecutor())
        pictures.append(open_image(out).read(Box(0, 0, 32, 48)).astype(np.float64))
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.1
    guide = ClassGuide.load(plan_job(job(classifier=str(classifier), label=1)).spec.guidance, "cpu")
    assert guide is not None
    assert guide.batch(2)(torch.zeros(2, 3, 32, 32), torch.tensor([5, 5])).shape == (2, 3, 32, 32)
