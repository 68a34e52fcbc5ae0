"""Chunks: what zstd hardly makes smaller is stored so that it decodes fast; other zarr readers read
both kinds.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from numcodecs import zstd

from storage.box import Box
from storage.errors import DamagedError
from storage.publishing.publish import publish
from storage.zarr_format.chunk import decode_chunk, encode_chunk
from storage.zarr_format.published_image import PublishedImage

SIDE = 512
DTYPES = ("uint8", "uint16", "int16", "float32")


def noise(dtype, side=SIDE):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (side, side, np.dtype(dtype).itemsize), np.uint8)
    if dtype == "float32":
        return rng.random((side, side), np.float32)
    return raw.view(dtype)[..., 0]


def waves(dtype, side=SIDE):
    y, x = np.mgrid[:side, :side]
    return (60 * np.sin(x / 30) * np.cos(y / 40) + 60).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [noise, waves])
def test_a_chunk_comes_back_bit_for_bit(make, dtype):
    pixels = make(dtype)
    out = np.empty(pixels.shape, np.dtype(dtype).newbyteorder("<"))
    decode_chunk(encode_chunk(pixels, pixels.shape), out)
    assert np.array_equal(out, pixels)


def test_noise_grows_by_little_and_what_repeats_is_compressed():
    pixels = noise("uint8")
    assert len(encode_chunk(pixels, pixels.shape)) < 1.001 * pixels.nbytes
    pixels = waves("uint8")
    assert encode_chunk(pixels, pixels.shape) == zstd.compress(pixels, 1, True)
    assert len(encode_chunk(pixels, pixels.shape)) < pixels.nbytes / 3


def test_flat_parts_between_noise_are_compressed_all_the_same():
    pixels = noise("uint8")
    for stretch in range(4):  # flat but for the places that are looked at
        pixels[stretch * 128 + 8 : stretch * 128 + 128] = 7
    assert len(encode_chunk(pixels, pixels.shape)) < pixels.nbytes / 10


def test_bytes_that_are_no_chunk_are_refused():
    data = encode_chunk(noise("uint8"), (SIDE, SIDE))
    out = np.empty((SIDE, SIDE), np.uint8)
    flipped = bytearray(data)
    flipped[5000] ^= 1
    for bad in (b"", data[:-1], bytes(flipped), b"x" * 100):
        with pytest.raises(ValueError, match=r"."):
            decode_chunk(bad, out)
    for shape in ((SIDE, SIDE - 1), (SIDE, SIDE + 1)):
        with pytest.raises(ValueError, match=r"."):
            decode_chunk(data, np.empty(shape, np.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zarr_and_the_own_reader_read_a_level_of_both_kinds_of_chunks(tmp_path, dtype):
    pixels = np.stack([np.concatenate([make(dtype, 700) for make in (noise, waves)], axis=1)] * 2)
    publish(
        lambda box: pixels[(slice(None), *box.slices())],
        tmp_path / "out",
        height=700,
        width=1400,
        channels=2,
        dtype=dtype,
        shard=1024,
    )
    assert np.array_equal(zarr.open_array(tmp_path / "out" / "0", mode="r")[:], pixels)
    image = PublishedImage.open(tmp_path / "out")
    for box in (image.levels[0].box(0, 0), image.levels[0].box(0, 1)):
        assert np.array_equal(image.read(0, box), pixels[(slice(None), *box.slices())])
        assert np.array_equal(image.read(0, box, 1), pixels[(slice(1, 2), *box.slices())])


def small_chunks(folder):
    """Publish two bands of noise, 200 x 300 px, in chunks of 64 px and shards of 128 px; return the
    pixels too.
    """
    pixels = np.random.default_rng(1).integers(0, 1 << 16, (2, 200, 300), np.uint16)
    publish(
        lambda box: pixels[(slice(None), *box.slices())],
        folder,
        height=200,
        width=300,
        channels=2,
        dtype="uint16",
        chunk=64,
        shard=128,
    )
    return PublishedImage.open(folder), pixels


def test_windows_across_chunks_and_shards_are_read_whole_and_band_by_band_in_several_threads(
    tmp_path,
):
    image, pixels = small_chunks(tmp_path / "out")
    rng = np.random.default_rng(2)
    corners = [
        (*sorted(rng.integers(0, 201, 2)), *sorted(rng.integers(0, 301, 2))) for _ in range(60)
    ]
    boxes = [
        Box(int(y0), int(x0), int(y1), int(x1)) for y0, y1, x0, x1 in corners if y0 < y1 and x0 < x1
    ]

    def equal(box):
        expected = pixels[(slice(None), *box.slices())]
        bands = np.stack([band.copy() for band in image.bands(0, box)])
        second = [band.copy() for band in image.bands(0, box, 1)]
        return all(
            np.array_equal(found, expected) for found in (image.read(0, box), bands)
        ) and np.array_equal(second, expected[1:])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(equal, [Box(0, 0, 200, 300), Box(64, 64, 128, 128), *boxes]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
            r"chunk \(0, 0, 0\) is damaged",
        ),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "index of the shard fails its checksum"),
        (lambda data: data[: len(data) // 2], "index of the shard fails its checksum"),
        (lambda data: b"", "index of the shard fails its checksum"),
        (lambda data: None, "missing from the array"),
    ],
)
def test_a_lost_or_damaged_shard_is_named_and_the_others_are_read(tmp_path, damage, message):
    image, pixels = small_chunks(tmp_path / "out")
    path = tmp_path / "out/0/c/0/1/1"
    data = damage(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DamagedError, match=f"c/0/1/1: .*{message}"):
        image.read(0, Box(0, 0, 200, 300))
    with pytest.raises(DamagedError, match=f"c/0/1/1: .*{message}"):
        list(image.bands(0, Box(130, 130, 140, 140)))
    assert np.array_equal(image.read(0, Box(0, 0, 200, 128)), pixels[:, :, :128])
