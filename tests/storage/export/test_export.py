"""Export: the published pixels in one file that other programs open, whole or not at all."""

import signal
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile

from storage.errors import FormatError
from storage.export import tiff_writer as module
from storage.export.export_image import export
from storage.geo import Georeference
from storage.image_metadata import ImageMetadata
from storage.publishing.publish import publish
from storage.readers.reader_registry import inspect, open_image
from storage.zarr_format.downsample import halve
from tests.places import ROOT

ICC = b"a colour profile" * 20


def image(channels=3, dtype="uint8", height=700, width=1100):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 40 + c) * np.cos(y / 30) for c in range(channels)]) / 2 + 0.5
    return (waves * np.iinfo(dtype).max).astype(dtype)


def published(dest, pixels, **options):
    channels, height, width = pixels.shape
    publish(
        lambda box: pixels[(slice(None), *box.slices())],
        dest,
        height=height,
        width=width,
        channels=channels,
        dtype=pixels.dtype,
        **options,
    )
    return dest


def planes(rows):
    return rows[None] if rows.ndim == 2 else rows.transpose(2, 0, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_tiff_hold_the_published_pixels(tmp_path, channels, dtype):
    pixels = image(channels, dtype)
    source = published(
        tmp_path / "out", pixels, metadata=ImageMetadata(pixel_size=(0.5, 0.25), icc=ICC)
    )
    export(source, tmp_path / "image.png")
    export(source, tmp_path / "image.tif")
    for name in ("image.png", "image.tif"):
        reader = open_image(tmp_path / name)
        assert np.array_equal(reader.read(reader.info.box), pixels)
        assert (reader.info.dtype, reader.info.icc) == (dtype, ICC)
        reader.close()
    assert np.array_equal(
        planes(imagecodecs.png_decode((tmp_path / "image.png").read_bytes())), pixels
    )
    assert inspect(tmp_path / "image.tif").pixel_size == pytest.approx((0.5, 0.25))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.png", "image.tif", "out"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_carries_the_pyramid_as_reduced_pages(tmp_path, channels):
    pixels = image(channels)
    reports = []
    source = published(tmp_path / "out", pixels)
    export(source, tmp_path / "image.TIFF", progress=lambda *report: reports.append(report))
    assert reports == [(n + 1, 9) for n in range(9)]
    with tifffile.TiffFile(tmp_path / "image.TIFF") as tiff:
        assert [page.subfiletype for page in tiff.pages] == [0, 1, 1]
        assert [level.shape[:2] for level in tiff.series[0].levels] == [
            (700, 1100),
            (350, 550),
            (175, 275),
        ]
        assert not tiff.is_bigtiff
        for page in tiff.pages:
            assert page.tile == (512, 512)
            assert page.compression.name == "ADOBE_DEFLATE"
            assert np.array_equal(planes(page.asarray()), pixels)
            pixels = halve(pixels)
    export(source, tmp_path / "flat.tif", pyramid=False)
    with tifffile.TiffFile(tmp_path / "flat.tif") as tiff:
        assert len(tiff.pages) == 1


@pytest.mark.parametrize("compression", [name for name in module.COMPRESSIONS if name != "jpeg"])
def test_every_compression_is_lossless_and_deterministic(tmp_path, compression):
    pixels = image(3, "uint16", 600, 520)
    source = published(tmp_path / "out", pixels)
    for name in ("a.tif", "b.tif"):
        export(source, tmp_path / name, compression=compression)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert np.array_equal(planes(tiff.pages[0].asarray()), pixels)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("compression", [name for name in module.COMPRESSIONS if name != "jpeg"])
@pytest.mark.parametrize("side", [511, 512, 1600])
def test_tiles_that_wait_for_each_other_keep_their_order_and_their_pixels(
    tmp_path, monkeypatch, compression, side
):
    monkeypatch.setattr("storage.export.tiff_tiles._AHEAD", 2)
    pixels = np.random.default_rng(0).integers(
        -(1 << 15), 1 << 15, (2, side, side), np.int16
    )  # differences overflow
    source = published(tmp_path / "out", pixels)
    for name in ("image.tif", "image.ome.tif"):
        export(source, tmp_path / name, compression=compression)
        with tifffile.TiffFile(tmp_path / name) as tiff:
            found = tiff.series[0].levels[0].asarray()
            assert np.array_equal(found if name == "image.ome.tif" else planes(found), pixels)


def test_the_smallest_level_comes_first_after_all_tables(tmp_path):
    export(published(tmp_path / "out", image(3)), tmp_path / "image.tif")
    with tifffile.TiffFile(tmp_path / "image.tif") as tiff:
        places = [page.dataoffsets[0] for page in tiff.pages]
        assert places == sorted(places, reverse=True)
        assert max(page.offset for page in tiff.pages) < places[-1]


def test_a_tiff_that_may_pass_4_gib_is_a_bigtiff(tmp_path, monkeypatch):
    source = published(tmp_path / "out", image(1))
    monkeypatch.setattr(module, "CLASSIC_LIMIT", 1000)
    export(source, tmp_path / "image.tif")
    with tifffile.TiffFile(tmp_path / "image.tif") as tiff:
        assert tiff.is_bigtiff
        assert np.array_equal(planes(tiff.pages[0].asarray()), image(1))


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path):
    source = published(tmp_path / "out", image(1))
    target = tmp_path / "image.png"
    target.write_text("precious")
    with pytest.raises(FormatError, match=r"image\.png: exists already"):
        export(source, target)
    assert target.read_text() == "precious"
    export(source, target, overwrite=True)
    assert inspect(target).format == "PNG"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "image.bmp",
            r"suffix '\.bmp'; the formats that can be written are \.ome\.tif, .*\.png, \.jpg",
        ),
        ("image", r"no suffix; the formats that can be written are"),
        ("nowhere/image.png", "the folder .*nowhere does not exist"),
    ],
)
def test_names_that_cannot_be_written_are_refused_in_one_line(tmp_path, name, message):
    source = published(tmp_path / "out", image(1))
    with pytest.raises(FormatError, match=message) as error:
        export(source, tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_png_above_the_limit_names_the_limit_and_the_way_out(tmp_path):
    source = published(tmp_path / "out", image(3))
    with pytest.raises(
        FormatError,
        match=r"2\.2 MiB of pixels, above the limit of 1\.0 MiB .* export to image\.tif instead",
    ):
        export(source, tmp_path / "image.png", max_whole_bytes=1 << 20)


def test_an_unknown_compression_is_refused(tmp_path):
    source = published(tmp_path / "out", image(1))
    with pytest.raises(
        FormatError, match="'webp' is not known; choose one of none, deflate, zstd, lzw, jpeg"
    ):
        export(source, tmp_path / "image.tif", compression="webp")


def test_what_is_not_published_cannot_be_exported(tmp_path):
    with pytest.raises(FormatError, match=r"without zarr\.json"):
        export(tmp_path, tmp_path / "image.tif")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.tif", {"format": "webp"}, "format 'webp' is not known; choose one of tiff, ome-tiff"),
        ("a.png", {"format": "cog"}, r"cog is a TIFF; choose a name that ends in \.tif"),
        ("a.tif", {"format": "png"}, "does not end as a PNG"),
        ("a.tif", {"format": "cog"}, "has no georeference for a cog; export with --format tiff"),
        ("a.tif", {"format": "geotiff"}, "has no georeference for a geotiff"),
        ("a.jpg", {}, "JPEG holds uint8 with 1 or 3 bands, the image is uint16 with 1 bands"),
        ("a.tif", {"compression": "jpeg"}, "JPEG holds uint8"),
        ("a.tif", {"compression": "jpeg", "quality": 0}, "quality 0 is not between 1 and 100"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_in_one_line(tmp_path, name, options, message):
    source = published(tmp_path / "out", image(1, "uint16"))
    with pytest.raises(FormatError, match=message) as error:
        export(source, tmp_path / name, **options)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


EXPORTER = """
import os, sys, time
from storage import atomic_files
from storage.export.export_image import export

source, target, kind, moment = sys.argv[1:]

def wait(*_, **__):
    print("here", flush=True)
    time.sleep(60)

def half(path, data, fsync):
    path.write_bytes(bytes(data[-1][: len(data[-1]) // 2]))
    wait()

def progress(done, total):
    if done == int(moment):
        wait()

if moment == "naming":
    os.link = wait
elif moment == "half":
    atomic_files.write_new = half
else:
    export(source, target, format=kind, compression="none", progress=progress)
export(source, target, format=kind, compression="none")
"""
MOMENTS = {
    "tiff": ("1", "10", "naming"),
    "ome-tiff": ("1", "10", "naming"),
    "geotiff": ("1", "10", "naming"),
    "cog": ("1", "10", "naming"),
    "png": ("half", "naming"),
    "jpeg": ("half", "naming"),
}


@pytest.mark.parametrize("kind", MOMENTS)
@pytest.mark.slow
def test_kill_9_leaves_no_file_under_the_final_name_and_the_next_export_is_whole(tmp_path, kind):
    geo = Georeference(crs="", transform=(2.0, 0.0, 10.0, 0.0, -2.0, 20.0))
    if kind in ("geotiff", "cog"):
        pytest.importorskip("rasterio")
    side = 600 if kind in ("png", "jpeg") else 1500
    pixels = image(3, "uint8" if kind == "jpeg" else "uint16", side, side)
    source = published(tmp_path / "out", pixels, metadata=ImageMetadata(geo=geo))
    suffix = {"png": ".png", "jpeg": ".jpg"}.get(kind, ".tif")
    target = tmp_path / f"image{suffix}"
    reference = tmp_path / f"reference{suffix}"
    for moment in MOMENTS[kind]:
        command = [sys.executable, "-c", EXPORTER, str(source), str(target), kind, moment]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as run:
            assert run.stdout.readline() == b"here\n"
            run.send_signal(signal.SIGKILL)
        assert run.returncode == -signal.SIGKILL
        assert not target.exists()
        assert [name for name in tmp_path.iterdir() if name.suffix == ".partial"], "it was at work"
    for file in (target, reference):
        export(source, file, format=kind, compression="none")
    assert target.read_bytes() == reference.read_bytes()
    assert inspect(target).shape == (3, side, side)
    assert sorted(tmp_path.iterdir()) == sorted([target, reference, source]), (
        "what was left is gone"
    )


def test_temporary_files_of_a_living_process_are_left_alone(tmp_path):
    source = published(tmp_path / "out", image(1))
    command = [
        sys.executable,
        "-c",
        EXPORTER,
        str(source),
        str(tmp_path / "image.png"),
        "png",
        "half",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"here\n"
        (left,) = tmp_path.glob(".image.png.*.partial")
        export(source, tmp_path / "image.png")
        assert left.exists()
        run.kill()
    export(source, tmp_path / "image.png", overwrite=True)
    assert not left.exists()
