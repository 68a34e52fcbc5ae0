"""An image of any number of bands, one band, and a stated range of values come back whole and
consistent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from orchestrator.job.bands import Bands
from orchestrator.job.spec import JobSpec
from orchestrator.job.value_range import Values
from orchestrator.planning.resolve import plan_job
from orchestrator.run import lifecycle as run
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run
from storage.box import Box
from storage.errors import FormatError
from storage.export.export_image import export
from storage.publishing.publish import publish
from storage.readers.reader_registry import open_image

MODELS = """
    def shrink(x_t, t):
        "A smooth stand-in for a network."
        return 0.7 * x_t

    def four(x_t, t):
        return 0.7 * x_t

    four.channels = 4
"""


@pytest.fixture(autouse=True)
def band_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "band_models.py").write_text(dedent(MODELS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "band_models", raising=False)


def image(
    path: Path, channels: int, dtype: str = "uint8", top: int | None = None
) -> NDArray[np.unsignedinteger]:
    peak = top or int(np.iinfo(dtype).max)
    pixels = (
        np.random.default_rng(channels)
        .integers(peak // 4, peak // 2, (channels, 24, 40))
        .astype(dtype)
    )

    def source(box):
        return pixels[(slice(None), *box.slices())]

    publish(
        source, path, height=24, width=40, channels=channels, dtype=dtype, name="in", attributes={}
    )
    return pixels


def job(
    source: Path,
    out: Path,
    denoiser: str = "module:band_models:shrink",
    **sections: dict[str, object],
) -> JobSpec:
    values: dict[str, object] = {
        "denoiser": denoiser,
        "output": str(out),
        "task": {"name": "sr", "scale": 2},
        "sampling": {"intent": "paper", "steps": 3, "travel": (1, 1)},
        "tiling": {"tile": 32, "stride": 16, "levels": 1},
    }
    values |= sections
    values["input"] = {"path": str(source), **sections.get("input", {})}
    return JobSpec.build(values)


@given(
    count=st.integers(1, 9), channels=st.integers(1, 5), rule=st.sampled_from(["groups", "single"])
)
def test_no_band_is_lost_on_the_way_to_the_network_and_back(
    count: int, channels: int, rule: str
) -> None:
    bands = Bands.build(count, channels, bands_as=rule)
    pixels = np.random.default_rng(0).standard_normal((count, 2, 3)).astype(np.float32)
    pictures = bands.split(pixels)
    assert all(picture.shape == (channels, 2, 3) for picture in pictures)
    np.testing.assert_array_equal(bands.published(bands.join(pictures)), pixels)


@given(count=st.integers(1, 9), channels=st.integers(1, 5))
def test_noise_is_the_same_in_all_channels_of_every_picture_or_in_none(
    count: int, channels: int
) -> None:
    bands = Bands.build(count, channels, noisy=True)
    different = {len(set(group)) for group in bands.groups}
    assert different in ({1}, {channels})
    assert bands.copies == (channels if different == {1} else 1)


def test_groups_are_stated_band_by_band() -> None:
    assert Bands.build(3, 3).describe() == []
    assert Bands.build(4, 3).groups == ((0, 1, 2), (1, 2, 3))
    assert Bands.build(5, 3).describe()[1] == "group 2: channels hold band 3, 4, 5"
    assert Bands.build(4, 3, fill_up=True).groups == ((0, 1, 2), (3, 3, 3))
    assert Bands.build(5, 3, fill_up=True).groups == ((0, 1, 2), (3, 4, 4))
    assert Bands.build(2, 3).groups == ((0, 1, 1),)
    assert Bands.build(2, 3, noisy=True).groups == ((0, 0, 0), (1, 1, 1))
    assert Bands.build(2, 3, bands_as="single").groups == ((0, 0, 0), (1, 1, 1))
    assert Bands.build(1, 3, grey_as="mean").describe() == [
        "band 1 is the mean of the network's 3 channels"
    ]
    with pytest.raises(PlanError, match="--grey-as 'sum' is unknown"):
        Bands.build(1, 3, grey_as="sum")


@pytest.mark.parametrize(
    ("channels", "denoiser", "how"),
    [
        (1, "shrink", {"grey_as": "replicate"}),
        (1, "shrink", {"grey_as": "mean"}),
        (2, "shrink", {}),
        (5, "shrink", {}),
        (5, "shrink", {"bands_as": "single"}),
        (4, "four", {}),
        (3, "four", {}),
    ],
)
def test_any_number_of_bands_is_restored_consistently(
    tmp_path: Path, channels: int, denoiser: str, how: dict[str, object]
) -> None:
    pixels = image(tmp_path / "in.zarr", channels)
    spec = job(
        tmp_path / "in.zarr", tmp_path / "out.zarr", f"module:band_models:{denoiser}", input=how
    )
    done = run.start(spec, SerialExecutor())
    restored = open_image(tmp_path / "out.zarr")
    assert restored.info.shape == (channels, 48, 80)
    found = verify_run(tmp_path / "out.zarr")
    assert found.complete
    assert found.consistent  # toy networks leave the range
    assert found.consistency is not None
    assert found.consistency.cells + found.consistency.clipped == pixels.size
    assert done.plan.bands.count == channels


@pytest.mark.parametrize(
    ("dtype", "top", "limits"),
    [("uint16", 4095, (0, 4095)), ("uint16", 65535, None), ("uint8", 255, (16, 235))],
)
def test_a_stated_range_keeps_every_stored_level(
    tmp_path: Path, dtype: str, top: int, limits: tuple[float, float] | None
) -> None:
    image(tmp_path / "in.zarr", 3, dtype, top)
    spec = job(
        tmp_path / "in.zarr",
        tmp_path / "out.zarr",
        input={} if limits is None else {"values": limits},
    )
    run.start(spec, SerialExecutor())
    found = verify_run(tmp_path / "out.zarr").consistency
    assert found is not None
    assert found.max <= 0.5


@pytest.mark.parametrize("limits", [(0, 65535), (0, 4095), (100, 60000), (1000, 1001)])
def test_every_16_bit_value_survives_the_mapping(limits: tuple[float, float]) -> None:
    values = Values.build("uint16", limits)
    stored = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(values.from_unit(values.to_unit(stored)), stored)
    assert values.to_unit(np.array(limits, np.float64)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("limits", [(5.0, 5.0), (10.0, 3.0), (-1.0, 255.0), (0.0, 256.0)])
def test_a_senseless_range_is_refused(tmp_path: Path, limits: tuple[float, float]) -> None:
    image(tmp_path / "in.zarr", 3)
    with pytest.raises(PlanError, match="--range"):
        plan_job(job(tmp_path / "in.zarr", tmp_path / "out.zarr", input={"values": limits}))


def test_other_bands_than_grey_or_colour_are_exported_as_tiff_only(tmp_path: Path) -> None:
    pixels = image(tmp_path / "in.zarr", 5)
    export(tmp_path / "in.zarr", tmp_path / "out.tif")
    np.testing.assert_array_equal(open_image(tmp_path / "out.tif").read(Box(0, 0, 24, 40)), pixels)
    with pytest.raises(FormatError, match=r"not uint8 with 5 bands; export to out\.tif"):
        export(tmp_path / "in.zarr", tmp_path / "out.png")


def test_noise_in_grey_levels_is_relative_to_the_stated_range(tmp_path: Path) -> None:
    image(tmp_path / "in.zarr", 3, "uint16", 4095)
    task = {"name": "sr", "scale": 2, "sigma": 409.5}
    plan = plan_job(
        job(tmp_path / "in.zarr", tmp_path / "o", input={"values": (0, 4095)}, task=task)
    )
    assert plan.levels[0].sigma_y == pytest.approx(0.2)
