"""The read cache: the same pixels, each tile or chunk of a file decoded once on a run's way through
the image.
"""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.grid import TileGrid
from orchestrator.tiling.task_graph import TaskGraph
from storage.box import Box
from storage.readers.cache import CachedReader
from storage.readers.reader_registry import open_image

PIXELS = np.random.default_rng(3).integers(0, 255, (3, 600, 740), np.uint8)


class CountingReader:
    """A reader that counts the pixels it is asked for."""

    def __init__(self, reader):
        self.info = reader.info
        self._reader = reader
        self.pixels = 0

    def read(self, box):
        self.pixels += box.area
        return self._reader.read(box)

    def read_valid(self, box):
        self.pixels += box.area
        return self._reader.read_valid(box)

    def opacity(self, box):
        return self._reader.opacity(box)

    def close(self):
        self._reader.close()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "tiled.tif"
    tifffile.imwrite(
        path, PIXELS.transpose(1, 2, 0), tile=(112, 96), compression="zlib", photometric="rgb"
    )
    return path


boxes = st.tuples(
    st.integers(0, 599), st.integers(0, 739), st.integers(1, 300), st.integers(1, 300)
).map(lambda v: Box(v[0], v[1], min(v[0] + v[2], 600), min(v[1] + v[3], 740)))


@given(st.lists(boxes, min_size=1, max_size=8), st.sampled_from([0, 200_000, 1 << 30]))
@settings(max_examples=25, deadline=None)
def test_windows_hold_the_same_pixels_whatever_is_kept(tiled, windows, limit):
    reader = CachedReader(open_image(tiled), limit)
    for box in windows:
        pixels = reader.read(box)
        assert np.array_equal(pixels, PIXELS[(slice(None), *box.slices())])
        pixels[...] = 0  # a caller's own array
    reader.close()


def test_what_is_kept_stays_below_the_limit(tiled):
    reader = CachedReader(open_image(tiled), 400_000)
    for y in range(0, 600, 60):
        reader.read(Box(y, 0, min(y + 90, 600), 740))
        assert sum(pixels.nbytes for pixels, _ in reader._kept.values()) == reader._bytes <= 400_000
    assert reader.loaded >= PIXELS.nbytes


def run_over(reader, grid, margin=8):
    """Read every tile's window, with a margin, in the order in which one worker restores them."""
    frontier = Frontier(TaskGraph([grid], 2))
    while keys := frontier.take(1):
        for key in keys:
            reader.read(Box(*grid.box(key)).expand(margin).clip(*reader.info.shape[1:]))
        frontier.committed(keys)


@pytest.mark.parametrize("order", ["raster", "centre"])
def test_a_serial_run_reads_hardly_more_than_the_image(tiled, order):
    counting = CountingReader(open_image(tiled))
    reader = CachedReader(counting)
    grid = TileGrid.build(0, 592, 736, 64, 32, order, 16)
    run_over(reader, grid)
    assert counting.pixels <= 1.25 * PIXELS[0].size
    assert reader.loaded == counting.pixels * 3
    plain = CountingReader(open_image(tiled))
    run_over(plain, grid)
    assert plain.pixels > 3 * PIXELS[0].size, "without a cache windows overlap"


def test_a_mapped_file_is_read_straight(tmp_path):
    tifffile.imwrite(tmp_path / "plain.tif", PIXELS.transpose(1, 2, 0), photometric="rgb")
    reader = CachedReader(open_image(tmp_path / "plain.tif"))
    assert reader.info.grain is None
    assert np.array_equal(reader.read(Box(10, 20, 30, 44)), PIXELS[:, 10:30, 20:44])
    assert reader.loaded == 20 * 24 * 3
