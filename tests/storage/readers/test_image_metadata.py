"""What a file says of its pixels is understood: map position, nodata, names, sizes; what is hostile
is refused.
"""

import json
import math
import struct
import zlib

import numpy as np
import pytest
import tifffile
import zarr

from storage.errors import FormatError
from storage.image import Selection
from storage.readers.reader_registry import inspect, open_image
from tests.places import DATA
from tests.png_bytes import png_bytes

GREY = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)


def geotiff(path, tags, pixels=GREY, **options):
    tifffile.imwrite(
        path, pixels, extratags=tags, metadata=None, photometric="minisblack", **options
    )
    return path


def keys(*entries):
    table = [1, 1, 0, len(entries)] + [value for entry in entries for value in entry]
    return (34735, 3, len(table), tuple(table), True)


UTM = ((1024, 0, 1, 1), (3072, 0, 1, 32633))
SCALE = (33550, 12, 3, (10.0, 20.0, 0.0), True)
TIE = (33922, 12, 6, (2.0, 3.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True)
MATRIX = (34264, 12, 16, (8.0, 3.0, 0, 100.0, 2.0, -9.0, 0, 200.0, 0, 0, 0, 0, 0, 0, 0, 1.0), True)


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("tags", [[SCALE, TIE], [MATRIX]], ids=["north-up", "rotated"])
def test_the_georeference_is_what_gdal_reads(tmp_path, tags, point):
    rasterio = pytest.importorskip("rasterio")
    kind = ((1025, 0, 1, 2 if point else 1),)
    path = geotiff(tmp_path / "map.tif", [*tags, keys(UTM[0], *kind, UTM[1])])
    geo = inspect(path).geo
    with rasterio.open(path) as dataset:
        assert geo.transform == pytest.approx(tuple(dataset.transform)[:6], abs=1e-9)
        assert geo.crs == dataset.crs.to_wkt()
    assert (geo.epsg, geo.pixel_is_point) == (32633, point)


def test_an_epsg_code_is_understood_without_gdal_and_anything_else_asks_for_it(
    tmp_path, monkeypatch
):
    import sys

    monkeypatch.setitem(sys.modules, "rasterio", None)
    geo = inspect(geotiff(tmp_path / "map.tif", [SCALE, TIE, keys(*UTM)])).geo
    assert (geo.crs, geo.epsg) == ("EPSG:32633", 32633)
    path = geotiff(tmp_path / "own.tif", [SCALE, TIE, keys((1024, 0, 1, 1), (3072, 0, 1, 32767))])
    with pytest.raises(
        FormatError,
        match=r"own\.tif: its coordinate system is not a plain EPSG code.*gigarestore\[geo\]",
    ):
        inspect(path)


@pytest.mark.skipif(not DATA.exists(), reason="the collection of real files is not here")
def test_real_scenes_lie_where_gdal_says():
    rasterio = pytest.importorskip("rasterio")
    for path in sorted((DATA / "sat").glob("*.[tT][iI][fF]")):
        with rasterio.open(path) as dataset:
            expected = (
                tuple(dataset.transform)[:6],
                dataset.nodata,
                dataset.crs.to_wkt() if dataset.crs else "",
            )
        info = inspect(path)
        assert info.geo.transform == pytest.approx(expected[0], abs=1e-9), path.name
        assert (info.nodata, info.geo.crs) == expected[1:], path.name


def test_a_transform_that_maps_no_area_is_refused(tmp_path):
    flat = (34264, 12, 16, (1.0, 1.0, 0, 0, 1.0, 1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1.0), True)
    with pytest.raises(FormatError, match=r"map\.tif: geotransform .* maps no area"):
        inspect(geotiff(tmp_path / "map.tif", [flat, keys(*UTM)]))


@pytest.mark.parametrize(
    ("text", "pixels", "expected"),
    [
        ("0", GREY, 0.0),
        ("-9999", GREY, None),
        ("-9999", GREY.astype(np.int16), -9999.0),
        ("-3.4e+38", GREY.astype(np.float32), float(np.float32(-3.4e38))),
        ("nan", GREY.astype(np.float32), math.nan),
        ("none", GREY, None),
    ],
)
def test_nodata_is_the_value_that_the_dtype_holds(tmp_path, text, pixels, expected):
    info = inspect(geotiff(tmp_path / "map.tif", [(42113, 2, 0, text, True)], pixels))
    assert info.nodata == expected or (math.isnan(info.nodata) and math.isnan(expected))
    assert bool([note for note in info.notes if "nodata" in note]) == (expected is None)


def test_a_sparse_tile_is_nodata_where_the_file_names_it(tmp_path):
    path = geotiff(
        tmp_path / "map.tif", [(42113, 2, 0, "7", True)], tile=(16, 16), compression="zlib"
    )
    with tifffile.TiffFile(path, mode="r+") as file:
        for code in (324, 325):
            tag = file.pages.first.tags[code]
            kind = {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]
            file.filehandle.seek(tag.valueoffset + 5 * struct.calcsize(kind))
            file.filehandle.write(struct.pack(file.byteorder + kind, 0))
    reader = open_image(path)
    expected = GREY.copy()
    expected[16:32, 16:32] = 7
    np.testing.assert_array_equal(reader.read(reader.info.box)[0], expected)
    reader.close()


def test_band_names_of_gdal_go_along(tmp_path):
    item = '<Item name="DESCRIPTION" sample="0" role="description">near infrared</Item>'
    xml = f"<GDALMetadata>{item}</GDALMetadata>"
    assert inspect(geotiff(tmp_path / "map.tif", [(42112, 2, 0, xml, True)])).names == (
        "near infrared",
    )


@pytest.mark.parametrize("bomb", ['<!DOCTYPE a [<!ENTITY b "c">]>', "<unclosed>"])
def test_metadata_that_is_no_plain_xml_is_not_expanded(tmp_path, bomb):
    assert (
        inspect(
            geotiff(tmp_path / "map.tif", [(42112, 2, 0, bomb + "<GDALMetadata/>", True)])
        ).names
        == ()
    )


def ome(path, body, pages=1):
    image = f'<Image ID="Image:0">{body}</Image>'
    text = f'<?xml version="1.0"?><OME xmlns="http://x" UUID="urn:uuid:1">{image}</OME>'
    tifffile.imwrite(
        path, np.stack([GREY] * pages), description=text, metadata=None, photometric="minisblack"
    )
    return path


SIZES = 'DimensionOrder="XYZCT" SizeX="64" SizeY="48" SizeZ="1" SizeC="1" SizeT="{t}" Type="uint16"'
PIXELS = f"<Pixels {SIZES}{{more}}>{{data}}</Pixels>"


def test_companion_files_are_never_opened(tmp_path):
    data = (
        '<TiffData IFD="0" FirstT="0"><UUID FileName="image.ome.tif">urn:uuid:1</UUID></TiffData>'
    )
    uuid = '<UUID FileName="../../etc/other.tif">urn:uuid:2</UUID>'
    data += f'<TiffData IFD="0" FirstT="1">{uuid}</TiffData>'
    path = ome(tmp_path / "image.ome.tif", PIXELS.format(t=2, more="", data=data))
    with pytest.raises(
        FormatError,
        match=r"several files \(planes in '../../etc/other.tif'\), of which none is followed",
    ):
        inspect(path, Selection(t=0))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<Pixels", "its OME-XML cannot be parsed"),
        ("", "describes no image"),
        (
            PIXELS.format(t=1, more=' PhysicalSizeX="0" PhysicalSizeY="1"', data=""),
            "a pixel is 0 µm wide",
        ),
        (
            PIXELS.format(t=1, more=' PhysicalSizeX="1" PhysicalSizeY="NaN"', data=""),
            "a pixel is NaN µm wide",
        ),
        (
            PIXELS.replace("64", "63").format(t=1, more="", data=""),
            "says 48 x 63 px, its first page has 48 x 64",
        ),
        (
            PIXELS.format(t=3, more="", data=""),
            "holds 3 frames along t; choose one with --t 0 to --t 2",
        ),
        (PIXELS.format(t=10**9, more="", data=""), "declares 1000000000 planes, above the limit"),
        (PIXELS.format(t=0, more="", data=""), "says SizeT = '0'"),
    ],
)
def test_wrong_ome_metadata_is_one_line(tmp_path, body, message):
    with pytest.raises(FormatError) as error:
        inspect(ome(tmp_path / "image.ome.tif", body))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_level_outside_of_the_images_folder_is_not_followed(tmp_path):
    group = zarr.open_group(tmp_path / "in", mode="w", zarr_format=2)
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    scale = [{"type": "scale", "scale": [1.0, 1.0]}]
    dataset = {"path": "../elsewhere", "coordinateTransformations": scale}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [dataset]}]
    zarr.create_array(tmp_path / "elsewhere", data=GREY)
    with pytest.raises(
        FormatError, match=r"'../elsewhere', outside of the image's own folder, is not followed"
    ):
        inspect(tmp_path / "in")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"plate": {}}, r"a plate or well \(HCS\)"),
        ({"bioformats2raw.layout": 3}, "a collection of images"),
        ({}, "without an OME-Zarr image"),
        ({"multiscales": [{"version": "0.3"}]}, "OME-Zarr version '0.3'"),
    ],
)
def test_a_zarr_group_that_is_no_image_says_what_it_is(tmp_path, attributes, message):
    zarr.open_group(tmp_path / "in", mode="w", zarr_format=2).attrs.update(attributes)
    with pytest.raises(FormatError, match=message):
        inspect(tmp_path / "in")


def test_a_zarr_array_of_unnamed_axes_is_never_guessed(tmp_path):
    zarr.create_array(tmp_path / "in", data=np.zeros((3, 40, 50), np.uint8))
    with pytest.raises(FormatError, match="of unnamed axes; say what the first of three axes is"):
        inspect(tmp_path / "in")
    assert inspect(tmp_path / "in", Selection(channel=(0, 1, 2))).shape == (3, 40, 50)
    assert inspect(tmp_path / "in", Selection(t=1)).shape == (1, 40, 50)


def test_declared_sizes_are_held_to_the_limit_before_anything_is_allocated(tmp_path):
    folder = tmp_path / "huge"
    zarr.create_array(folder, shape=(8, 8), chunks=(8, 8), dtype="uint8")
    document = json.loads((folder / "zarr.json").read_text())
    document["shape"] = [1 << 30, 1 << 30]
    (folder / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(
        FormatError,
        match=r"declares 1073741824 x 1073741824 px, above the limit of 1099511627776 px",
    ):
        inspect(folder)
    document["shape"] = [1 << 17, 1 << 17]
    document["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 17, 1 << 17]
    (folder / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(
        FormatError, match=r"bytes, above the limit of 268435456 for one that is decoded whole"
    ):
        inspect(folder)


def test_a_tiff_larger_than_the_limit_is_refused(tmp_path):
    path = geotiff(tmp_path / "map.tif", [])
    with pytest.raises(
        FormatError, match="48 x 64 px, above the limit of 3000 px; raise it with --max-pixels"
    ):
        inspect(path, max_pixels=3000)


def test_a_jpeg_tile_that_declares_a_huge_frame_is_not_decoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), compression="jpeg", metadata=None)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    (tmp_path / "a.tif").write_bytes(data)
    reader = open_image(tmp_path / "a.tif")
    with pytest.raises(
        FormatError, match=r"tile 0 of 1 declares \(60000, 60000\) px where \(64, 64\) belong"
    ):
        reader.read(reader.info.box)
    reader.close()


def test_a_png_whose_stream_is_a_bomb_is_read_only_as_far_as_its_rows(tmp_path):
    stream = zlib.compress(bytes(200 << 20))  # 200 MiB of zeros where 72 bytes belong
    (tmp_path / "a.png").write_bytes(png_bytes(8, 8, 8, 0, stream))
    import tracemalloc

    tracemalloc.start()
    reader = open_image(tmp_path / "a.png")
    assert not reader.read(reader.info.box).any()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_info_prints_what_was_understood_for_people_and_as_json(cli, tmp_path):
    path = geotiff(tmp_path / "map.tif", [SCALE, TIE, keys(*UTM), (42113, 2, 0, "0", True)])
    text = cli("info", path)
    assert text.code == 0
    for line in (
        "48 x 64 px",
        "uint16, 16 bit",
        "EPSG:32633",
        "nodata:          where samples are 0: kept as it is, not restored",
        "by windows, nothing is staged",
    ):
        assert line in text.out
    found = json.loads(cli("info", path, "--json").out)
    assert (found["height"], found["width"], found["bands"], found["staged"]) == (48, 64, 1, False)
    assert found["bounds"] == pytest.approx([499_980.0, 3_999_100.0, 500_620.0, 4_000_060.0])


def test_info_of_a_stack_names_all_options_and_ends_with_2(cli, tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif",
        np.zeros((3, 4, 2, 48, 64), np.uint16),
        imagej=True,
        metadata={"axes": "TZCYX"},
    )
    ended = cli("info", tmp_path / "in.tif")
    assert ended.code == 2
    options = "holds 4 frames along z and 3 frames along t; "
    options += "choose one with --z 0 to --z 3 and --t 0 to --t 2"
    assert ended.complaint == f"{tmp_path / 'in.tif'}: {options}"


def test_many_tie_points_leave_an_image_without_its_place_and_say_so(tmp_path):
    points = np.arange(6 * 210, dtype=float).tolist()
    path = geotiff(tmp_path / "swath.tif", [(33922, 12, len(points), points, True), keys(*UTM)])
    info = inspect(path)
    assert info.geo is None
    assert any("ground control points" in note for note in info.notes)


def test_a_container_of_overviews_is_refused_by_the_place_of_its_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "slide.VSI", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(FormatError, match=r"_slide_/stack\*/frame_t.ets; convert it"):
        inspect(tmp_path / "slide.VSI")
