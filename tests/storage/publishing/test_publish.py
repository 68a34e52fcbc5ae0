"""Publishing: sharded OME-Zarr 0.5 with a pyramid, deterministic, in bounded memory, never half an
image.
"""

import json
import signal
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.box import Box
from storage.errors import DamagedError, FormatError
from storage.image_metadata import ImageMetadata
from storage.publishing.publish import is_published, plan_levels, publish, unpublish
from storage.readers.reader_registry import inspect, open_image
from storage.zarr_format.downsample import halve
from tests.places import ROOT

SMALL = {"chunk": 16, "shard": 32}


def noise(channels, height, width, dtype="uint8", seed=5):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, (channels, height, width), dtype, endpoint=True)


def publish_array(pixels, dest, **options):
    channels, height, width = pixels.shape
    size = {"height": height, "width": width, "channels": channels, "dtype": pixels.dtype}
    return publish(lambda box: pixels[(slice(None), *box.slices())], dest, **(size | options))


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["uint8", "uint16"]),
    st.integers(1, 3),
    st.integers(1, 150),
    st.integers(1, 150),
)
@pytest.mark.slow
def test_every_level_is_read_by_zarr_python_and_is_the_mean_of_the_one_below(
    tmp_path_factory, dtype, channels, height, width
):
    pixels = noise(channels, height, width, dtype)
    dest = tmp_path_factory.mktemp("publish") / "out"
    levels = publish_array(pixels, dest, **SMALL)
    group = zarr.open_group(dest, mode="r")
    expected = pixels
    for number, level in enumerate(levels):
        array = group[str(number)]
        assert (array.shape, array.dtype, array.chunks) == (expected.shape, dtype, (1, 16, 16))
        assert array.shards == (channels, *level.shard)
        assert array.metadata.dimension_names == ("c", "y", "x")
        assert np.array_equal(array[:], expected)
        expected = halve(expected)
    assert max(levels[-1].shape[1:]) <= 16
    assert len(levels) == 1 or max(levels[-2].shape[1:]) > 16


def test_the_default_geometry_is_clamped_for_small_images():
    small = plan_levels((3, 700, 300), "uint8")
    large = plan_levels((3, 9000, 4097), "uint16")
    assert [level.shape for level in small] == [(3, 700, 300), (3, 350, 150)]
    assert [level.shard for level in small] == [(1024, 512), (512, 512)]
    assert [level.shape[1:] for level in large] == [
        (9000, 4097),
        (4500, 2049),
        (2250, 1025),
        (1125, 513),
        (563, 257),
        (282, 129),
    ]
    assert [level.grid for level in large] == [(5, 3), (3, 2), (2, 1), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_metadata_is_valid_ome_zarr(tmp_path, channels):
    from ome_zarr_models.v05 import Image

    pixels = noise(channels, 90, 70, "uint16")
    attributes = {"gigarestore": {"seed": 3}}
    metadata = ImageMetadata(pixel_size=(0.5, 0.25))
    publish_array(
        pixels, tmp_path / "out", metadata=metadata, name="slide", attributes=attributes, **SMALL
    )
    attrs = Image.from_zarr(zarr.open_group(tmp_path / "out", mode="r")).ome_attributes
    scales = attrs.multiscales[0]
    assert (attrs.version, scales.name, scales.type) == ("0.5", "slide", "mean")
    assert [(axis.name, axis.type) for axis in scales.axes] == [
        ("c", "channel"),
        ("y", "space"),
        ("x", "space"),
    ]
    assert [axis.unit for axis in scales.axes] == [None, "micrometer", "micrometer"]
    placed = [
        [t.model_dump(exclude_none=True) for t in d.coordinateTransformations]
        for d in scales.datasets
    ]
    assert placed[0][0]["scale"] == [1, 0.5, 0.25]
    assert placed[2][0]["scale"] == [1, 2, 1]
    assert placed[2][1]["translation"] == [0, 0.75, 0.375]  # base * (2^l - 1) / 2
    labels = ["Grey"] if channels == 1 else ["Red", "Green", "Blue"]
    assert [channel["label"] for channel in attrs.omero["channels"]] == labels
    assert all(
        c["window"] == {"min": 0, "max": 65535, "start": 0, "end": 65535}
        for c in attrs.omero["channels"]
    )
    assert zarr.open_group(tmp_path / "out", mode="r").attrs["gigarestore"] == {"seed": 3}


def test_a_private_folder_beside_the_levels_disturbs_no_reader(tmp_path):
    from ome_zarr_models.v05 import Image

    state = tmp_path / "out/.gigarestore/work"
    state.mkdir(parents=True)
    (state.parent / "journal").write_text("private")
    publish_array(noise(3, 40, 40), tmp_path / "out", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(tmp_path / "out", mode="r")
        assert sorted(name for name, _ in group.members(max_depth=None)) == ["0", "1", "2"]
        Image.from_zarr(group)
    assert (state.parent / "journal").read_text() == "private"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".gigarestore",
        "0",
        "1",
        "2",
        "zarr.json",
    ]


def test_a_published_image_is_read_back_by_level(tmp_path):
    pixels = noise(3, 100, 80)
    publish_array(
        pixels,
        tmp_path / "out",
        metadata=ImageMetadata(pixel_size=(0.5, 0.5), icc=b"profile"),
        **SMALL,
    )
    info = inspect(tmp_path / "out")
    assert (info.format, info.shape, info.dtype, info.lazy) == (
        "OME-Zarr",
        (3, 100, 80),
        "uint8",
        True,
    )
    assert (info.icc, info.pixel_size) == (b"profile", (0.5, 0.5))
    for level, expected in enumerate([pixels, halve(pixels)]):
        reader = open_image(tmp_path / "out", level=level)
        assert reader.info.pixel_size == (0.5 * 2**level, 0.5 * 2**level)
        box = Box(7, 9, 45, 33)
        assert np.array_equal(reader.read(box), expected[(slice(None), *box.slices())])
    with pytest.raises(FormatError, match=r"no level 9; the pyramid has levels 0\.\.3"):
        open_image(tmp_path / "out", level=9)


def test_the_same_pixels_give_the_same_bytes(tmp_path):
    pixels = noise(3, 90, 130, "uint16")
    publish_array(pixels, tmp_path / "a", threads=1, **SMALL)
    publish_array(pixels.copy(order="F"), tmp_path / "b", threads=4, **SMALL)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_the_source_is_asked_once_for_every_shard_in_squares_of_neighbours(tmp_path):
    pixels = noise(1, 70, 70)
    asked = []
    reports = []

    def source(box):
        asked.append(box)
        return pixels[(slice(None), *box.slices())]

    publish(
        source,
        tmp_path / "out",
        height=70,
        width=70,
        channels=1,
        dtype="uint8",
        progress=lambda *r: reports.append(r),
        **SMALL,
    )
    assert asked[:4] == [
        Box(0, 0, 32, 32),
        Box(0, 32, 32, 64),
        Box(32, 0, 64, 32),
        Box(32, 32, 64, 64),
    ]
    assert len(asked) == len(set(asked)) == 9
    assert reports == [(n + 1, 15) for n in range(15)]


@pytest.mark.parametrize("held", [0, 1024, 2048, 1 << 20])
def test_levels_made_of_what_is_in_memory_are_those_made_of_the_files(tmp_path, monkeypatch, held):
    pixels = noise(1, 150, 130)
    publish_array(pixels, tmp_path / "reference", **SMALL)
    monkeypatch.setattr("storage.publishing.publish._HELD_BYTES", held)
    publish_array(pixels, tmp_path / "out", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "reference")


def test_black_shards_are_stored_and_a_lost_or_damaged_one_is_an_error(tmp_path):
    publish_array(np.zeros((1, 64, 64), np.uint8), tmp_path / "out", **SMALL)
    reader = open_image(tmp_path / "out")
    assert not reader.read(reader.info.box).any()
    path = tmp_path / "out/0/c/0/1/0"
    data = bytearray(path.read_bytes())
    data[3] ^= 64
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="cannot be decoded"):
        reader.read(reader.info.box)
    path.unlink()
    with pytest.raises(DamagedError, match="missing from the array"):
        reader.read(reader.info.box)


def test_publishing_needs_memory_for_shards_and_not_for_the_image(tmp_path):
    row = np.random.default_rng(0).integers(0, 256, (3, 1, 2048), np.uint8)

    def source(box):
        return np.repeat(row[:, :, box.x0 : box.x1], box.height, axis=1)

    tracemalloc.start()
    publish(
        source,
        tmp_path / "out",
        height=2048,
        width=2048,
        channels=3,
        dtype="uint8",
        chunk=128,
        shard=256,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20  # the image is 12 MiB, a shard 0.2


def test_an_image_is_not_published_over_another_unless_asked(tmp_path):
    first = noise(1, 40, 40, seed=1)
    second = noise(1, 20, 20, seed=2)
    publish_array(first, tmp_path / "out", **SMALL)
    with pytest.raises(FormatError, match="holds a published image already"):
        publish_array(second, tmp_path / "out", **SMALL)
    publish_array(second, tmp_path / "out", overwrite=True, **SMALL)
    publish_array(second, tmp_path / "fresh", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")
    unpublish(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_folders_that_no_publish_wrote_are_never_deleted(tmp_path):
    (tmp_path / "out/2023").mkdir(parents=True)
    (tmp_path / "out/2023/photo.jpg").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(FormatError, match="numbered entries that no publish wrote"):
            publish_array(noise(1, 8, 8), tmp_path / "out", overwrite=overwrite, **SMALL)
    assert (tmp_path / "out/2023/photo.jpg").read_text() == "precious"


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 0, 5), {}, "sizes must be positive"),
        ((1, 5, 5), {"chunk": 15, "shard": 30}, "the chunk even"),
        ((1, 5, 5), {"chunk": 16, "shard": 40}, "the shard a multiple"),
    ],
)
def test_sizes_that_cannot_be_published_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        plan_levels(shape, "uint8", **options)
    with pytest.raises(ValueError, match="dtype float64 is not supported"):
        plan_levels((1, 5, 5), "float64")


def test_a_source_of_another_shape_or_dtype_is_refused(tmp_path):
    for wrong in (np.zeros((1, 8, 9), np.uint8), np.zeros((1, 8, 8), np.float32)):
        with pytest.raises(ValueError, match=r"expected \(1, 8, 8\) uint8"):
            publish(
                lambda box, wrong=wrong: wrong,
                tmp_path / "out",
                height=8,
                width=8,
                channels=1,
                dtype="uint8",
            )
    assert not is_published(tmp_path / "out")


PUBLISHER = """
import sys, time, numpy as np
from storage.publishing.publish import publish

def progress(done, total):
    print(done, total, flush=True)
    if done == total and sys.argv[2] == "wait":  # whoever kills may be slower than who publishes
        time.sleep(60)

pixels = np.random.default_rng(5).integers(0, 255, (3, 300, 300), "uint8", endpoint=True)
publish(lambda box: pixels[(slice(None), *box.slices())], sys.argv[1], height=300, width=300,
        channels=3, dtype="uint8", chunk=32, shard=64, progress=progress)
"""


@pytest.mark.slow
def test_kill_9_leaves_no_image_and_publishing_again_gives_the_same_bytes(tmp_path):
    publish_array(noise(3, 300, 300), tmp_path / "reference", chunk=32, shard=64)
    total = sum(
        level.grid[0] * level.grid[1]
        for level in plan_levels((3, 300, 300), "uint8", chunk=32, shard=64)
    )
    command = [sys.executable, "-c", PUBLISHER, str(tmp_path / "out")]
    for shards in (3, 30, total - 1):
        last = "go on" if shards == total - 1 else "wait"
        with subprocess.Popen([*command, last], cwd=ROOT, stdout=subprocess.PIPE) as run:
            for _ in range(shards):
                run.stdout.readline()
            run.send_signal(signal.SIGKILL)
        if not is_published(tmp_path / "out"):  # the last kill may come too late
            with pytest.raises(FormatError, match=r"without zarr\.json"):
                inspect(tmp_path / "out")
        assert shards == total - 1 or not is_published(tmp_path / "out")
    publish_array(noise(3, 300, 300), tmp_path / "out", overwrite=True, chunk=32, shard=64)
    assert tree(tmp_path / "out") == tree(tmp_path / "reference")


def test_levels_without_the_group_metadata_are_published_again(tmp_path):
    pixels = noise(1, 100, 100)
    publish_array(pixels, tmp_path / "reference", **SMALL)
    publish_array(pixels[:, :70], tmp_path / "out", **SMALL)
    (tmp_path / "out/zarr.json").unlink()  # what a kill between the last two renames leaves
    publish_array(pixels, tmp_path / "out", **SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "reference")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "0.4"}, "OME-Zarr version '0.4'"),
        ({"multiscales": []}, "without an OME-Zarr image"),
        ({"multiscales": [{"axes": [], "datasets": []}]}, "metadata is incomplete"),
    ],
)
def test_a_zarr_group_of_another_kind_is_refused(tmp_path, change, message):
    publish_array(noise(1, 8, 8), tmp_path / "out", **SMALL)
    document = json.loads((tmp_path / "out/zarr.json").read_text())
    document["attributes"]["ome"] |= change
    (tmp_path / "out/zarr.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=message) as error:
        inspect(tmp_path / "out")
    assert "\n" not in str(error.value)
