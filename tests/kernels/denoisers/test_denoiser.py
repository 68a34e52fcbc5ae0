import subprocess
import sys

import pytest
import torch

from kernels.denoiser_info import BUILTIN_WEIGHTS
from kernels.denoisers.denoiser import evaluate, load_denoiser
from kernels.denoisers.denoiser_registry import describe
from kernels.schedule import base_alpha_bar
from tests.places import ROOT


@pytest.mark.parametrize("ref", ["analytic:", "analytic"])
def test_the_analytic_denoiser_loads_by_its_scheme(ref):
    denoiser = load_denoiser(ref)
    x = torch.zeros(2, 3, 20, 28)
    assert denoiser(x, torch.tensor([0, 999])).shape == x.shape
    assert denoiser.info == describe(ref)


@pytest.mark.skipif(not BUILTIN_WEIGHTS.exists(), reason="the built-in weights are not here")
@pytest.mark.parametrize("ref", ["builtin", "builtin:"])
def test_the_builtin_denoiser_is_what_the_catalog_says(ref):
    info = describe(ref)
    denoiser = load_denoiser(ref)
    assert denoiser.info == info
    assert (info.channels, info.tile, info.multiple, info.n_timesteps) == (3, 256, 8, 1000)
    assert len(base_alpha_bar(info.alpha_bar, info.n_timesteps)) == 1000


@pytest.mark.parametrize("ref", ["nonsense", "guided:x.pt", "", "/a/model.pt", "http://host/model"])
def test_an_unknown_scheme_is_refused_naming_the_known_ones(ref):
    for function in (load_denoiser, describe):
        with pytest.raises(
            ValueError,
            match=r"known schemes: builtin:, prior:PATH, analytic:, .*, sigma:package.module:name$",
        ):
            function(ref)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("builtin:big", "takes no path"),
        ("analytic:x", "takes no path"),
        ("guided-diffusion:", "names nothing"),
    ],
)
def test_a_reference_with_a_wrong_path_is_refused(ref, message):
    with pytest.raises(ValueError, match=message):
        describe(ref)


def test_describing_needs_no_torch():
    code = (
        "import sys, kernels.denoisers.denoiser_registry as c;"
        "c.describe('analytic:'); c.BUILTIN_WEIGHTS.exists() and c.describe('builtin');"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_tile_is_evaluated_apart_from_its_batch_on_the_cpu():
    sizes = []

    def denoiser(x_t, t):
        sizes.append(len(x_t))
        return x_t * t[:, None, None, None]

    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1, 2, 3])
    assert torch.equal(evaluate(denoiser, x, t), x * t[:, None, None, None])
    assert sizes == [1, 1, 1]
