"""Staging in bounded memory: very wide images, one huge IDAT, and images that are too large to be
decoded whole.
"""

import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from storage.box import Box
from storage.errors import DamagedError, FormatError
from storage.image import check_memory
from storage.limits import MAX_WHOLE_BYTES
from storage.readers.common import staging_blocks
from storage.readers.common.staging_blocks import BLOCK_BYTES, CHUNK, cut
from storage.readers.raster import decode_by_gdal, png_rows, raster_reader
from storage.readers.reader_registry import inspect, open_image
from storage.readers.staging import stage
from tests.png_bytes import png_bytes

LIMIT = 1 << 20


def waves(channels, height, width):
    """A smooth picture whose rows, columns and bands differ."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([np.sin(x / (31 + c)) + np.cos(y / 23 + c) for c in range(channels)])
    return ((picture + 2) / 4 * 255).astype(np.uint8)


def interleaved(pixels):
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def one_idat(pixels):
    """A PNG whose pixels are a single chunk, without row filters."""
    rows = np.concatenate([np.zeros((len(pixels), 1), np.uint8), pixels], axis=1)
    height, width = pixels.shape
    return png_bytes(height, width, 8, 0, zlib.compress(rows.tobytes(), 0))


def peak_of(action):
    """Return the most memory of a call of `action(number)`, bytes; the first call is for imports
    and caches.

    The smaller of two: what other threads of the process allocate in the meantime is counted too.
    """
    action(0)
    return min(traced(action, number) for number in (1, 2))


def traced(action, number):
    tracemalloc.start()
    try:
        action(number)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


sides = st.integers(1, 1 << 20)


@given(
    sides,
    sides,
    st.integers(1, 64),
    st.none() | st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.booleans(),
)
def test_blocks_are_whole_chunks_within_the_limit(height, width, pixel, grain, turned):
    found = cut(height, width, pixel, grain, turned=turned)
    assert found.chunk[0] * found.chunk[1] <= CHUNK * CHUNK
    rows_only = grain is None and not turned
    smallest = (
        width * pixel
        if rows_only or (grain and grain[1] >= width)
        else CHUNK * (CHUNK + (grain or (0, 1))[1]) * pixel
    )
    assert found.nbytes == found.block[0] * found.block[1] * pixel <= max(BLOCK_BYTES, smallest)
    assert found.block[0] % found.chunk[0] == 0
    assert found.block[1] >= width or found.block[1] % found.chunk[1] == 0


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(staging_blocks, "BLOCK_BYTES", LIMIT)
    monkeypatch.setattr(png_rows, "_BAND_BYTES", LIMIT // 16)


@pytest.mark.parametrize("kind", ["strips", "png"])
@pytest.mark.slow
def test_the_memory_of_a_very_wide_image_does_not_grow_with_its_width(tmp_path, small_blocks, kind):
    pixels = waves(1, 300, 20_000)
    path = tmp_path / "in"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(pixels[0], level=1))
    else:
        tifffile.imwrite(path, pixels[0], compression="deflate", rowsperstrip=7, metadata=None)
    assert peak_of(lambda number: stage(path, tmp_path / f"staged{number}")) < 3.5 * LIMIT
    reader = open_image(tmp_path / "staged1")
    assert reader.info.grain == (32, 8192)
    assert np.array_equal(reader.read(reader.info.box), pixels)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_tiles_are_staged_by_blocks_of_tiles(tmp_path, small_blocks, orientation):
    pixels = waves(3, 1100, 1200)
    path = tmp_path / "in.tif"
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(
        path,
        interleaved(pixels),
        photometric="rgb",
        tile=(1040, 1056),
        metadata=None,
        extratags=tags,
    )
    reports = []
    stage(path, tmp_path / "staged", progress=lambda *report: reports.append(report))
    upright = pixels if orientation == 1 else pixels[:, ::-1].transpose(0, 2, 1)
    reader = open_image(tmp_path / "staged")
    assert np.array_equal(reader.read(reader.info.box), upright)
    assert [done for done, _ in reports] == list(range(1, reports[0][1] + 1))
    assert len(reports) >= 3


def test_strips_of_a_turned_image_are_read_once_each(tmp_path, monkeypatch):
    from storage.readers.tiff import tiff_reader

    pixels = waves(1, 1500, 900)
    path = tmp_path / "in.tif"
    decoded = []
    tags = [(274, 3, 1, 8, True)]
    tifffile.imwrite(
        path, pixels[0], compression="zlib", rowsperstrip=50, metadata=None, extratags=tags
    )
    original = tiff_reader.PageDecoder._decode
    monkeypatch.setattr(tiff_reader, "_KEPT_BYTES", 0)
    monkeypatch.setattr(
        tiff_reader.PageDecoder,
        "_decode",
        lambda self, index, place: decoded.append(index) or original(self, index, place),
    )
    stage(path, tmp_path / "staged")
    reader = open_image(tmp_path / "staged")
    assert np.array_equal(reader.read(reader.info.box), pixels.transpose(0, 2, 1)[:, ::-1])
    assert sorted(decoded) == list(range(30))


def test_a_png_of_one_huge_chunk_is_taken_in_pieces(tmp_path, small_blocks):
    pixels = np.random.default_rng(3).integers(0, 255, (3000, 4000), np.uint8)
    path = tmp_path / "in.png"
    path.write_bytes(one_idat(pixels))
    assert (
        peak_of(lambda number: stage(path, tmp_path / f"staged{number}")) < 4 * LIMIT
    )  # the image has 12 MB
    reader = open_image(tmp_path / "staged1")
    assert np.array_equal(reader.read(Box(2500, 0, 3000, 4000))[0], pixels[2500:])


@pytest.fixture
def nothing_whole(monkeypatch, small_blocks):
    """A limit under which nothing is decoded whole."""
    pytest.importorskip("rasterio")
    for name in ("MAX_WHOLE_BYTES", "BLOCK_BYTES", "_GDAL_BYTES"):
        monkeypatch.setattr(raster_reader, name, 0)
    monkeypatch.setattr(decode_by_gdal, "AREA", 64)


JPEG = {"level": 90, "subsampling": "444"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["JPEG", "JPEG 2000"])
@pytest.mark.slow
def test_what_is_too_large_to_be_decoded_whole_is_decoded_by_pieces(
    tmp_path, nothing_whole, kind, channels
):
    path = tmp_path / "in"
    pixels = interleaved(waves(channels, 1300, 1500))
    if kind == "JPEG":
        path.write_bytes(imagecodecs.jpeg8_encode(pixels, **JPEG))
        whole = imagecodecs.jpeg8_decode(path.read_bytes())
    else:
        path.write_bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True))
        whole = pixels
    info = inspect(path)
    assert any("by pieces" in note for note in info.notes)
    stage(path, tmp_path / "staged")
    found = interleaved(open_image(tmp_path / "staged").read(info.box))
    assert np.abs(found.astype(int) - whole).max() <= (1 if kind == "JPEG" else 0)
    reader = open_image(path)
    assert np.array_equal(
        interleaved(reader.read(Box(10, 900, 200, 1500))), found[10:200, 900:1500]
    )
    reader.close()


def test_a_16_bit_jpeg_2000_is_decoded_by_pieces(tmp_path, nothing_whole):
    path = tmp_path / "in.jp2"
    pixels = waves(1, 600, 700)[0].astype(np.uint16) * 257
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True))
    reader = open_image(path)
    assert np.array_equal(reader.read(reader.info.box)[0], pixels)
    reader.close()


def test_a_progressive_jpeg_above_the_limit_is_refused_until_its_size_is_allowed(
    tmp_path, nothing_whole
):
    from PIL import Image

    path = tmp_path / "in.jpg"
    pixels = interleaved(waves(3, 300, 400))
    Image.fromarray(pixels).save(path, quality=95, progressive=True)
    reader = open_image(path)
    with pytest.raises(
        FormatError, match=r"decoding a JPEG .* limit is .*or allow it with --max-pixels 120000$"
    ):
        reader.read(reader.info.box)
    allowed = open_image(path, max_pixels=120_000)
    assert np.abs(interleaved(allowed.read(allowed.info.box)).astype(int) - pixels).mean() < 3
    info = inspect(path)
    with pytest.raises(
        FormatError,
        match=r"staging needs .* above the limit of 1\.0 KiB; convert it .* --max-pixels",
    ):
        check_memory(info, max_bytes=1 << 10)
    check_memory(info, max_pixels=120_000)


def test_without_the_extra_a_large_jpeg_is_refused_with_the_way_out(
    tmp_path, nothing_whole, monkeypatch
):
    monkeypatch.setattr(decode_by_gdal, "available", lambda: False)
    path = tmp_path / "in.jpg"
    path.write_bytes(imagecodecs.jpeg8_encode(interleaved(waves(3, 300, 400)), **JPEG))
    with pytest.raises(FormatError, match="or allow it with --max-pixels"):
        open_image(path).read(Box(0, 0, 300, 400))


def test_damage_in_a_large_jpeg_2000_is_an_error(tmp_path, nothing_whole):
    path = tmp_path / "in.jp2"
    noise = np.random.default_rng(1).integers(0, 255, (700, 700), np.uint8)
    data = imagecodecs.jpeg2k_encode(noise, codecformat="j2k")
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(DamagedError, match=r"the JPEG 2000 data is damaged: .*; get it again"):
        stage(path, tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


def test_nothing_beside_a_large_jpeg_is_opened(tmp_path, nothing_whole):
    path = tmp_path / "in.jpg"
    pixels = interleaved(waves(1, 300, 400))
    path.write_bytes(imagecodecs.jpeg8_encode(pixels))
    (tmp_path / "in.jpg.aux.xml").write_text(
        "<PAMDataset><Metadata><MDI key='x'>y</MDI></Metadata></PAMDataset>"
    )
    (tmp_path / "in.jpg.msk").write_text("not an image")
    (tmp_path / "in.wld").write_text("1\n0\n0\n1\n5\n5\n")
    reader = open_image(path)
    reader.read(reader.info.box)
    dataset = reader._decoder._dataset
    assert dataset.tags() == {}
    assert dataset.transform.is_identity
    assert [name.rpartition("/")[2] for name in dataset.files] == ["image.jpg"]
    reader.close()


@pytest.mark.slow
def test_a_run_refuses_what_takes_too_much_memory_before_it_writes_anything(tmp_path, cli):
    """A header alone: 12,000 x 12,000 px in one compressed strip."""
    path = tmp_path / "in.tif"
    out = tmp_path / "out"
    strip = zlib.compress(bytes(12_000 * 12_000), 1)
    shape = (12_000, 12_000)
    tifffile.imwrite(
        path,
        iter([strip]),
        shape=shape,
        dtype=np.uint8,
        rowsperstrip=12_000,
        compression="zlib",
        metadata=None,
    )
    told = cli("info", path)
    assert told.code == 0
    assert "above the limit of 402.7 MB, allow it with --max-pixels 144000000" not in told.out, (
        "274 MiB are allowed"
    )
    shape = (24_000, 12_000)
    tifffile.imwrite(
        path,
        iter([strip]),
        shape=shape,
        dtype=np.uint8,
        rowsperstrip=24_000,
        compression="zlib",
        metadata=None,
    )
    assert (
        "; above the limit of 402.7 MB, allow it with --max-pixels 288000000"
        in cli("info", path).out
    )
    for command in (("plan", path), ("restore", path, out)):
        refused = cli(*command, "--scale", 2)
        assert refused.code == 2
        assert "staging needs" in refused.complaint
        assert "or allow it with --max-pixels 288000000" in refused.complaint
    assert not out.exists()
    assert cli("plan", path, "--scale", 2, "--max-pixels", 288_000_000).code == 0


def test_the_limit_leaves_room_for_the_process_below_512_mib():
    assert MAX_WHOLE_BYTES + (100 << 20) < 512 << 20


def restored(path, out, on):
    from orchestrator.job.spec import JobSpec
    from orchestrator.run.lifecycle import start
    from orchestrator.run.serial_executor import SerialExecutor

    spec = JobSpec.build(
        {
            "input": {"path": str(path)},
            "output": str(out),
            "task": {"name": "sr", "scale": 2, "skip_flat": 255.0},
            "denoiser": "analytic:",
            "tiling": {"tile": 512, "stride": 384, "levels": 1, "margin": 64},
            "run": {"executor": "serial"},
        }
    )
    start(spec, SerialExecutor(), on)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_shows_a_bar_while_its_input_is_staged(tmp_path, monkeypatch, capsys, terminal):
    from cluster.terminal import live_view, progress
    from orchestrator.events import Staging

    path = tmp_path / "scan.png"
    told = []
    path.write_bytes(imagecodecs.png_encode(waves(1, 1100, 600)[0]))
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setattr(live_view, "PLAIN_INTERVAL", -1.0)
    with progress.ProgressView() as view:
        restored(path, tmp_path / "out", [view, told.append])
    assert [event for event in told if isinstance(event, Staging)] == [
        Staging(name="scan.png", done=done, total=3) for done in (1, 2, 3)
    ]
    shown = capsys.readouterr().err
    assert "reading scan.png" in shown
    assert ("3/3" if terminal else "reading scan.png: 66 %") in shown
    assert '"Staging"' not in (tmp_path / "out/.gigarestore/events.jsonl").read_text()
