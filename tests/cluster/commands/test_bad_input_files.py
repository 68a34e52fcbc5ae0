"""Bad input files: one clear line that says what was found, what is supported and what to do; never
wrong pixels.
"""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import FormatError
from storage.image import Selection
from storage.readers.reader_registry import inspect, open_image
from tests.png_bytes import png_bytes, png_chunk

PIXELS = np.random.default_rng(3).integers(0, 256, (90, 120, 3), np.uint8)
PNG = bytes(imagecodecs.png_encode(PIXELS))
JPEG = bytes(imagecodecs.jpeg8_encode(PIXELS))


def write(path, data):
    path.write_bytes(data)
    return path


def png(height=4, width=4, bits=8, colour=2, extra=b"", interlace=0, pixels=b"\0"):
    return png_bytes(
        height, width, bits, colour, zlib.compress(pixels), interlace=interlace, extra=extra
    )


def with_frame(marker=0xC0, bits=8, height=90, width=120, components=3):
    """The JPEG with another frame header."""
    place = JPEG.index(b"\xff\xc0")
    old = struct.unpack_from(">H", JPEG, place + 2)[0]
    body = struct.pack(">BHHB", bits, height, width, components) + b"\1\x11\0" * components
    return (
        JPEG[:place]
        + struct.pack(">BBH", 0xFF, marker, len(body) + 2)
        + body
        + JPEG[place + 2 + old :]
    )


def refusal(path, read=False):
    """Return the one line that the file is refused with."""
    with pytest.raises(FormatError) as error:  # noqa: PT012  the reader is only reached when inspecting passes
        info = inspect(path)
        if read:
            open_image(path).read(info.box)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    assert len(line) - len(str(path)) < 240
    return line


def outcome(path, **limits):
    """Read a whole file, unless it is large: return its shape and no line, or no shape and the line
    of the refusal.
    """
    try:
        info = inspect(path, **limits)
        reader = open_image(path)
        pixels = reader.read(info.box) if info.nbytes < 50e6 else np.empty(info.shape, info.dtype)
        reader.close()
    except FormatError as error:
        return None, str(error)
    assert (pixels.shape, pixels.dtype) == (info.shape, info.dtype)
    return info.shape, ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (
            b"hello world, this is text",
            "not an image that is known here (it starts with 68 65 6c 6c",
        ),
        (b"GIF89a" + bytes(20), "a GIF file; supported: PNG, JPEG, JPEG 2000"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP file"),
        (b"\0\0\0\x18ftypheic" + bytes(8), "a HEIC file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(8), "the JP2 file has no code stream among its boxes"),
    ],
)
def test_a_file_that_is_no_supported_image_says_what_it_is(tmp_path, data, message):
    assert message in refusal(write(tmp_path / "image.png", data))


def test_a_missing_file_and_a_plain_folder_are_refused(tmp_path):
    assert "no such file; check the path" in refusal(tmp_path / "absent.png")
    assert "a folder without zarr.json" in refusal(tmp_path)
    (tmp_path / ".zgroup").touch()
    assert "not readable as zarr" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PNG[:8], "the PNG is truncated: 8 bytes and no IEND"),
        (PNG[:-1], "the PNG is truncated"),
        (PNG[:-12], "the PNG is truncated"),
        (PNG[:4000], "the PNG is truncated: 4000 bytes"),
        (PNG[:8] + PNG[33:], "the PNG starts with"),
        (PNG[:20] + b"\xff" + PNG[21:], "the PNG header (IHDR) is damaged"),
        (PNG[:33] + bytes(4) + PNG[33:], "no PNG chunk at byte 33"),
        (png()[:33] + png_chunk(b"IEND", b""), "no pixel data (IDAT)"),
        (png(height=0), "0 x 4 px (H x W); an image needs at least 1 x 1"),
        (png(width=0), "4 x 0 px"),
        (png(colour=3), "a palette PNG without its palette (PLTE)"),
        (png(bits=4), "a PNG with 4 bit RGB, which does not exist"),
        (png(bits=4, colour=6), "4 bit RGB with alpha, which does not exist"),
        (png(colour=1), "colour type 1, which does not exist"),
        (png(bits=1, colour=0, interlace=1), "an interlaced PNG of 1 bit samples"),
        (png(interlace=7), "unknown PNG compression, filter or interlace"),
        (
            png(height=60_000, width=60_000),
            "declares 60000 x 60000 px, above the limit of 2147483648 px; "
            "raise it with --max-pixels",
        ),
    ],
)
def test_a_png_is_refused_from_its_structure(tmp_path, data, message):
    assert message in refusal(write(tmp_path / "image.png", data))


def test_a_png_with_a_wrong_crc_or_too_few_pixels_is_refused_when_it_is_read(tmp_path):
    place = PNG.index(b"IDAT") + 900
    flipped = PNG[:place] + bytes((PNG[place] ^ 1,)) + PNG[place + 1 :]
    assert "the PNG chunk IDAT at byte 33 fails its CRC" in refusal(
        write(tmp_path / "a.png", flipped), read=True
    )
    assert "the PNG data is damaged" in refusal(
        write(tmp_path / "b.png", png(pixels=bytes(9))), read=True
    )


def test_a_small_limit_on_declared_pixels_is_respected(tmp_path):
    path = write(tmp_path / "image.png", PNG)
    with pytest.raises(FormatError, match="declares 90 x 120 px, above the limit of 10000 px"):
        inspect(path, max_pixels=10_000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (JPEG[: len(JPEG) // 2], "the JPEG is truncated"),
        (JPEG[:-2], "no end-of-image marker"),
        (JPEG[:30], "truncated in its header"),
        (JPEG[:2] + b"\xff\xd9" + bytes(4), "no frame header"),
        (with_frame(height=0), "0 x 120 px (H x W); an image needs"),
        (with_frame(width=0), "90 x 0 px (H x W)"),
        (with_frame(bits=12), "a JPEG with 12 bit samples"),
        (with_frame(components=4), "a CMYK JPEG; supported: 8 bit grey or colour"),
        (with_frame(components=2), "a JPEG with 2 components"),
        (with_frame(marker=0xC3), "a lossless, hierarchical or arithmetic JPEG"),
        (
            with_frame(height=65_000, width=65_000),
            "above the limit of 2147483648 px; raise it with --max-pixels",
        ),
    ],
)
def test_a_jpeg_is_refused_from_its_structure(tmp_path, data, message):
    assert message in refusal(write(tmp_path / "image.jpg", data))


def test_a_jpeg_whose_frame_lies_is_refused_when_it_is_read(tmp_path):
    place = JPEG.rindex(b"\xff\xda")
    path = write(tmp_path / "image.jpg", JPEG[: place + 14] + JPEG[-2:])
    info = inspect(path)
    assert info.shape == (
        3,
        90,
        120,
    )  # no checksum: the decoder may or may not notice, but it must not crash
    shape, line = outcome(path)
    assert shape == info.shape or "the JPEG data is damaged" in line


def tiff(path, pixels=PIXELS, **options):
    tifffile.imwrite(path, pixels, **({"metadata": None, "photometric": "rgb"} | options))
    return path


def patch_tag(path, code, value):
    """Overwrite the first value of a tag in place."""
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages.first.tags[code]
        data = struct.pack(file.byteorder + {3: "H", 4: "I"}[int(tag.dtype)], value)
        file.filehandle.seek(tag.valueoffset)
        file.filehandle.write(data)
    return path


GREY = PIXELS[:, :, 0]
TIFF_KINDS = {
    "double": (
        GREY.astype(np.float64),
        {"photometric": "minisblack"},
        "found 64 bit float samples",
    ),
    "signed_32": (
        GREY.astype(np.int32),
        {"photometric": "minisblack"},
        "found 32 bit signed samples",
    ),
    "uint32": (
        GREY.astype(np.uint32),
        {"photometric": "minisblack"},
        "found 32 bit unsigned samples",
    ),
    "complex": (
        GREY.astype(np.complex64),
        {"photometric": "minisblack"},
        "found 64 bit complex samples",
    ),
    "cmyk": (np.dstack([PIXELS, GREY]), {"photometric": "separated"}, "found CMYK pixels"),
    "lab": (PIXELS, {"photometric": "cielab"}, "found CIELAB pixels"),
    "volume": (
        np.stack([GREY] * 4),
        {"photometric": "minisblack", "volumetric": True, "tile": (4, 16, 16)},
        "a volume",
    ),
}


@pytest.mark.parametrize("kind", TIFF_KINDS)
def test_a_tiff_of_an_unsupported_kind_says_what_it_is_and_what_to_do(tmp_path, kind):
    pixels, options, message = TIFF_KINDS[kind]
    line = refusal(tiff(tmp_path / "image.tif", pixels, **options))
    assert message in line
    assert "; supported: " in line


@pytest.mark.parametrize(
    ("options", "code", "value", "message"),
    [
        ({}, 256, 0, "x 0 px"),
        ({}, 257, 0, "0 x 120 px"),
        ({"tile": (32, 32)}, 323, 0, "(0, 32) px (H x W)"),
        ({"tile": (32, 32)}, 257, 900, "900 x 120 px need 116 tiles, the file lists 12 offsets"),
        ({"tile": (32, 32)}, 324, 10**8, "the TIFF is truncated: tile 0 ends at byte 100003072"),
        ({"tile": (32, 32)}, 324, 0, "1 of 12 tiles hold no data"),
        ({"tile": (32, 32)}, 325, 0, "1 of 12 tiles hold no data"),
        ({"tile": (32, 32)}, 325, 99, "tile 0 is shorter than its pixels"),
        ({}, 259, 6, "found OJPEG compression"),
        ({}, 259, 3, "found CCITTFAX3 compression"),
        ({}, 262, 3, "a palette of None colours where (3, 256) belong"),
    ],
)
def test_a_tiff_with_wrong_tables_is_refused(tmp_path, options, code, value, message):
    path = patch_tag(tiff(tmp_path / "image.tif", **options), code, value)
    assert message in refusal(path)


def test_a_truncated_tiff_is_refused(tmp_path):
    data = tiff(tmp_path / "image.tif", tile=(32, 32), compression="deflate").read_bytes()
    for size in (9, 100, 200, len(data) // 2, len(data) - 1):
        line = refusal(write(tmp_path / "cut.tif", data[:size]))
        assert any(
            word in line
            for word in ("truncated", "damaged", "cut before", "need 12 tiles", "no data")
        ), line


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.slow
def test_damaged_bytes_give_one_line_or_an_image_and_never_a_crash(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    sample = folder / "fuzz-source.tif"
    if not sample.exists():
        tiff(sample, tile=(32, 32), compression="deflate")
    source = data.draw(st.sampled_from([PNG, JPEG, sample.read_bytes()]))
    broken = bytearray(source)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(
            st.integers(0, min(len(broken), 700) - 1) | st.integers(0, len(broken) - 1)
        )
        broken[place] = data.draw(st.integers(0, 255))
    path = write(
        folder / "fuzz",
        bytes(broken[: data.draw(st.integers(1, len(broken)) | st.just(len(broken)))]),
    )
    shape, line = outcome(path, max_pixels=1 << 20)
    assert (shape is None) != (line == "")
    assert "\n" not in line


def test_several_pages_are_refused_with_the_options_until_one_is_chosen(tmp_path):
    path = tiff(tmp_path / "pages.tif", np.stack([GREY] * 4), photometric="minisblack")
    line = refusal(path)
    assert (
        "holds 4 pages (90x120, 90x120, 90x120, ... H x W); choose one with --t 0 to --t 3" in line
    )
    assert inspect(path, Selection(t=2)).axes == (("t", 4),)
    with pytest.raises(FormatError, match="no --t 4; the file has t 0 to 3"):
        inspect(path, Selection(t=4))
