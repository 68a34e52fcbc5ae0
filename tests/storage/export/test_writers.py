"""Every output format keeps what the published image means, read back by other programs: one suite
over all of them.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import tifffile

from storage.errors import FormatError
from storage.export.export_image import export
from storage.geo import Georeference
from storage.image_metadata import ImageMetadata
from storage.publishing.publish import publish
from storage.zarr_format.downsample import halve

ICC = b"a colour profile" * 9000  # longer than a JPEG segment
UTM = (15.0, 0.0, 399960.0, 0.0, -15.0, 4900020.0)
ROTATED = (13.0, 7.5, 399960.0, 7.5, -13.0, 4900020.0)
MPP = (0.125, 0.25)  # y, x: a swap shows


def picture(channels=3, dtype="uint8", height=620, width=1040):
    """Smooth waves over the whole range of the dtype; every band, row and column differs."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (40 + 9 * c)) * np.cos(y / 50 + c) for c in range(channels)])
    if dtype == "float32":
        return (waves * 1000 + 0.25).astype(np.float32)
    limits = np.iinfo(dtype)
    return ((waves + 1) / 2 * (int(limits.max) - limits.min) + limits.min).astype(dtype)


def published(dest, pixels, **options):
    channels, height, width = pixels.shape
    size = {"height": height, "width": width, "channels": channels, "dtype": pixels.dtype}
    publish(lambda box: pixels[(slice(None), *box.slices())], dest, **size, **options)
    return dest


def utm(transform=UTM, point=False):
    from rasterio.crs import CRS

    return Georeference(
        crs=CRS.from_epsg(32633).to_wkt(), epsg=32633, transform=transform, pixel_is_point=point
    )


def pyramid(pixels, nodata=None):
    levels = [pixels]
    while max(levels[-1].shape[1:]) > 512:
        levels.append(halve(levels[-1], nodata))
    return levels


@dataclass(frozen=True)
class Found:
    """What another program reads in a file."""

    levels: list
    """Pixels of all levels that it sees, (C, H, W)."""
    pixel_size: tuple | None = None
    names: tuple | None = None
    nodata: float | None = None
    icc: bytes | None = None


class WriterTests:
    """The laws of a format. A subclass names the file, says what the format can hold, and reads it
    with `found`.
    """

    name: str
    options: dict = {}  # noqa: RUF012
    kinds = [(1, "uint8"), (3, "uint8"), (1, "uint16"), (3, "uint16")]  # noqa: RUF012
    keeps_size = keeps_names = keeps_nodata = False
    lossless = True
    has_pyramid = True

    def metadata(self, channels):
        return ImageMetadata(
            names=tuple(f"band {c}" for c in range(channels)), nodata=0.0, pixel_size=MPP, icc=ICC
        )

    def write(self, tmp_path, pixels, metadata, **options):
        source = published(tmp_path / "out", pixels, metadata=metadata)
        export(source, tmp_path / self.name, **self.options, **options)
        return tmp_path / self.name

    @pytest.mark.slow
    def test_pixels_and_meaning_are_kept(self, tmp_path):
        for number, (channels, dtype) in enumerate(self.kinds):
            folder = tmp_path / str(number)
            folder.mkdir()
            pixels = picture(channels, dtype)
            metadata = self.metadata(channels)
            file = self.write(folder, pixels, metadata)
            found = self.found(file)
            expected = pyramid(pixels, 0.0) if self.has_pyramid else [pixels]
            assert [level.shape for level in found.levels] == [level.shape for level in expected]
            for level, wanted in zip(found.levels, expected, strict=True):
                assert level.dtype == wanted.dtype
                if self.lossless:
                    assert np.array_equal(level, wanted)
                else:
                    assert np.abs(level.astype(int) - wanted).mean() < 3
            if self.keeps_size:
                assert found.pixel_size == pytest.approx(MPP, rel=1e-6)
            if self.keeps_names and channels != 3:
                assert found.names == metadata.names
            if self.keeps_nodata:
                assert found.nodata == 0
            assert found.icc == ICC
            assert sorted(path.name for path in folder.iterdir()) == sorted(["out", self.name])

    def test_the_same_image_gives_the_same_bytes(self, tmp_path):
        files = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            files.append(
                self.write(tmp_path / name, picture(3, "uint8", 600, 550), self.metadata(3))
            )
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(self, tmp_path):
        pixels = picture(1, "uint8", 40, 50)
        (tmp_path / self.name).write_text("precious")
        with pytest.raises(FormatError, match="exists already"):
            self.write(tmp_path, pixels, self.metadata(1))
        assert (tmp_path / self.name).read_text() == "precious"
        export(tmp_path / "out", tmp_path / self.name, overwrite=True, **self.options)
        assert self.found(tmp_path / self.name).levels[0].shape == (1, 40, 50)

    def test_a_damaged_image_leaves_no_file(self, tmp_path):
        pixels = picture(3, "uint8", 600, 700)
        source = published(tmp_path / "out", pixels, metadata=self.metadata(3))
        (source / "0/c/0/0/0").unlink()
        with pytest.raises(FormatError, match="missing from the array"):
            export(source, tmp_path / self.name, **self.options)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def found(self, file):
        raise NotImplementedError


def planes(rows):
    return rows[None] if rows.ndim == 2 else rows.transpose(2, 0, 1)


def resolution(page):
    """Return the pixel size (y, x) in micrometres of a TIFF page's tags."""
    x, y = (page.tags[name].value for name in ("XResolution", "YResolution"))
    assert page.tags["ResolutionUnit"].value == 3, "centimetres"
    return 1e4 * y[1] / y[0], 1e4 * x[1] / x[0]


class TestTiff(WriterTests):
    name = "image.tif"
    kinds = [*WriterTests.kinds, (1, "int16"), (2, "float32"), (5, "uint16")]  # noqa: RUF012
    keeps_size = keeps_nodata = True

    def found(self, file):
        with tifffile.TiffFile(file) as tiff:
            first = tiff.pages[0]
            nodata = float(first.tags[42113].value)
            levels = [planes(page.asarray()) for page in tiff.pages]
            return Found(levels, resolution(first), None, nodata, first.iccprofile)


class TestTiffZstd(TestTiff):
    options = {"compression": "zstd"}  # noqa: RUF012


class TestTiffUncompressed(TestTiff):
    options = {"compression": "none"}  # noqa: RUF012


class TestTiffJpeg(TestTiff):
    options = {"compression": "jpeg", "quality": 95}  # noqa: RUF012
    kinds = [(1, "uint8"), (3, "uint8")]  # noqa: RUF012
    lossless = False


class TestOmeTiff(WriterTests):
    name = "image.ome.tif"
    kinds = TestTiff.kinds
    keeps_size = keeps_names = keeps_nodata = True

    def found(self, file):
        from xml.etree import ElementTree

        with tifffile.TiffFile(file) as tiff:
            assert tiff.is_ome
            series = tiff.series[0]
            first = tiff.pages[0]
            rgb = series.axes == "YXS"
            levels = [level.asarray() for level in series.levels]
            levels = [
                planes(level) if rgb else level.reshape(-1, *level.shape[-2:]) for level in levels
            ]
            assert series.is_pyramidal == (len(levels) > 1)
            space = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
            described = ElementTree.fromstring(tiff.ome_metadata).find(f".//{space}Pixels")
            names = tuple(channel.get("Name") for channel in described.iter(f"{space}Channel"))
            size = tuple(float(described.get(f"PhysicalSize{axis}")) for axis in "YX")
            assert described.get("PhysicalSizeXUnit", "µm") == "µm"
            assert resolution(first) == pytest.approx(size)
            assert int(described.get("SizeC")) == len(levels[0])
            nodata = float(first.tags[42113].value)
            return Found(levels, size, names, nodata, first.iccprofile)


class TestPng(WriterTests):
    name = "image.png"
    has_pyramid = False

    def found(self, file):
        from imagecodecs import png_decode
        from PIL import Image

        with Image.open(file) as opened:
            icc = opened.info["icc_profile"]
        return Found([planes(png_decode(file.read_bytes()))], icc=icc)


class TestJpeg(WriterTests):
    name = "image.jpg"
    kinds = [(1, "uint8"), (3, "uint8")]  # noqa: RUF012
    has_pyramid = lossless = False

    def found(self, file):
        from PIL import Image

        with Image.open(file) as opened:
            return Found([planes(np.asarray(opened))], icc=opened.info["icc_profile"])


class TestCog(WriterTests):
    name = "image.tif"
    options = {"format": "cog", "compression": "zstd"}  # noqa: RUF012
    kinds = TestTiff.kinds
    keeps_names = keeps_nodata = True

    def metadata(self, channels):
        pytest.importorskip("rasterio")
        return ImageMetadata(
            names=tuple(f"band {c}" for c in range(channels)), nodata=0.0, icc=ICC, geo=utm()
        )

    def found(self, file):
        import rasterio

        levels = []
        with tifffile.TiffFile(file) as tiff:
            icc = tiff.pages[0].iccprofile
        with rasterio.open(file) as whole:
            assert whole.transform.to_gdal() == pytest.approx(
                (UTM[2], UTM[0], UTM[1], UTM[5], UTM[3], UTM[4])
            )
            assert whole.crs.to_epsg() == 32633
            overviews = len(whole.overviews(1))
            nodata = whole.nodata
            names = tuple(whole.descriptions)
            levels.append(whole.read())
        for level in range(overviews):
            with rasterio.open(file, overview_level=level) as reduced:
                levels.append(reduced.read())
        return Found(levels, names=names, nodata=nodata, icc=icc)

    @pytest.mark.slow
    def test_the_file_is_a_strictly_valid_cog(self, tmp_path):
        cogeo = pytest.importorskip("rio_cogeo")
        for compression in ("none", "deflate", "zstd", "lzw", "jpeg"):
            self.options = {"format": "cog", "compression": compression}
            folder = tmp_path / compression
            folder.mkdir()
            file = self.write(folder, picture(3, "uint8"), self.metadata(3))
            valid, errors, remarks = cogeo.cog_validate(file, strict=True)
            assert valid, (errors, remarks)

    def test_the_file_says_that_it_is_a_cog_and_tiles_lie_between_their_length_and_their_end(
        self, tmp_path
    ):
        import rasterio

        file = self.write(tmp_path, picture(3, "uint8"), self.metadata(3))
        with rasterio.open(file) as opened:
            assert opened.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        data = file.read_bytes()
        with tifffile.TiffFile(file) as tiff:
            for page in tiff.pages:
                for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
                    assert int.from_bytes(data[start - 4 : start], "little") == length
                    assert (
                        data[start + length : start + length + 4]
                        == data[start + length - 4 : start + length]
                    )
