"""Tiles whose measurement determines them are filled without the network, and the rest of the run
is as before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import dedent

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.job.spec import JobSpec
from orchestrator.planning.flat_tiles import count_filled
from orchestrator.planning.resolve import plan_job
from orchestrator.run import lifecycle as run
from orchestrator.run.drive import Outcome
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run
from storage.box import Box
from storage.readers.reader_registry import open_image

MODELS = """
    def counted(x_t, t):
        counted.calls += len(x_t)
        return 0.7 * x_t

    counted.calls = 0
"""


@pytest.fixture(autouse=True)
def counted_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counted_models.py").write_text(dedent(MODELS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "counted_models", raising=False)


def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.write_bytes(bytes(imagecodecs.png_encode(pixels)))
    return path


def restore(
    tmp_path: Path,
    task: dict[str, object],
    pixels: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
) -> Outcome:
    source: dict[str, object] = {"path": str(write(tmp_path / "in.png", pixels))}
    if mask is not None:
        source["mask"] = str(write(tmp_path / "mask.png", mask))
    spec = JobSpec.build(
        {
            "input": source,
            "denoiser": "module:counted_models:counted",
            "output": str(tmp_path / "out.zarr"),
            "task": task,
            "sampling": {"intent": "paper", "steps": 2, "travel": (1, 1)},
            "tiling": {"tile": 32, "stride": 16, "levels": 1},
        }
    )
    return run.start(spec, SerialExecutor())


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(50, 200, (height, width, 3)).astype(np.uint8)


def calls() -> int:
    return int(sys.modules["counted_models"].counted.calls)


def test_the_plan_counts_the_tiles_that_the_run_then_fills(tmp_path: Path) -> None:
    pixels = noise(32, 96)
    mask = np.full((32, 96), 255, np.uint8)
    mask[8:24, 80:90] = 0
    done = restore(tmp_path, {"name": "inpaint"}, pixels, mask)
    assert count_filled(done.plan) == done.filled == 4
    flat = plan_job(
        JobSpec.build(
            {
                "input": {
                    "path": str(write(tmp_path / "flat.png", np.full((40, 50, 3), 9, np.uint8)))
                },
                "denoiser": "analytic:",
                "task": {"name": "sr", "scale": 4, "skip_flat": 0.0},
                "tiling": {"tile": 64, "stride": 32, "levels": 2},
            }
        )
    )
    assert count_filled(flat) == sum(level.grid.count for level in flat.levels)
    plain = flat.spec.model_copy(
        update={"task": flat.spec.task.model_copy(update={"skip_flat": None})}
    )
    assert count_filled(plan_job(plain)) == 0


def test_fully_known_tiles_are_copied_and_the_others_restored(tmp_path: Path) -> None:
    pixels = noise(32, 96)
    mask = np.full((32, 96), 255, np.uint8)
    mask[8:24, 80:90] = 0
    done = restore(tmp_path, {"name": "inpaint"}, pixels, mask)
    assert done.tiles == 5
    assert done.filled == 4
    assert calls() == 2 * (done.tiles - done.filled)
    result = open_image(tmp_path / "out.zarr").read(Box(0, 0, 32, 96))
    known = mask != 0
    np.testing.assert_array_equal(result[:, known], pixels.transpose(2, 0, 1)[:, known])
    assert verify_run(tmp_path / "out.zarr").consistent  # toy networks leave the range


def test_the_log_says_which_batches_needed_no_network(tmp_path: Path) -> None:
    mask = np.full((32, 96), 1, np.uint8)
    mask[5:7, 90:92] = 0
    restore(tmp_path, {"name": "inpaint"}, noise(32, 96), mask)
    lines = (tmp_path / "out.zarr" / ".gigarestore" / "events.jsonl").read_text().splitlines()
    batches = [event for event in map(json.loads, lines) if event["event"] == "BatchCommitted"]
    assert sum(b["filled"] for b in batches) == 4
    assert sum(b["nfe"] > 0 for b in batches) == 1
    assert calls() > 0


@pytest.mark.parametrize(("tolerance", "filled"), [(None, 0), (0.0, 1), (2.0, 2)])
def test_flat_tiles_are_filled_to_the_stated_tolerance_only(
    tmp_path: Path, tolerance: float | None, filled: int
) -> None:
    pixels = noise(16, 64)
    pixels[:, 0:16] = 240
    pixels[:, 16:24] = 239
    task: dict[str, object] = {"name": "sr", "scale": 2}
    done = restore(
        tmp_path, task if tolerance is None else task | {"skip_flat": tolerance}, pixels, None
    )
    assert done.filled == filled
    assert verify_run(tmp_path / "out.zarr").consistent  # toy networks leave the range
    if filled:
        result = open_image(tmp_path / "out.zarr").read(Box(0, 0, 32, 32))
        assert (result == 240).all()


def test_colorizing_fills_flat_tiles_with_grey(tmp_path: Path) -> None:
    done = restore(
        tmp_path, {"name": "colorize", "skip_flat": 0.0}, np.full((32, 64, 3), 77, np.uint8), None
    )
    assert done.filled == done.tiles
    assert (open_image(tmp_path / "out.zarr").read(Box(0, 0, 32, 64)) == 77).all()


def test_a_flat_but_partly_unknown_tile_is_restored(tmp_path: Path) -> None:
    mask = np.full((32, 32), 255, np.uint8)
    mask[4, 4] = 0
    done = restore(
        tmp_path, {"name": "inpaint", "skip_flat": 5.0}, np.full((32, 32, 3), 77, np.uint8), mask
    )
    assert done.filled == 0


def test_flat_tiles_of_a_noisy_measurement_are_kept_as_they_are_and_the_rest_is_denoised(
    tmp_path: Path,
) -> None:
    pixels = noise(32, 96)
    pixels[:, :40] = 240
    done = restore(tmp_path, {"name": "denoise", "sigma": 10.0, "skip_flat": 0.0}, pixels, None)
    assert 0 < done.filled < done.tiles
    result = open_image(tmp_path / "out.zarr").read(Box(0, 0, 32, 96))
    assert (result[:, :, :8] == 240).all()
    assert (result[:, :, 48:] != pixels.transpose(2, 0, 1)[:, :, 48:]).any()
