"""Publishing while restoring: no pixel is published before it is committed, and none deleted that
is read again.
"""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.scheduling.cell_lifetime import CellLifetime
from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.axis import ORDERS
from orchestrator.tiling.grid import TileGrid
from orchestrator.tiling.superblocks import SuperBlocks
from orchestrator.tiling.task_graph import TaskGraph, guide_window


@st.composite
def jobs(draw: st.DrawFn):
    """A graph, the size of the published image (less than the padded level), and the side of a
    super-block.
    """
    order = draw(st.sampled_from(ORDERS))
    height, width = (64 * draw(st.integers(1, 5)) for _ in range(2))
    levels = draw(st.integers(1, 3))
    sizes = [(max(height >> k, 32), max(width >> k, 32)) for k in range(levels)]
    stride, margin = draw(st.sampled_from([(16, 0), (16, 4), (16, 8), (24, 0), (24, 4), (12, 8)]))
    if 2 * (stride + margin) <= 32 and order in ("bridge", "colour"):
        margin = (32 - stride) // 2
    block = draw(st.integers(1, 4))
    corners = order in ("raster", "centre") and draw(st.booleans())
    grids = [
        TileGrid.build(k, h, w, 32, stride, order, margin, block, corners=corners)
        for k, (h, w) in enumerate(sizes)
    ]
    size = (height - draw(st.integers(0, 40)), width - draw(st.integers(0, 40)))
    return TaskGraph(grids, 2), size, (draw(st.integers(20, 130)), draw(st.integers(20, 130)))


class Store:
    """The pixels of all levels: absent, there, or deleted."""

    def __init__(self, graph, blocks):
        self.graph = graph
        self.blocks = blocks
        self.levels = [np.zeros((grid.rows.length, grid.cols.length), bool) for grid in graph.grids]
        self.published = []

    def read(self, level, y0, x0, y1, x1):
        assert self.levels[level][y0:y1, x0:x1].all(), (level, y0, x0, y1, x1)

    def restore(self, key):
        """Read what the worker reads, then write what it writes."""
        grid = self.graph.grids[key.level]
        for strip in grid.pinned(key):
            self.read(key.level, *strip)
        if key.level + 1 < len(self.levels):
            coarse = self.graph.grids[key.level + 1]
            y0, x0, y1, x1 = grid.box(key)
            (top, bottom) = guide_window(y0, y1, 2, coarse.rows.length)
            (left, right) = guide_window(x0, x1, 2, coarse.cols.length)
            self.read(key.level + 1, top, left, bottom, right)
        y0, x0, y1, x1 = grid.owned(key)
        self.levels[key.level][y0:y1, x0:x1] = True

    def publish(self, block):
        box = self.blocks.box(*block)
        self.read(0, box.y0, box.x0, box.y1, box.x1)
        self.published.append(block)

    def free(self, keys):
        for key in keys:
            y0, x0, y1, x1 = self.graph.grids[key.level].owned(key)
            assert self.levels[key.level][y0:y1, x0:x1].all(), "freed twice, or before it was there"
            self.levels[key.level][y0:y1, x0:x1] = False


@given(jobs(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_every_block_is_published_once_and_no_cell_is_deleted_that_is_read_again(job, seed):
    graph, size, side = job
    rng = random.Random(seed)
    ahead = seed % 3 or None
    blocks = SuperBlocks(graph.grids, 2, size, side)
    frontier = Frontier(graph, ahead=ahead)
    outflow = CellLifetime(blocks, frontier, [], reclaim=True)
    store = Store(graph, blocks)
    running = []
    publishing = []
    peak = 0
    while frontier.ready or running or publishing:
        running += frontier.take(rng.randint(1, 4))
        rng.shuffle(running)
        keys = [running.pop() for _ in range(rng.randint(0, len(running)))]
        for key in keys:
            store.restore(key)
        frontier.committed(keys)
        ready, free = outflow.committed(keys)
        publishing += ready
        store.free(free)
        for _ in range(
            rng.randint(0, len(publishing))
        ):  # a publisher is slower than the tiles now and then
            block = publishing.pop(rng.randrange(len(publishing)))
            store.publish(block)
            store.free(outflow.published(block))
        peak = max(peak, *(int(level.sum()) for level in store.levels))
    assert frontier.finished
    assert not outflow.left()
    down, across = blocks.shape
    assert sorted(store.published) == [(row, col) for row in range(down) for col in range(across)]
    assert not any(level.any() for level in store.levels), "nothing is left when all is published"


@given(jobs(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_run_that_goes_on_knows_from_tiles_and_blocks_alone_what_is_free(job, seed):
    graph, size, side = job
    rng = random.Random(seed)
    blocks = SuperBlocks(graph.grids, 2, size, side)
    frontier = Frontier(graph)
    outflow = CellLifetime(blocks, frontier, [], reclaim=True)
    freed = set()
    published = []
    done = []
    for _ in range(rng.randint(1, graph.count)):
        keys = frontier.take(1)
        frontier.committed(keys)
        done += keys
        ready, free = outflow.committed(keys)
        freed |= set(free)
        for block in ready:
            published.append(block)
            freed |= set(outflow.published(block))
    again = CellLifetime(blocks, Frontier(graph, done), published, reclaim=True)
    ready, free = again.resumed()
    assert not ready
    assert set(free) == freed


@given(jobs())
@settings(max_examples=30, deadline=None)
def test_who_reads_and_who_is_read_are_the_inverse_of_each_other(job):
    graph, size, side = job
    blocks = SuperBlocks(graph.grids, 2, size, side)
    for grid in graph.grids:
        for key in map(grid.key, range(grid.count)):
            assert key in set(blocks.readers(key))
            assert all(key in set(blocks.readers(before)) for before in blocks.freed_by(key))


def test_cells_kept_beside_a_wavefront_do_not_grow_with_the_image():
    peaks = []
    for length in (64, 128):
        graph = TaskGraph([TileGrid.build(0, 32 * length, 128, 32, 16, "raster", 8)], 2)
        frontier = Frontier(graph, ahead=8)
        blocks = SuperBlocks(graph.grids, 2, (32 * length, 128), (64, 64))
        outflow = CellLifetime(blocks, frontier, [], reclaim=True)
        live = 0
        peak = 0
        while keys := frontier.take(1):
            frontier.committed(keys)
            ready, free = outflow.committed(keys)
            live += len(keys) - len(free) - sum(len(outflow.published(block)) for block in ready)
            peak = max(peak, live)
        assert live == 0
        peaks.append(peak)
    assert peaks[0] == peaks[1]


@pytest.mark.slow
def test_a_coarser_level_stays_a_given_number_of_tiles_ahead():
    grids = [TileGrid.build(k, 1024 >> k, 1024 >> k, 32, 16, "raster", 8) for k in range(2)]
    graph = TaskGraph(grids, 2)
    kept = {}
    for ahead in (None, 60):
        frontier = Frontier(graph, ahead=ahead)
        outflow = CellLifetime(
            SuperBlocks(grids, 2, (1024, 1024), (128, 128)), frontier, [], reclaim=True
        )
        live = 0
        kept[ahead] = 0
        while keys := frontier.take(1):
            frontier.committed(keys)
            ready, free = outflow.committed(keys)
            free += [key for block in ready for key in outflow.published(block)]
            live += sum(key.level for key in keys) - sum(key.level for key in free)
            kept[ahead] = max(kept[ahead], live)
        assert frontier.finished
    assert kept[None] == grids[1].count
    assert kept[60] < grids[1].count / 4
