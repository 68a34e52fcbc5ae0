"""What is said of lossy inputs: their coding, their quality, and where their blocks lie."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from storage.coding import Coding
from storage.readers.reader_registry import inspect, open_image
from storage.readers.staging import stage

RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def jpeg(path, quality, pixels=PICTURE, **options):
    Image.fromarray(pixels).save(path, "JPEG", quality=quality, **options)
    return path


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_quality_is_the_one_that_the_file_was_saved_with(quality, subsampling, tmp_path):
    coding = inspect(jpeg(tmp_path / "in", quality, subsampling=subsampling)).coding
    assert coding.in_words() == f"JPEG, quality {quality}: 8 px blocks"


def test_tables_that_are_near_to_a_quality_are_said_to_be_about_it(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "JPEG", quality=60)
    tables = Image.open(stream).quantization
    tables[0][3] += 2
    path = tmp_path / "in.jpg"
    Image.fromarray(PICTURE).save(path, "JPEG", qtables=tables)
    assert inspect(path).coding.in_words() == "JPEG, quality about 60: 8 px blocks"


def test_tables_that_are_no_quality_at_all_give_none(tmp_path):
    path = tmp_path / "in.jpg"
    wild = [[1] * 32 + [200] * 32] * 2
    Image.fromarray(PICTURE).save(path, "JPEG", qtables=wild)
    assert inspect(path).coding.in_words() == "JPEG: 8 px blocks"


@pytest.mark.parametrize("layout", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("quality", [30, 85])
def test_jpeg_in_a_tiff_has_its_quality_too(layout, quality, tmp_path):
    path = tmp_path / "in.tif"
    options = {"compression": "jpeg", "compressionargs": {"level": quality}}
    tifffile.imwrite(path, PICTURE, photometric="rgb", **options, **layout)
    assert f"JPEG, quality {quality}" in inspect(path).coding.in_words()


@pytest.mark.parametrize("compression", ["zlib", None, "lzw"])
def test_what_was_stored_exactly_has_no_coding(compression, tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, PICTURE, photometric="rgb", compression=compression)
    assert inspect(path).coding is None


def test_png_and_lossless_jpeg_2000_have_no_coding(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "in.png")
    Image.fromarray(PICTURE).save(tmp_path / "in.jp2")
    Image.fromarray(PICTURE).save(tmp_path / "lossy.jp2", irreversible=True, quality_layers=[40])
    assert inspect(tmp_path / "in.png").coding is None
    assert inspect(tmp_path / "in.jp2").coding is None
    assert "lossy" in inspect(tmp_path / "lossy.jp2").coding.in_words()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_lattice_follows_the_orientation(orientation, tmp_path):
    """Blocks of the stored picture, laid from its first row and column, are told apart by their
    grey level.
    """
    blocks = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
    stored = blocks.repeat(8, axis=0).repeat(8, axis=1)[:51, :37]
    exif = Image.Exif()
    exif[274] = orientation
    path = jpeg(tmp_path / "in.jpg", 100, stored, exif=exif)
    with_blocks = open_image(path)
    info = with_blocks.info
    pixels = with_blocks.read(info.box)[0].astype(int)
    for axis, length in enumerate((info.height, info.width)):
        steps = np.abs(np.diff(pixels, axis=axis)).max(axis=1 - axis)
        edges = [line for line in range(1, length) if steps[line - 1] > 8]
        on_lattice = [n for n in range(1, length) if not info.coding.edge_distance(axis, n, length)]
        assert edges
        assert edges == on_lattice


def test_blocks_begin_anew_in_segments_that_they_do_not_fill():
    coding = Coding(name="JPEG", blocks=(8, 8), segments=(20, 64))
    edges = [line for line in range(45) if coding.edge_distance(0, line, 45) == 0]
    assert edges == [0, 8, 16, 20, 28, 36, 40]
    assert coding.restarts
    assert not Coding(name="JPEG", blocks=(8, 8), segments=(16, 64)).restarts


def test_a_staged_copy_keeps_the_coding(tmp_path):
    path = jpeg(tmp_path / "in.jpg", 42)
    assert stage(path, tmp_path / "staged").coding == inspect(path).coding


def test_info_says_where_an_earlier_coding_has_left_its_blocks(tmp_path, cli):
    grain = np.fft.rfft2(np.random.default_rng(0).standard_normal((256, 256)))
    steep = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)).clip(1 / 256)
    picture = np.fft.irfft2(grain / steep)
    picture = (128 + 45 * picture / picture.std()).clip(0, 255).astype(np.uint8)
    coded = Image.open(jpeg(tmp_path / "first.jpg", 20, picture))
    Image.fromarray(np.asarray(coded)[3:, 5:]).save(tmp_path / "cut.png")
    ended = cli("info", tmp_path / "cut.png")
    assert "blocks of 8 px from row 5 and column 3 on, of an earlier lossy coding" in ended.out


def test_info_names_coding_and_quality(tmp_path, cli):
    ended = cli("info", jpeg(tmp_path / "in.jpg", 30))
    assert "JPEG, quality 30: 8 px blocks" in ended.out
