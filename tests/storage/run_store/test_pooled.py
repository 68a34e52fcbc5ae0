"""Pooled measurements: averages, the strict mask rule, and loud loss."""

from pathlib import Path

import numpy as np
import pytest

from storage.box import Box
from storage.errors import DamagedError
from storage.run_store import pooled


def build(tmp_path: Path, image: np.ndarray, factor: int = 2) -> pooled.Pooled:
    height = image.shape[1] // factor
    width = image.shape[2] // factor
    return pooled.build_pooled(
        lambda y0, x0, y1, x1: image[:, y0:y1, x0:x1],
        image.shape[0],
        height,
        width,
        factor,
        tmp_path / "p.zarr",
    )


def test_blocks_of_any_size_give_the_same_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = np.random.default_rng(0).random((3, 60, 84), dtype=np.float32)
    monkeypatch.setattr(pooled, "BLOCK", 16)
    found = build(tmp_path, image).read(Box(0, 0, 30, 42))
    np.testing.assert_allclose(found, image.reshape(3, 30, 2, 42, 2).mean(axis=(2, 4)), atol=1e-6)


def test_a_coarse_pixel_is_the_mean_of_its_known_pixels_and_unknown_without_any(tmp_path: Path):
    image = np.ones((1, 8, 8), np.float32)
    image[0, 3, 5] = np.nan
    image[0, 2, 5] = 0.25
    image[0, 6:, 6:] = np.nan
    found = build(tmp_path, image).read(Box(0, 0, 4, 4))
    assert np.isnan(found).sum() == 1
    assert np.isnan(found[0, 3, 3])
    assert found[0, 1, 2] == 0.75


def test_a_lost_block_is_an_error_and_not_an_unknown_pixel(tmp_path: Path):
    found = build(tmp_path, np.full((1, 8, 8), np.nan, np.float32))
    assert np.isnan(found.read(Box(0, 0, 4, 4))).all()
    (tmp_path / "p.zarr" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(DamagedError, match="is lost"):
        found.read(Box(0, 0, 4, 4))
