"""The lattice of coded blocks is found in the pixels, whatever part was cut out, and only there."""

import io

import numpy as np
import pytest
from PIL import Image

from kernels.seams import SeamMeter
from orchestrator.measurement.block_lattice import (
    NO_BLOCKS,
    find_lattices,
    measured_distances,
    output_kind,
)
from storage.readers.reader_registry import open_image


def texture(side, seed=0):
    """Return a picture with detail of all sizes, (side, side, 3)."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((3, side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    x = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / side), s=(side, side))
    return np.clip(128 + 45 * x / x.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def coded(pixels, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def saved(path, pixels, **options):
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return open_image(path)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 5), (7, 4)])
def test_the_lattice_of_a_part_that_was_cut_out_and_saved_without_loss(top, left, tmp_path):
    image = saved(tmp_path / "in.png", coded(texture(256), 30)[top:, left:])
    assert [(lattice.side, lattice.offset) for lattice in find_lattices(image)] == [
        (8, -top % 8),
        (8, -left % 8),
    ]


def test_the_lattice_of_a_part_that_was_coded_again_in_other_blocks(tmp_path):
    image = saved(tmp_path / "in.jpg", coded(texture(256), 30)[5:, 6:], quality=95)
    rows, columns = measured_distances(image)
    assert [line for line in range(1, 20) if rows(line) == 0] == [3, 11, 19]
    assert [line for line in range(1, 20) if columns(line) == 0] == [2, 10, 18]


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_that_was_never_coded_has_none(seed, tmp_path):
    image = saved(tmp_path / "in.png", texture(256, seed))
    assert find_lattices(image) == (NO_BLOCKS, NO_BLOCKS)
    assert measured_distances(image) is None


def test_a_flat_picture_has_none(tmp_path):
    assert measured_distances(saved(tmp_path / "in.png", np.zeros((64, 64, 3), np.uint8))) is None


def test_where_too_little_is_seen_the_header_is_believed(tmp_path):
    image = saved(tmp_path / "in.jpg", texture(40), quality=95)
    rows, _ = measured_distances(image)
    assert [line for line in range(1, 20) if rows(line) == 0] == [8, 16]


def ratio(x, edges, distances, scale):
    kinds = tuple(output_kind(distance, scale, 0) for distance in distances) if distances else None
    _, height, width = x.shape
    meter = SeamMeter(
        height=height,
        width=width,
        row_edges=edges,
        column_edges=edges,
        stride=96,
        period=scale,
        kinds=kinds,
        reach=2 * 8 * scale,
    )
    for y0, x0, y1, x1 in meter.windows(200):
        meter.update(y0, x0, x[:, y0:y1, x0:x1])
    return meter.result().overall.ratio


def test_coded_blocks_are_no_seams_and_a_step_on_their_edges_is_one(tmp_path):
    pixels = coded(texture(256), 20)
    distances = measured_distances(saved(tmp_path / "in.png", pixels))
    x = pixels.transpose(2, 0, 1).astype(int).repeat(2, axis=1).repeat(2, axis=2)
    edges = [96, 192, 288, 384]  # multiples of 16: on the lattice of blocks
    assert ratio(x, edges, None, 2) > 1.15
    assert ratio(x, edges, distances, 2) == pytest.approx(1, abs=0.1)
    for edge in edges:
        x[:, edge:] += 30
        x[:, :, edge:] += 30
    assert ratio(x, edges, distances, 2) > 1.5


def test_edges_between_blocks_are_compared_with_lines_between_blocks(tmp_path):
    pixels = coded(texture(256), 20)
    distances = measured_distances(saved(tmp_path / "in.png", pixels))
    x = pixels.transpose(2, 0, 1).astype(int)
    assert ratio(x, [44, 92, 140, 188], distances, 1) == pytest.approx(1, abs=0.06)
