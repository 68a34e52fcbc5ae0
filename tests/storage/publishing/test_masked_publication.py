"""A masked image that is published by steps, any of which may be the last before a crash."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from storage.image_metadata import ImageMetadata
from storage.publishing.publish import plan_levels
from storage.publishing.pyramid_writer import UNFINISHED, Publication, is_published, unpublish
from storage.readers.reader_registry import open_image
from storage.zarr_format import ome_metadata

PIXELS = np.random.default_rng(3).integers(1, 255, (2, 300, 200)).astype("uint8")
VALID = PIXELS > 40


def writer_of(out):
    levels = plan_levels(PIXELS.shape, "uint8", chunk=64, shard=128)
    writer = Publication(out, tuple(levels), masked=True)
    return writer, writer.group(name="i", metadata=ImageMetadata(mask="mask"), attributes={})


def publish(out, *, finish=True):
    """Publish what is missing."""
    writer, group = writer_of(out)
    writer.begin(group)
    with ThreadPoolExecutor(2) as pool:
        for row, col in writer.levels[0].places():
            if not writer.has(0, row, col):
                rows, columns = writer.levels[0].box(row, col).slices()
                part = (slice(None), rows, columns)
                writer.write(row, col, PIXELS[part], pool, valid=VALID[part])
                writer.climb(row, col, pool)
        writer.complete(pool)
    if finish:
        writer.finish(group)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, published_files):
    out = tmp_path_factory.mktemp("whole") / "out.zarr"
    publish(out)
    return published_files(out)


def lose_a_shard(out):
    (out / UNFINISHED / "0" / "c" / "0" / "1" / "0").unlink()


def lose_a_coarse_shard(out):
    (out / UNFINISHED / "1" / "c" / "0" / "0" / "0").unlink()


def finish_the_validity(out):
    writer, group = writer_of(out)
    writer.validity.finish(ome_metadata.member(group, "validity"))


def move_a_level(out):
    finish_the_validity(out)
    (out / UNFINISHED / "0").rename(out / "0")


def lose_the_last_word(out):
    writer, group = writer_of(out)
    writer.finish(group)
    (out / "zarr.json").unlink()


CRASHES = (
    lambda out: None,
    lose_a_shard,
    lose_a_coarse_shard,
    finish_the_validity,
    move_a_level,
    lose_the_last_word,
)


@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.__name__)
def test_publishing_again_after_a_crash_gives_the_same_bytes(
    tmp_path, whole, published_files, crash
):
    out = tmp_path / "out.zarr"
    publish(out, finish=False)
    crash(out)
    assert not is_published(out)
    publish(out)
    assert published_files(out) == whole
    reader = open_image(out)
    assert np.array_equal(reader.read_valid(reader.info.box)[1], VALID)


def test_unpublishing_takes_the_validity_along_and_leaves_other_folders(tmp_path):
    out = tmp_path / "out.zarr"
    publish(out)
    (out / "notes").mkdir()
    unpublish(out)
    assert [path.name for path in out.iterdir()] == ["notes"]
    shutil.rmtree(out)
    (out / "validity").mkdir(parents=True)
    (out / "validity" / "mine.txt").write_text("not a publication")
    unpublish(out)
    assert (out / "validity" / "mine.txt").exists()
