import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.metrics import ConsistencyMeter, clipped_cells, psnr, ssim
from kernels.seams import SeamMeter

RNG = np.random.RandomState(0)


def picture(height=40, width=53, dtype=np.uint8):
    smooth = RNG.standard_normal((3, height, width)).cumsum(1).cumsum(2)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return (smooth * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_psnr_and_ssim_equal_those_of_scikit_image(dtype):
    metrics = pytest.importorskip("skimage.metrics")
    limit = np.iinfo(dtype).max
    reference = picture(dtype=dtype)
    noise = RNG.standard_normal(reference.shape) * limit / 20
    image = np.clip(reference + noise, 0, limit).astype(dtype)
    expected = metrics.structural_similarity(
        image,
        reference,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=limit,
    )
    assert ssim(image, reference, limit) == pytest.approx(expected, abs=1e-9)
    expected = metrics.peak_signal_noise_ratio(reference, image, data_range=limit)
    assert psnr(image, reference, limit) == pytest.approx(expected, abs=1e-9)


def test_equal_images_have_infinite_psnr_and_ssim_one():
    image = picture()
    assert psnr(image, image, 255) == math.inf
    assert ssim(image, image, 255) == pytest.approx(1)


def test_images_that_cannot_be_compared_are_refused():
    image = picture()
    with pytest.raises(ValueError, match="one size"):
        psnr(image, image[:, 1:], 255)
    with pytest.raises(ValueError, match="smaller than SSIM's window of 11 px"):
        ssim(image[:, :10], image[:, :10], 255)


def test_consistency_counts_clipped_cells_apart():
    pixels = np.full((3, 8, 8), 100, np.uint8)
    pixels[0, 5, 5] = 255
    pixels[2, 0, 0] = 0
    clipped = clipped_cells(pixels, 4, (0, 255))
    assert np.argwhere(clipped).tolist() == [[0, 1, 1], [2, 0, 0]]
    assert np.argwhere(clipped_cells(pixels, 4, (0, 255), across_channels=True)).tolist() == [
        [0, 0, 0],
        [0, 1, 1],
    ]
    y = np.zeros((3, 2, 2))
    measured = y + 0.25
    measured[0, 1, 1] = 9
    measured[1, 0, 0] = 0.5
    meter = ConsistencyMeter()
    meter.update(measured, y, clipped)
    result = meter.result()
    assert (result.max, result.cells, result.clipped, result.clipped_max) == (0.5, 10, 2, 9.0)
    assert result.rms == pytest.approx(math.sqrt((9 * 0.25**2 + 0.5**2) / 10))


def test_consistency_is_the_same_by_windows_and_ignores_what_is_not_measured():
    measured, y = RNG.standard_normal((2, 1, 16, 12))
    valid = RNG.rand(1, 16, 12) < 0.5
    whole = ConsistencyMeter()
    parts = ConsistencyMeter()
    whole.update(measured, np.where(valid, y, np.nan), valid=valid)
    for rows in (slice(0, 4), slice(4, 16)):
        parts.update(measured[:, rows], y[:, rows], valid=valid[:, rows])
    assert whole.result().cells == valid.sum()
    assert whole.result().max == parts.result().max
    assert whole.result().rms == pytest.approx(parts.result().rms)


def test_nothing_measured_is_nothing_wrong():
    result = ConsistencyMeter().result()
    assert (result.max, result.rms, result.cells) == (0, 0, 0)


def test_windows_that_cut_cells_are_refused():
    with pytest.raises(ValueError, match="not a multiple of 4"):
        clipped_cells(np.zeros((3, 6, 8)), 4, (0, 255))


def measure(image, row_edges, column_edges, stride, side, period=1):
    _, height, width = image.shape
    edges = {"row_edges": row_edges, "column_edges": column_edges}
    meter = SeamMeter(height=height, width=width, stride=stride, period=period, **edges)
    for y0, x0, y1, x1 in meter.windows(side):
        meter.update(y0, x0, image[:, y0:y1, x0:x1])
    return meter.result()


def slow_ratio(image, edges, stride):
    """Take the definition literally, for edges between rows."""
    across = []
    beside = []
    lines = np.abs(np.diff(image.astype(float), axis=1)).mean(axis=(0, 2))
    for e in edges:
        near = [
            e + d for d in (*range(-max(stride // 4, 4), -3), *range(4, max(stride // 4, 4) + 1))
        ]
        near = [
            y
            for y in near
            if 1 <= y < image.shape[1] and min(abs(y - other) for other in edges) >= 4
        ]
        across.append(lines[e - 1])
        beside.append(np.mean([lines[y - 1] for y in near]))
    return np.mean(across) / np.mean(beside)


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 200), st.integers(0, 100))
def test_seam_ratio_does_not_depend_on_the_windows(side, seed):
    image = np.random.RandomState(seed).randint(0, 65536, (3, 96, 131)).astype(np.uint16)
    report = measure(image, [64, 80], [64, 96, 99], 32, side)
    assert report.rows.ratio == pytest.approx(slow_ratio(image, [64, 80], 32))
    assert report.columns.ratio == pytest.approx(slow_ratio(image.swapaxes(1, 2), [64, 96, 99], 32))
    assert (report.rows.lines, report.columns.lines, report.overall.lines) == (2, 3, 5)


def test_an_image_without_seams_has_ratio_one_within_its_error():
    image = RNG.standard_normal((3, 600, 600))
    report = measure(image, [*range(64, 600, 32)], [*range(64, 600, 32)], 32, 128)
    for ratio in (report.rows, report.columns, report.overall):
        assert abs(ratio.ratio - 1) < 5 * ratio.stderr
        assert ratio.stderr < 0.01


def test_a_seam_shows_on_its_own_axis():
    image = RNG.standard_normal((3, 160, 160))
    image[:, 96:] += 4
    report = measure(image, [64, 96, 128], [64, 96, 128], 32, 64)
    assert report.rows.ratio > 1.5
    assert abs(report.columns.ratio - 1) < 0.1
    assert report.columns.ratio < report.overall.ratio < report.rows.ratio


def test_an_image_of_one_tile_has_no_seam():
    report = measure(np.zeros((1, 64, 64)), [], [], 32, 64)
    assert (report.overall.ratio, report.overall.lines) == (1.0, 0)


def test_a_flat_image_has_no_seam_unless_it_steps_at_one():
    flat = np.zeros((1, 96, 96))
    assert measure(flat, [64], [], 32, 64).rows.ratio == 1.0
    flat[:, 64:] = 1
    assert measure(flat, [64], [], 32, 64).rows.ratio == math.inf


def test_steps_of_the_operators_cells_are_no_seams():
    cells = RNG.standard_normal((3, 40, 40)).repeat(4, axis=1).repeat(4, axis=2)
    image = cells + 0.1 * RNG.standard_normal(cells.shape)
    report = measure(image, [64, 96, 128], [64, 96, 128], 32, 64, period=4)
    assert report.unphased.ratio > 2
    assert abs(report.overall.ratio - 1) < 5 * report.overall.stderr
