"""A guided-diffusion network of published size loads from a .pt with the published key names, and
takes a step.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.places import GOLDEN, ROOT

KEYS = GOLDEN / "keys" / "256x256_diffusion_uncond.json"
PARAMETERS = 552_814_086
TILE = 128  # a fourth of the work of the training size; every weight is used alike

# Runs in a process of its own, so that its peak of memory is its own too.
SCRIPT = """
import json, resource, sys, time
from pathlib import Path
import torch
from kernels.denoisers.denoiser import load_denoiser
from kernels.sampling.constraints import Measurement, Problem
from kernels.noise import KeyedNoise
from kernels.operators.elementary import AveragePool
from kernels.sampling.sampler import SamplerConfig, sample
from kernels.schedule import Schedule, base_alpha_bar

keys, path, tile = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
block = 0.02 * torch.randn(2**20, generator=torch.Generator().manual_seed(0))

def weights(shape):
    count = torch.Size(shape).numel()
    return block.repeat(-(-count // len(block)))[:count].reshape(shape)

shapes = json.loads(Path(keys).read_text())["state_dict"]
torch.save({k: weights(shape) for k, shape in shapes.items()}, path)
began = time.perf_counter()
denoiser = load_denoiser(f"guided-diffusion:{path}")
loaded = time.perf_counter() - began
schedule = Schedule.from_timesteps(base_alpha_bar(denoiser.info.alpha_bar), [500])
config = SamplerConfig(schedule=schedule, times=(0, -1))
y = torch.zeros(1, 3, tile // 4, tile // 4)
problem = Problem(measurement=Measurement(AveragePool(4), y))
result = sample(denoiser, problem, config, KeyedNoise(0), [(0, 0, 0)], (3, tile, tile))
print(json.dumps({
    "name": denoiser.info.name,
    "tile": denoiser.info.tile,
    "parameters": sum(p.numel() for p in denoiser.model.parameters()),
    "load_seconds": loaded,
    "step_seconds": time.perf_counter() - began - loaded,
    "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "finite": bool(torch.isfinite(result).all()),
    "spread": float(result.std()),
    "residual": float(AveragePool(4).A(result).sub(y).abs().max()),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    psutil.virtual_memory().available < 8e9, reason="needs 8 GB of available memory"
)
@pytest.mark.alone
def test_a_full_size_network_loads_under_its_published_names_and_takes_one_step(
    tmp_path: Path,
) -> None:
    if shutil.disk_usage(tmp_path).free < 4e9:
        pytest.skip("needs 4 GB of disk")
    path = tmp_path / "256x256_diffusion_uncond.pt"
    root = ROOT
    command = [sys.executable, "-c", SCRIPT, str(KEYS), str(path), str(TILE)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=root, timeout=240, check=False
        )
    finally:
        path.unlink(missing_ok=True)  # 2.2 GB
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert "256x256_diffusion_uncond" in found["name"]
    assert "assumed" not in found["name"]
    assert (found["tile"], found["parameters"]) == (256, PARAMETERS)
    assert found["finite"]
    assert found["spread"] > 1e-3
    assert found["residual"] < 1e-5
    assert found["load_seconds"] < 30  # the weights are mapped, not read
    assert found["peak_bytes"] < 6e9
