"""Staging: an input that cannot be read by windows becomes a zarr array, once, whole or
not at all.
"""

import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from storage.box import Box
from storage.errors import DamagedError, FormatError
from storage.readers.reader_registry import inspect, open_image
from storage.readers.staging import stage
from tests.places import ROOT


def noise(channels, height, width, dtype="uint8"):
    return np.random.default_rng(5).integers(
        0, np.iinfo(dtype).max, (channels, height, width), dtype, endpoint=True
    )


def interleaved(pixels):
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def write_png(path, pixels):
    path.write_bytes(imagecodecs.png_encode(interleaved(pixels)))
    return path


def write_strips(path, pixels, **options):
    photometric = "rgb" if len(pixels) == 3 else "minisblack"
    options = {"compression": "deflate", "rowsperstrip": 100} | options
    tifffile.imwrite(path, interleaved(pixels), photometric=photometric, metadata=None, **options)
    return path


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "strips"])
def test_a_staged_image_has_the_pixels_and_the_facts_of_its_source(tmp_path, kind, channels, dtype):
    pixels = noise(channels, 700, 530, dtype)
    if kind == "png":
        path = write_png(tmp_path / "in.png", pixels)
    else:
        options = {
            "resolution": (20_000, 20_000),
            "resolutionunit": "CENTIMETER",
            "iccprofile": b"profile",
        }
        path = write_strips(tmp_path / "in.tif", pixels, **options)
    info = inspect(path)
    reports = []
    assert not info.lazy
    staged = stage(
        path, tmp_path / "staged", progress=lambda done, total: reports.append((done, total))
    )
    assert (staged.shape, staged.dtype, staged.lazy) == (pixels.shape, dtype, True)
    assert (staged.icc, staged.pixel_size) == (info.icc, info.pixel_size)
    assert reports == [(1, 2), (2, 2)]
    reader = open_image(tmp_path / "staged")
    for box in [staged.box, Box(500, 500, 530, 525), Box(699, 529, 700, 530)]:
        assert np.array_equal(reader.read(box), pixels[(slice(None), *box.slices())])
    array = zarr.open_array(tmp_path / "staged", mode="r")
    assert array.chunks == (channels, 512, 512)
    assert np.array_equal(array[:], pixels)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "staged"]


def test_black_chunks_are_stored_and_a_lost_one_is_an_error(tmp_path):
    path = write_png(tmp_path / "in.png", np.zeros((1, 600, 600), np.uint8))
    stage(path, tmp_path / "staged")
    reader = open_image(tmp_path / "staged")
    assert not reader.read(reader.info.box).any()
    (tmp_path / "staged/c/0/1/1").unlink()
    assert not reader.read(Box(0, 0, 512, 600)).any()
    with pytest.raises(DamagedError, match="c/0/1/1: missing from the array"):
        reader.read(reader.info.box)


def test_a_flipped_bit_in_a_staged_chunk_is_an_error(tmp_path):
    stage(write_png(tmp_path / "in.png", noise(1, 64, 64)), tmp_path / "staged")
    path = tmp_path / "staged/c/0/0/0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="cannot be decoded"):
        open_image(tmp_path / "staged").read(Box(0, 0, 64, 64))


def test_staging_again_from_the_same_file_keeps_the_copy(tmp_path):
    path = write_png(tmp_path / "in.png", noise(3, 40, 50))
    stage(path, tmp_path / "staged")
    before = (tmp_path / "staged/zarr.json").stat().st_mtime_ns
    assert stage(path, tmp_path / "staged").shape == (3, 40, 50)
    assert (tmp_path / "staged/zarr.json").stat().st_mtime_ns == before
    os.utime(path, ns=(1, 1))
    with pytest.raises(
        FormatError, match=r"was staged from a file with mtime_ns .*; remove the folder"
    ):
        stage(path, tmp_path / "staged")


def test_strips_are_streamed_in_bounded_memory(tmp_path):
    pixels = noise(1, 6000, 1000)
    path = write_strips(tmp_path / "in.tif", pixels)
    stage(path, tmp_path / "first")  # imports and caches are not the point
    tracemalloc.start()
    stage(path, tmp_path / "staged")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20  # the image is 6 MB, a band 0.5 MB
    assert np.array_equal(open_image(tmp_path / "staged").read(Box(0, 0, 6000, 1000)), pixels)


def test_a_jpeg_above_the_memory_limit_is_refused_with_a_way_out(tmp_path):
    path = tmp_path / "in.jpg"
    path.write_bytes(imagecodecs.jpeg8_encode(interleaved(noise(3, 600, 600))))
    with pytest.raises(
        FormatError,
        match=r"needs 2\.8 MiB of memory .* limit of 1\.0 MiB; convert it .*, "
        r"or allow it with --max-pixels 360000",
    ):
        stage(path, tmp_path / "staged", max_bytes=1 << 20)
    assert not (tmp_path / "staged").exists()


@pytest.mark.slow
def test_a_png_is_streamed_in_bounded_memory(tmp_path):
    pixels = np.tile(noise(1, 500, 3000), (1, 24, 1))
    path = write_png(tmp_path / "in.png", pixels)
    stage(path, tmp_path / "first")  # imports and caches are not the point
    tracemalloc.start()
    stage(path, tmp_path / "staged")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20  # the image is 36 MB
    assert np.array_equal(open_image(tmp_path / "staged").read(Box(0, 0, 12000, 3000)), pixels)


def test_one_huge_strip_above_the_memory_limit_is_refused(tmp_path):
    path = write_strips(tmp_path / "in.tif", noise(1, 3000, 1000), rowsperstrip=3000)
    with pytest.raises(FormatError, match=r"strips 3000x1000, deflate.* above the limit"):
        stage(path, tmp_path / "staged", max_bytes=2 << 20)


def test_a_damaged_source_leaves_nothing_that_looks_staged(tmp_path):
    path = write_strips(tmp_path / "in.tif", noise(1, 1300, 600))
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[9]
        count = tiff.pages[0].databytecounts[9]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x5a" * count
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="strip 9 of 13 cannot be decoded"):
        stage(path, tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


STAGER = """
import sys, time
from storage.readers.staging import stage

def progress(done, total):
    print(done, flush=True)
    if done == total:  # whoever kills may be slower than who stages
        time.sleep(60)

stage(sys.argv[1], sys.argv[2], progress=progress)
"""


@pytest.mark.slow
def test_kill_9_leaves_no_staged_image_and_staging_again_gives_the_same_bytes(tmp_path):
    path = write_strips(tmp_path / "in.tif", noise(1, 5000, 700))
    stage(path, tmp_path / "reference")
    command = [sys.executable, "-c", STAGER, str(path), str(tmp_path / "staged")]
    for bands in (1, 6):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as run:
            for _ in range(bands):
                run.stdout.readline()
            run.send_signal(signal.SIGKILL)
        assert not (tmp_path / "staged").exists()
        with pytest.raises(FormatError, match=r"without zarr\.json"):
            inspect(tmp_path / "staged.partial")
    stage(path, tmp_path / "staged")
    assert tree(tmp_path / "staged") == tree(tmp_path / "reference")
    assert not (tmp_path / "staged.partial").exists()
    shutil.rmtree(tmp_path / "reference")
