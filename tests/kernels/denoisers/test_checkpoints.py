"""Checkpoints are inferred, checked against every key and shape, and refused in one clear line."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from kernels.denoisers.guided_diffusion.architecture import infer
from kernels.denoisers.guided_diffusion.checkpoints import (
    describe_guided_diffusion,
    load_classifier,
    load_guided_diffusion,
)
from kernels.denoisers.guided_diffusion.classifier import ClassifierConfig, ClassifierModel
from kernels.denoisers.guided_diffusion.unet import UNetConfig, UNetModel, timestep_embedding
from kernels.schedule import cosine_alpha_bar
from tests.kernels.denoisers.small_networks import (
    SMALL,
    SMALL_SETTINGS,
    filled,
    reference_eps,
    refusal,
    small_weights,
)
from tests.places import GOLDEN

PUBLISHED = sorted(p.stem for p in (GOLDEN / "keys").glob("*.json"))

CLASSIFIER = ClassifierConfig(
    image_size=32,
    model_channels=32,
    out_channels=5,
    num_res_blocks=1,
    attention_ds=(2,),
    channel_mult=(1, 1),
    num_head_channels=32,
)


def save(path: Path, weights: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization="old" not in path.name)
    return path


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_give_back_the_published_flags(name: str) -> None:
    published = json.loads((GOLDEN / "keys" / f"{name}.json").read_text())
    flags = published["flags"]
    found = infer({k: tuple(v) for k, v in published["state_dict"].items()}, {})
    kind = ClassifierConfig if "classifier" in name else UNetConfig
    assert found.config == replace(kind.from_flags(flags), dropout=0.0)
    assert found.assumptions == ()
    assert name.split("_")[0] in found.name
    if "classifier" not in name:
        assert found.noise_schedule == flags["noise_schedule"]
        assert found.diffusion_steps == flags["diffusion_steps"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_flags_are_accepted_as_settings(name: str) -> None:
    published = json.loads((GOLDEN / "keys" / f"{name}.json").read_text())
    shapes = {k: tuple(v) for k, v in published["state_dict"].items()}
    assert infer(shapes, published["flags"]) == infer(shapes, {})


@pytest.mark.parametrize("resblock_updown", [True, False])
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("mult", [(1,), (1, 1), (0.5, 1, 3), (1, 1, 1, 1, 1, 1)])
def test_any_layout_is_inferred_from_its_shapes(
    mult: tuple[float, ...], blocks: int, scale_shift: bool, resblock_updown: bool
) -> None:
    config = UNetConfig(
        image_size=64,
        in_channels=1,
        model_channels=64,
        out_channels=2,
        num_res_blocks=blocks,
        attention_ds=(2 ** (len(mult) - 1),),
        channel_mult=mult,
        num_classes=3,
        num_heads=4,
        use_scale_shift_norm=scale_shift,
        resblock_updown=resblock_updown or len(mult) == 1,
    )
    with torch.device("meta"):
        shapes = shapes_of(UNetModel(config))
    assert infer(shapes, {"image_size": 64, "num_heads": 4}).config == config


@pytest.mark.parametrize("name", ["m.pt", "m.old.pt", "m.safetensors", "wrapped.pt", "parallel.pt"])
@pytest.mark.slow
def test_checkpoint_round_trips(tmp_path: Path, name: str) -> None:
    weights = small_weights()
    stored: Any = (
        {f"module.{k}": v for k, v in weights.items()} if name == "parallel.pt" else weights
    )
    path = save(
        tmp_path / name,
        {"state_dict": stored, "step": torch.tensor(1)} if name == "wrapped.pt" else stored,
    )
    denoiser = load_guided_diffusion(path, **SMALL_SETTINGS)
    x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 700])
    assert torch.equal(denoiser(x, t), reference_eps(SMALL, weights, x, t))
    assert denoiser(x, t).requires_grad is False
    assert denoiser.to("cpu") is denoiser
    assert denoiser.info == describe_guided_diffusion(path, **SMALL_SETTINGS)


def test_description_says_what_the_sampler_needs(tmp_path: Path) -> None:
    info = describe_guided_diffusion(save(tmp_path / "m.pt", small_weights()), **SMALL_SETTINGS)
    assert (info.channels, info.tile, info.multiple, info.fixed_tile) == (3, 32, 2, False)
    assert (info.alpha_bar, info.n_timesteps) == ("cosine", 1000)


def test_content_changes_with_the_weights_and_with_the_settings(tmp_path: Path) -> None:
    weights = small_weights()
    first = describe_guided_diffusion(save(tmp_path / "a.pt", weights), **SMALL_SETTINGS)
    other_heads = describe_guided_diffusion(tmp_path / "a.pt", **{**SMALL_SETTINGS, "num_heads": 4})
    weights["out.2.bias"][0] += 1
    other_weights = describe_guided_diffusion(save(tmp_path / "a.pt", weights), **SMALL_SETTINGS)
    assert len({first.content, other_heads.content, other_weights.content}) == 3


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", {k: v.half() for k, v in small_weights().items()})
    denoiser = load_guided_diffusion(path, **SMALL_SETTINGS)
    assert {p.dtype for p in denoiser.model.parameters()} == {torch.float32}


def test_weights_are_mapped_from_the_file_not_copied(tmp_path: Path) -> None:
    denoiser = load_guided_diffusion(save(tmp_path / "m.pt", small_weights()), **SMALL_SETTINGS)
    pages = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line
    ]
    assert pages or not Path("/proc/self/maps").exists()
    del denoiser


def test_unknown_architecture_states_what_is_assumed(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", small_weights())
    with pytest.warns(
        UserWarning,
        match="assumed image_size 16, num_head_channels 64, .*order False, noise_schedule linear",
    ):
        info = describe_guided_diffusion(path)
    assert "assumed" in info.name
    assert "custom" in info.name


def test_sidecar_settles_what_shapes_cannot_tell(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", small_weights())
    Path(f"{path}.json").write_text(json.dumps(SMALL_SETTINGS))
    assert describe_guided_diffusion(path) == describe_guided_diffusion(path, **SMALL_SETTINGS)
    assert describe_guided_diffusion(path, noise_schedule="linear").alpha_bar == "linear"


def test_timesteps_are_rescaled_where_the_model_was_trained_so(tmp_path: Path) -> None:
    weights = small_weights()
    path = save(tmp_path / "m.pt", weights)
    denoiser = load_guided_diffusion(
        path, **SMALL_SETTINGS, diffusion_steps=4000, rescale_timesteps=True
    )
    x = torch.ones(1, 3, 32, 32)
    assert torch.equal(
        denoiser(x, torch.tensor([3000])), reference_eps(SMALL, weights, x, torch.tensor([750]))
    )
    assert denoiser.info.n_timesteps == 4000


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_channels": 64}, "num_channels is given as 64, but its weights say 32"),
        ({"class_cond": True}, "class_cond"),
        ({"channel_mult": "1,3"}, "channel_mult"),
        ({"channel_mult": 3}, "channel_mult"),
        ({"prediction_type": "score"}, "prediction_type 'score' is unknown"),
        (
            {"predict_xstart": True, "prediction_type": "v_prediction"},
            "predict_xstart is true and prediction_type 'v_prediction'",
        ),
        ({"noise_schedule": "quadratic"}, "noise_schedule 'quadratic' is unknown"),
        ({"colour": 1}, "setting 'colour' is unknown"),
        ({"num_heads": "4"}, "num_heads is given as '4', which is not of type int"),
        ({"num_heads": 5}, "cannot have 5 heads"),
        ({"image_size": 33}, "image_size 33 is not a multiple of 2"),
        ({"label": 3}, "knows no classes"),
    ],
)
def test_contradicting_or_unknown_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    path = save(tmp_path / "m.pt", small_weights())
    assert says in refusal(lambda: describe_guided_diffusion(path, **(SMALL_SETTINGS | settings)))


@pytest.mark.parametrize(("text", "says"), [("{", "not readable as JSON"), ("[1]", "holds a list")])
def test_malformed_sidecar_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = save(tmp_path / "m.pt", small_weights())
    Path(f"{path}.json").write_text(text)
    assert says in refusal(lambda: load_guided_diffusion(path))


def test_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    weights = small_weights()
    weights["input_blocks.1.0.in_layers.2.weight"] = torch.zeros(32, 31, 3, 3)
    line = refusal(
        lambda: load_guided_diffusion(save(tmp_path / "m.pt", weights), **SMALL_SETTINGS)
    )
    assert (
        "input_blocks.1.0.in_layers.2.weight has shape (32, 31, 3, 3), expected (32, 32, 3, 3)"
        in line
    )


def test_missing_superfluous_and_integer_parameters_are_named(tmp_path: Path) -> None:
    weights = small_weights()
    bias = weights.pop("middle_block.1.norm.bias")
    path = tmp_path / "m.pt"
    assert "middle_block.1.norm.bias is missing" in refusal(
        lambda: load_guided_diffusion(save(path, weights))
    )
    weights |= {"middle_block.1.norm.bias": bias, "extra.weight": bias}
    assert "extra.weight does not belong" in refusal(
        lambda: load_guided_diffusion(save(path, weights))
    )
    del weights["extra.weight"]
    weights["out.2.bias"] = torch.zeros(6, dtype=torch.int8)
    assert "out.2.bias has dtype torch.int8" in refusal(
        lambda: load_guided_diffusion(save(path, weights))
    )


@pytest.mark.parametrize("name", ["m.pt", "m.old.pt", "m.safetensors"])
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    path = save(tmp_path / name, small_weights())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert "damaged" in refusal(lambda: load_guided_diffusion(path))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG image"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"hello", "a text"),
        (b"\x01\x02\xff" * 30, "unknown binary format"),
    ],
)
def test_file_that_is_no_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, data: bytes, says: str
) -> None:
    (tmp_path / "m.pt").write_bytes(data)
    assert says in refusal(lambda: load_guided_diffusion(tmp_path / "m.pt"))


def test_archives_lists_and_other_networks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, a=np.zeros(3))
    assert "NumPy .npz" in refusal(lambda: load_guided_diffusion(path))
    torch.save([torch.zeros(1)], path)
    assert "holds a list" in refusal(lambda: load_guided_diffusion(path))
    torch.save({"model.diffusion_model.x": torch.zeros(1)}, path)
    assert "latent diffusion" in refusal(lambda: load_guided_diffusion(path))
    torch.save({"ema": small_weights(), "model": small_weights()}, path)
    assert "several networks (ema, model)" in refusal(lambda: load_guided_diffusion(path))
    assert "does not exist" in refusal(lambda: load_guided_diffusion(tmp_path / "absent.pt"))
    assert "directory" in refusal(lambda: load_guided_diffusion(tmp_path))


class Trap:
    """Write a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_pickled_code_is_refused_without_being_executed(tmp_path: Path, form: str) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "m.pt"
    if form == "bare":
        path.write_bytes(pickle.dumps({"input_blocks.0.0.weight": Trap(marker)}))
    else:
        torch.save(
            {"input_blocks.0.0.weight": Trap(marker)},
            path,
            _use_new_zipfile_serialization=form == "zip",
        )
    line = refusal(lambda: load_guided_diffusion(path))
    assert "refused unexecuted" in line
    assert "safetensors" in line
    assert not marker.exists()


def test_classifier_loads_and_is_not_mistaken_for_a_denoiser(tmp_path: Path) -> None:
    model = ClassifierModel(CLASSIFIER).eval()
    weights = filled(model)
    model.load_state_dict(weights)
    path = save(tmp_path / "c.pt", weights)
    settings = {"num_head_channels": 32, "use_new_attention_order": False}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 700])
    with torch.no_grad():
        assert torch.equal(load_classifier(path, **settings)(x, t), model(x, t))
    assert "is a classifier (5 classes)" in refusal(lambda: load_guided_diffusion(path, **settings))
    denoiser = save(tmp_path / "m.pt", small_weights())
    assert "is a denoiser, not a classifier" in refusal(
        lambda: load_classifier(denoiser, **SMALL_SETTINGS)
    )


@pytest.mark.slow
def test_class_conditional_network_needs_a_label(tmp_path: Path) -> None:
    config = replace(SMALL, num_classes=4)
    weights = filled(UNetModel(config))
    path = save(tmp_path / "m.pt", weights)
    assert "needs a label 0..3; none was given" in refusal(
        lambda: describe_guided_diffusion(path, **SMALL_SETTINGS)
    )
    assert "4 was given" in refusal(lambda: load_guided_diffusion(path, **SMALL_SETTINGS, label=4))
    x = torch.ones(1, 3, 32, 32)
    t = torch.tensor([5])
    eps = [load_guided_diffusion(path, **SMALL_SETTINGS, label=i)(x, t) for i in range(2)]
    assert not torch.equal(*eps)
    with pytest.raises(ValueError, match=r"needs class labels y in 0\.\.3"):
        UNetModel(config)(x, t)
    with pytest.raises(ValueError, match="needs no class labels"):
        UNetModel(SMALL)(x, t, torch.tensor([1]))


def test_upsampler_is_refused_as_denoiser(tmp_path: Path) -> None:
    weights = filled(UNetModel(replace(SMALL, in_channels=6, out_channels=3)))
    path = save(tmp_path / "m.pt", weights)
    assert "takes 6 channels and gives 3" in refusal(
        lambda: load_guided_diffusion(path, **SMALL_SETTINGS)
    )
    save(path, filled(UNetModel(replace(SMALL, in_channels=6, out_channels=6))))
    assert "6 channels and gives 6" in refusal(
        lambda: load_guided_diffusion(path, **SMALL_SETTINGS)
    )
    assert load_guided_diffusion(path, **SMALL_SETTINGS, learn_sigma=False).info.channels == 6


def test_tile_that_does_not_fit_is_refused_with_the_multiple() -> None:
    with pytest.raises(ValueError, match=r"33 x 32 does not fit .* multiples of 2"):
        UNetModel(SMALL)(torch.zeros(1, 3, 33, 32), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\)"):
        UNetModel(SMALL)(torch.zeros(1, 1, 32, 32), torch.tensor([0]))


def test_variance_is_dropped_only_where_it_was_learned(tmp_path: Path) -> None:
    weights = filled(UNetModel(replace(SMALL, out_channels=3)))
    denoiser = load_guided_diffusion(save(tmp_path / "m.safetensors", weights), **SMALL_SETTINGS)
    assert denoiser(torch.ones(1, 3, 32, 32), torch.tensor([5])).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"predict_xstart": True}, "sample"),
        ({"prediction_type": "sample"}, "sample"),
        ({"prediction_type": "v_prediction"}, "v"),
        ({"predict_xstart": False}, "eps"),
    ],
)
def test_the_answer_means_what_the_settings_say(
    tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    weights = small_weights()
    path = save(tmp_path / "m.pt", weights)
    denoiser = load_guided_diffusion(path, **SMALL_SETTINGS, **settings)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([20, 700])
    alpha_bar = torch.from_numpy(cosine_alpha_bar(1000)[t.numpy()]).float()[:, None, None, None]
    answer = reference_eps(SMALL, weights, x, t)
    eps = denoiser(x, t)
    clean = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    means = {
        "eps": eps,
        "sample": clean,
        "v": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * clean,
    }
    torch.testing.assert_close(means[kind], answer, rtol=1e-3, atol=1e-3)
    plain = describe_guided_diffusion(path, **SMALL_SETTINGS)
    assert (denoiser.info.content == plain.content) == (kind == "eps")


POOLS = {
    "attention": {"out.2.positional_embedding": (32, 257), "out.2.c_proj.weight": (5, 32, 1)},
    "adaptive": {"out.0.weight": (32,), "out.3.weight": (5, 32, 1, 1), "out.3.bias": (5,)},
    "spatial": {"out.0.weight": (2048, 160), "out.2.weight": (5, 2048), "out.2.bias": (5,)},
    "spatial_v2": {"out.0.weight": (2048, 160), "out.1.weight": (2048,), "out.3.weight": (5, 2048)},
}
"""Parameters of the published heads of CLASSIFIER: four blocks of 32 features and the middle."""


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_of_classifiers_is_told_by_its_parameters(tmp_path: Path, pool: Any) -> None:
    config = replace(CLASSIFIER, pool=pool)
    model = ClassifierModel(config).eval()
    weights = filled(model)
    assert POOLS[pool].items() <= {k: tuple(v.shape) for k, v in weights.items()}.items()
    model.load_state_dict(weights)
    path = save(tmp_path / "c.pt", weights)
    settings = {"num_head_channels": 32, "use_new_attention_order": False, "image_size": 32}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 700])
    loaded = load_classifier(path, **settings)
    assert loaded.config == config
    with torch.no_grad():
        assert torch.equal(loaded(x, t), model(x, t))
        assert loaded(x, t).shape == (2, 5)
    flags = {**settings, "pool": pool}
    assert load_classifier(path, **flags).config == config
    said = {**settings, "classifier_pool": "attention" if pool != "attention" else "spatial"}
    assert "classifier_pool is given as" in refusal(lambda: load_classifier(path, **said))


def features_of(model: ClassifierModel, x: Tensor, t: Tensor) -> list[Tensor]:
    """Return what every block of a classifier's trunk gives."""
    emb = model.time_embed(timestep_embedding(t, CLASSIFIER.model_channels))
    found = []
    for block in (*model.input_blocks, model.middle_block):
        x = block(x, emb)
        found.append(x)
    return found


@pytest.mark.parametrize("pool", ["adaptive", "spatial", "spatial_v2"])
def test_a_pool_scores_by_its_description(pool: Any) -> None:
    model = ClassifierModel(replace(CLASSIFIER, pool=pool)).eval()
    weights = filled(model)
    model.load_state_dict(weights)
    x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([300])
    with torch.no_grad():
        blocks = features_of(model, x, t)
        means = torch.cat([block.mean(dim=(2, 3)) for block in blocks], dim=1)
        out = {k.removeprefix("out."): v for k, v in weights.items() if k.startswith("out.")}
        if pool == "adaptive":
            normed = F.group_norm(blocks[-1], 32, out["0.weight"], out["0.bias"])
            pooled = F.silu(normed).mean(dim=(2, 3))
            scores = pooled @ out["3.weight"][:, :, 0, 0].T + out["3.bias"]
        else:
            hidden = means @ out["0.weight"].T + out["0.bias"]
            last = "2" if pool == "spatial" else "3"
            if pool == "spatial":
                hidden = hidden.relu()
            else:
                hidden = F.silu(F.group_norm(hidden, 32, out["1.weight"], out["1.bias"]))
            scores = hidden @ out[f"{last}.weight"].T + out[f"{last}.bias"]
        torch.testing.assert_close(model(x, t), scores, rtol=1e-4, atol=1e-4)
