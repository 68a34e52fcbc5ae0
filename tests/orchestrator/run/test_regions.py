"""A region restored first by another model is kept bit for bit, and the rest of the image is
restored around it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.options.parsers import parse_regions
from orchestrator.errors import PlanError, RunError
from orchestrator.event_log import read_events
from orchestrator.events import BatchCommitted, Event
from orchestrator.job.spec import JobSpec
from orchestrator.monitoring.run_progress import read_status
from orchestrator.monitoring.run_summary import RunSummary
from orchestrator.monitoring.tile_counts import committed_records, tiles_of
from orchestrator.planning.fingerprint import fingerprint
from orchestrator.planning.flat_tiles import count_filled
from orchestrator.planning.resolve import load_plan, plan_job
from orchestrator.run import lifecycle as run
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.session import Session
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir
from storage.box import Box
from storage.readers.reader_registry import open_image
from tests.places import ROOT

MODELS = """
    import torch

    def rest(x_t, t):
        rest.calls += len(x_t)
        return 0.8 * x_t

    def special(x_t, t):
        special.calls += len(x_t)
        return 0.5 * x_t + 0.1

    rest.calls = special.calls = 0

    def grey(x_t, t):
        return x_t

    grey.channels = 1
"""
REGION = (32, 32, 64, 96)


@pytest.fixture(autouse=True)
def region_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "region_models.py").write_text(dedent(MODELS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "region_models", raising=False)


def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.write_bytes(bytes(imagecodecs.png_encode(pixels)))
    return path


def photo() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(60, 190, (48, 64, 3)).astype(np.uint8)


def job(source: Path, out: Path, region: Any = REGION, levels: int = 1, **changes: Any) -> JobSpec:
    regions = (
        [] if region is None else [{"box": region, "denoiser": "module:region_models:special"}]
    )
    return JobSpec.build(
        {
            "input": {"path": str(source)},
            "denoiser": "module:region_models:rest",
            "output": str(out),
            "task": {"name": "sr", "scale": 2},
            "sampling": {"intent": "paper", "steps": 3, "travel": (1, 1)},
            "tiling": {"tile": 32, "stride": 16, "levels": levels, "margin": 0},
            "regions": regions,
        }
        | changes
    )


def read(out: Path, box: tuple[int, int, int, int]) -> NDArray[Any]:
    return open_image(out).read(Box(*box))


def test_a_regions_pixels_are_those_of_its_own_run_on_its_part_of_the_input(tmp_path: Path) -> None:
    done = run.start(
        job(write(tmp_path / "in.png", photo()), tmp_path / "out.zarr"), SerialExecutor()
    )
    part = done.plan.regions[0].plan.spec
    cut = write(tmp_path / "cut.png", np.ascontiguousarray(photo()[16:32, 16:48]))
    alone = job(
        cut, tmp_path / "alone.zarr", None, denoiser="module:region_models:special"
    ).model_copy(update={"sampling": part.sampling, "tiling": part.tiling})
    run.start(alone, SerialExecutor())
    np.testing.assert_array_equal(
        read(tmp_path / "out.zarr", REGION), read(tmp_path / "alone.zarr", (0, 0, 32, 64))
    )
    assert verify_run(tmp_path / "out.zarr").consistent  # toy networks leave the range
    assert not (tmp_path / "out.zarr" / ".gigarestore" / "regions").exists()


@pytest.mark.slow
def test_the_rest_is_restored_around_the_region_by_its_own_model(tmp_path: Path) -> None:
    source = write(tmp_path / "in.png", photo())
    run.start(job(source, tmp_path / "out.zarr"), SerialExecutor())
    models = sys.modules["region_models"]
    assert models.special.calls > 0
    assert models.rest.calls > 0
    run.start(job(source, tmp_path / "plain.zarr", None), SerialExecutor())
    ours, plain = (read(tmp_path / name, (0, 0, 96, 128)) for name in ("out.zarr", "plain.zarr"))
    # Tiles of the first row end above the region and come first: they cannot know of it.
    np.testing.assert_array_equal(ours[:, :32, :32], plain[:, :32, :32])
    assert (ours[:, 32:64, 32:96] != plain[:, 32:64, 32:96]).any()


def test_tiles_wholly_inside_a_region_need_no_network(tmp_path: Path) -> None:
    source = write(tmp_path / "in.png", photo())
    spec = job(source, tmp_path / "out.zarr", (0, 0, 96, 128))
    done = run.start(spec, SerialExecutor())
    image = sum(level.grid.count for level in done.plan.levels)
    assert done.filled == image == count_filled(done.plan)
    assert done.tiles == tiles_of(done.plan) > image
    assert sys.modules["region_models"].rest.calls == 0


@pytest.mark.slow
def test_with_levels_the_region_is_known_at_the_coarse_ones_too(tmp_path: Path) -> None:
    source = write(tmp_path / "in.png", photo())
    spec = job(
        source,
        tmp_path / "out.zarr",
        levels=2,
        task={"name": "sr", "scale": 4},
        run={"keep_work": True},
    )
    done = run.start(spec, SerialExecutor())
    assert verify_run(tmp_path / "out.zarr").consistent  # toy networks leave the range
    folder = RunDir(tmp_path / "out.zarr")
    from orchestrator.worker.level_cells import LevelCells

    fine, coarse = (LevelCells.open(folder, level) for level in done.plan.levels)
    y0, x0, y1, x1 = REGION
    pooled = fine.read(Box(*REGION)).reshape(3, 16, 2, 32, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(
        coarse.read(Box(y0 // 2, x0 // 2, y1 // 2, x1 // 2)), pooled, atol=1e-6
    )


def test_a_region_of_a_generated_image_differs_from_the_rest_in_its_noise(tmp_path: Path) -> None:
    spec = job(
        tmp_path,
        tmp_path / "out.zarr",
        (0, 0, 32, 32),
        task={"name": "generate"},
        input={"size": (32, 64)},
    )
    done = run.start(spec, SerialExecutor())
    assert done.plan.regions[0].plan.spec.sampling.seed == 1
    assert read(tmp_path / "out.zarr", (0, 0, 32, 64)).std() > 0


def test_edges_move_outward_to_the_lattice_and_the_job_keeps_what_was_chosen(
    tmp_path: Path,
) -> None:
    source = write(tmp_path / "in.png", photo())
    plan = plan_job(
        job(
            source,
            tmp_path / "out.zarr",
            (33, 35, 61, 93),
            levels=2,
            task={"name": "sr", "scale": 4},
        )
    )
    assert plan.spec.regions[0].box == (32, 32, 64, 96)
    assert plan.spec.regions[0].sampling is not None
    assert plan.spec.regions[0].tiling is not None
    again = plan_job(plan.spec)
    assert fingerprint(again) == fingerprint(plan)


def test_a_regions_tiles_count_wherever_tiles_are_counted(tmp_path: Path) -> None:
    """Status, events, the requeue rule and the outcome see the region and the image as one run."""
    source = write(tmp_path / "in.png", photo())
    out = RunDir(tmp_path / "out.zarr")
    heard = RunSummary()
    seen: list[tuple[int, int, int, int]] = []

    def listen(event: Event) -> None:
        heard.add(event, time.time())
        if isinstance(event, BatchCommitted):
            status = read_status(out.root)
            seen.append((heard.done, status["done"], committed_records(out), status["tiles"]))

    done = run.start(job(source, out.root), SerialExecutor(), [listen])
    region = sum(level.grid.count for level in done.plan.regions[0].plan.levels)
    total = region + sum(level.grid.count for level in done.plan.levels)
    assert [live for live, *_ in seen] == list(range(1, total + 1))
    assert {(status, records) for _, status, records, _ in seen} == {
        (count, count) for count in range(1, total + 1)
    }
    assert {tiles for *_, tiles in seen} == {total}
    assert done.tiles == heard.tiles == heard.done == total
    status = read_status(out.root)
    assert (status["state"], status["done"], status["tiles"]) == ("published", total, total)
    assert [line.get("region") for line in status["levels"]] == [0, None]
    logged = [event for _, event in read_events(out.events) if isinstance(event, BatchCommitted)]
    assert [event.region for event in logged] == [0] * region + [None] * (total - region)
    assert all(before.path >= after.path for before, after in pairwise(logged))


def test_a_script_is_told_how_many_tiles_of_image_and_regions_are_committed(tmp_path: Path) -> None:
    source = write(tmp_path / "in.png", photo())
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-m", "orchestrator.monitoring.tile_counts", str(out)]

    def committed() -> int:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(said.stdout)

    assert committed() == 0
    with pytest.raises(RunError, match="stopped"):
        run.start(job(source, out), Interrupted())
    region = load_plan(RunDir(out)).regions[0]
    assert committed() == sum(level.grid.count for level in region.plan.levels) > 0


class Interrupted(SerialExecutor):
    """Give up after the region's run, and after a few tiles of the main one."""

    def execute(self, session: Session) -> None:
        if session.plan.regions:
            raise RunError("stopped")
        super().execute(session)


@pytest.mark.slow
def test_a_run_stopped_after_its_region_goes_on_and_a_changed_region_is_refused(
    tmp_path: Path,
) -> None:
    source = write(tmp_path / "in.png", photo())
    whole = run.start(job(source, tmp_path / "whole.zarr"), SerialExecutor())
    with pytest.raises(RunError, match="stopped"):
        run.start(job(source, tmp_path / "out.zarr"), Interrupted())
    drawn = sys.modules["region_models"].special.calls
    kept = JobSpec.load(RunDir(tmp_path / "out.zarr").job)
    moved = kept.model_copy(
        update={"regions": (kept.regions[0].model_copy(update={"box": (0, 0, 32, 32)}),)}
    )
    with pytest.raises(PlanError, match="cannot resume: regions"):
        run.resume(tmp_path / "out.zarr", SerialExecutor(), changes=moved)
    run.resume(tmp_path / "out.zarr", SerialExecutor())
    assert sys.modules["region_models"].special.calls == drawn
    box = (0, 0, 96, 128)
    np.testing.assert_array_equal(
        read(tmp_path / "out.zarr", box), read(tmp_path / "whole.zarr", box)
    )
    assert len(load_plan(RunDir(tmp_path / "out.zarr")).regions) == len(whole.plan.regions)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([{"box": (0, 0, 97, 10), "denoiser": "builtin"}], "not inside the output of 96x128"),
        ([{"box": (5, 5, 5, 9), "denoiser": "builtin"}], "not inside"),
        (
            [
                {"box": REGION, "denoiser": "builtin"},
                {"box": (50, 50, 70, 70), "denoiser": "builtin"},
            ],
            "overlap",
        ),
        ([{"box": REGION, "denoiser": "nothing"}], "unknown denoiser"),
        ([{"box": REGION, "denoiser": "builtin", "label": 3}], "knows no classes"),
    ],
)
def test_a_senseless_region_is_refused(
    tmp_path: Path, regions: list[dict[str, Any]], message: str
) -> None:
    source = write(tmp_path / "in.png", photo())
    with pytest.raises(PlanError, match=message) as caught:
        plan_job(job(source, tmp_path / "out.zarr", regions=regions))
    assert "\n" not in str(caught.value)


def test_a_region_model_with_other_channels_is_served_in_groups(tmp_path: Path) -> None:
    source = write(tmp_path / "in.png", photo())
    regions = [{"box": REGION, "denoiser": "module:region_models:grey"}]
    done = run.start(job(source, tmp_path / "out.zarr", regions=regions), SerialExecutor())
    assert len(done.plan.regions[0].plan.bands.groups) == 3
    assert verify_run(tmp_path / "out.zarr").consistent  # toy networks leave the range


def test_regions_are_read_from_the_command_line() -> None:
    found = parse_regions(
        [
            "0,0,32,64:guided-diffusion:faces.pt:207",
            "1,2,3,4:module:my.models:net",
            "1,2,3,4:builtin",
        ]
    )
    assert [(r["denoiser"], r["label"]) for r in found] == [
        ("guided-diffusion:faces.pt", 207),
        ("module:my.models:net", None),
        ("builtin", None),
    ]
    assert found[0]["box"] == (0, 0, 32, 64)
    with pytest.raises(PlanError, match="no region"):
        parse_regions(["0,0,32:builtin"])
