"""Before a run its network is tried where its reading is not certain, and one's own module is
called once.
"""

import json
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from safetensors.torch import save_file

import gigarestore as gr
from kernels.denoiser_info import split_settings, with_settings
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning import network_trial
from orchestrator.planning.network_trial import plan_tried
from orchestrator.planning.resolve import keep_reading
from orchestrator.run.lifecycle import resume, start
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run_folder import RunDir
from tests.kernels.denoisers.small_networks import forget_modules
from tests.priors import small_guided

FAILING = """
    import torch

    def line_five(x_t, t):
        return x_t.no_such_attribute

    class Unmade:
        def __init__(self):
            self.net = torch.load("nowhere.pt")

    class Silent:
        pass

    def nan(x_t, t):
        return x_t * float("nan")

    def narrow(x_t, t):
        return x_t[:, :1]

    def needs_gpu(x_t, t):
        raise RuntimeError("Found no NVIDIA driver: CUDA is not available")

    def zero(x_t, t):
        return torch.zeros_like(x_t)
"""

OWN_NETS = """
    import torch
    from kernels.denoisers.builtin import load_builtin
    from kernels.schedule import linear_alpha_bar

    PRIOR = load_builtin()
    LINEAR = torch.from_numpy(linear_alpha_bar(1000)).float()

    def weights(t):
        return [w[t][:, None, None, None] for w in (LINEAR.sqrt(), (1 - LINEAR).sqrt())]

    def right(x_t, t):
        return PRIOR(x_t, t)

    def negated(x_t, t):
        return -PRIOR(x_t, t)

    def picture(x_t, t):
        a, s = weights(t)
        return (x_t - s * PRIOR(x_t, t)) / a

    def bytes_of(x_t, t):
        a, s = weights(t)
        levels = ((1 - LINEAR) / LINEAR).sqrt()
        nearest = (levels.log() - (s / a / 127.5).flatten()[0].log()).abs().argmin()[None]
        return PRIOR(weights(nearest)[0] * (x_t / a / 127.5 - 1), nearest)

    for net in (right, negated, picture, bytes_of):
        net.tile = 32
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(dedent(FAILING))
    (tmp_path / "own_nets.py").write_text(dedent(OWN_NETS))
    (tmp_path / "unread.py").write_text("def net(x_t, t)\n    return x_t\n")
    forget_modules(monkeypatch, tmp_path, "failing", "unread", "own_nets")
    monkeypatch.setattr(network_trial, "_FOUND", {})
    network_trial._call_once.cache_clear()
    network_trial._load_once.cache_clear()


@pytest.fixture
def image(write_picture, tmp_path):
    """Four drawn pictures side by side."""
    pictures = small_guided.draw(4, seed=9, side=32).numpy()
    whole = np.concatenate(pictures, axis=2)
    return write_picture(tmp_path / "in.png", np.rint((whole + 1) * 127.5).astype("uint8"))


@pytest.fixture
def checkpoint(tmp_path):
    """A network whose heads and order nobody says."""
    path = tmp_path / "m.safetensors"
    save_file(small_guided.weights(), path)
    Path(f"{path}.json").write_text(json.dumps({"image_size": 16}))
    return path


def asked(image, denoiser, out=None):
    job = {"input": {"path": str(image)}, "denoiser": denoiser, "task": {"name": "sr", "scale": 2}}
    return JobSpec.build({**job, "output": None if out is None else str(out)})


@pytest.mark.filterwarnings("ignore:.*assumed")
def test_heads_that_nobody_says_are_found_and_kept_with_the_job(image, checkpoint):
    plan = plan_tried(asked(image, f"guided-diffusion:{checkpoint}"))
    bare, said = split_settings(plan.spec.denoiser)
    assert bare == f"guided-diffusion:{checkpoint}"
    assert (said["num_heads"], said["use_new_attention_order"]) == (2, True)
    assert plan.denoiser.assumed == ()
    assert "num_heads 2" in plan.denoiser.name
    assert plan_tried(plan.spec).spec == plan.spec


@pytest.mark.filterwarnings("ignore:.*assumed")
def test_a_run_goes_on_with_the_reading_that_it_has_found(image, checkpoint, job, tmp_path):
    ref = f"guided-diffusion:{checkpoint}"
    out = tmp_path / "out.zarr"
    task = {"name": "sr", "scale": 2}
    small = {"crop": [0, 0, 32, 32]}
    spec = job(image, out, task=task, denoiser=ref, tiling={"levels": 1}, input=small)
    start(spec, SerialExecutor())
    begun = JobSpec.load_resolved(RunDir(out).job)
    assert "?" in begun.denoiser
    again = begun.model_copy(update={"denoiser": ref})
    assert keep_reading(again, begun) == begun
    resume(out, SerialExecutor(), changes=again)


def test_nan_in_the_middle_of_a_large_parameter_is_found_before_a_run(image, checkpoint):
    weights = small_guided.weights()
    weights["middle_block.0.in_layers.2.weight"].view(-1)[9_000] = float("nan")
    save_file(weights, checkpoint)
    settings = {"num_heads": 2, "use_new_attention_order": True, "noise_schedule": "linear"}
    Path(f"{checkpoint}.json").write_text(json.dumps({"image_size": 16, **settings}))
    with pytest.raises(PlanError, match=r"middle_block\.0\.in_layers\.2\.weight holds NaN"):
        plan_tried(asked(image, f"guided-diffusion:{checkpoint}"))


def test_a_folder_whose_weights_do_not_fit_is_refused_before_a_run(image, tmp_path):
    from tests.kernels.denoisers.diffusers_folders import alter, diffusers, network, write_parts

    path = write_parts(tmp_path / "folder", network(), diffusers.DDPMScheduler())
    alter(path / "unet/config.json", block_out_channels=[16, 48])
    with pytest.raises(PlanError, match=r"does not fit config\.json"):
        plan_tried(asked(image, f"diffusers:{path}"))


def test_what_the_user_says_is_not_tried(image, checkpoint):
    settings = {"image_size": 16, "num_heads": 1, "noise_schedule": "linear"}
    Path(f"{checkpoint}.json").write_text(
        json.dumps({**settings, "use_new_attention_order": False})
    )
    ref = f"guided-diffusion:{checkpoint}"
    assert plan_tried(asked(image, ref)).spec.denoiser == ref


@pytest.mark.filterwarnings("ignore:.*assumed")
def test_a_network_that_denoises_in_no_reading_is_refused_with_its_residual(image, checkpoint):
    weights = {name: -value for name, value in small_guided.weights().items()}
    save_file(weights, checkpoint)
    with pytest.raises(PlanError, match=r"does not denoise this image: it leaves \d+\.\d\d of"):
        plan_tried(asked(image, f"guided-diffusion:{checkpoint}"))


def test_settings_of_a_reference_win_and_are_replaced():
    ref = with_settings("guided-diffusion:a/b.pt#ema", {"num_heads": 2, "name": "x"})
    assert ref == 'guided-diffusion:a/b.pt#ema?name="x"&num_heads=2'
    again = with_settings(ref, {"num_heads": 4})
    assert split_settings(again) == ("guided-diffusion:a/b.pt#ema", {"name": "x", "num_heads": 4})
    with pytest.raises(ValueError, match="'num_heads' is no setting"):
        split_settings("guided-diffusion:b.pt?num_heads")
    assert split_settings("module:a:b?c") == ("module:a:b?c", {})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("failing:line_five", r"AttributeError: .*no_such_attribute.* \(.*failing\.py:5\)$"),
        ("failing:Unmade", r"making a Unmade failed: FileNotFoundError: .*\(.*failing\.py:9\)$"),
        ("failing:Silent", "a Silent cannot be called"),
        ("failing:nan", "answered noise with NaN"),
        ("failing:narrow", r"answered \(1, 1, 256, 256\) to a batch of \(1, 3, 256, 256\)"),
        ("unread:net", r"importing unread failed: SyntaxError: .*\(.*unread\.py:1\)"),
    ],
)
def test_an_error_of_ones_own_network_is_one_line_with_its_place(image, name, says):
    with pytest.raises(PlanError, match=says) as caught:
        plan_tried(asked(image, f"module:{name}"))
    assert "\n" not in str(caught.value)


def test_a_network_that_needs_a_gpu_is_planned_where_there_is_none(image):
    assert plan_tried(asked(image, "module:failing:needs_gpu")).tile == 256


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("negated", "answers with minus the noise"),
        ("picture", "answers with the picture"),
        ("bytes_of", "pictures from 0 to 255"),
    ],
)
def test_a_module_that_clearly_means_something_else_is_refused(image, name, says):
    with pytest.raises(PlanError, match=rf"leaves \d+\.\d\d of the noise .*{says}"):
        plan_tried(asked(image, f"module:own_nets:{name}"))


@pytest.mark.parametrize("name", ["own_nets:right", "failing:zero"])
def test_a_module_that_denoises_or_nobody_can_read_goes_on(image, name):
    assert plan_tried(asked(image, f"module:{name}")).spec.denoiser == f"module:{name}"


def test_the_api_tries_a_network_on_an_array(image):
    checked = gr.check(
        "module:failing:zero",
        small_guided.draw(1, 3, side=48)[0].numpy(),
        axes="cyx",
        value_range=(-1.0, 1.0),
    )
    assert not checked.denoises
    assert checked.readings[0].reading == "as stated"
    assert checked.readings[0].levels == pytest.approx([1.0] * len(checked.sigmas), abs=0.05)
    assert "untrained" in checked.line
    assert gr.check("builtin", str(image)).denoises


def test_a_flat_image_says_that_nothing_can_be_tried_on_it():
    with pytest.raises(gr.PlanError, match="is flat"):
        gr.check("builtin", np.full((64, 64), 7, "uint8"))


@pytest.mark.parametrize(
    ("denoiser", "says"),
    [("module:absent:net", "no module named"), ("nothing:x", "known schemes")],
)
def test_a_network_that_cannot_be_loaded_is_refused(image, denoiser, says):
    with pytest.raises(gr.PlanError, match=says):
        gr.check(denoiser, str(image))
