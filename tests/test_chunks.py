"""Chunks: what zstd hardly makes smaller is stored so that it decodes fast; other zarr readers read both kinds."""

import numpy as np
import pytest
import zarr
from numcodecs import zstd

from storage import chunks
from storage.publish import publish
from storage.published import PublishedImage

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
    chunks.decode(chunks.encode(pixels, pixels.shape), out)
    assert np.array_equal(out, pixels)


def test_noise_grows_by_little_and_what_repeats_is_compressed():
    pixels = noise("uint8")
    assert len(chunks.encode(pixels, pixels.shape)) < 1.001 * pixels.nbytes
    pixels = waves("uint8")
    assert chunks.encode(pixels, pixels.shape) == zstd.compress(pixels, 1, True)
    assert len(chunks.encode(pixels, pixels.shape)) < pixels.nbytes / 3


def test_flat_parts_between_noise_are_compressed_all_the_same():
    pixels = noise("uint8")
    for stretch in range(4):  # flat but for the places that are looked at
        pixels[stretch * 128 + 8 : stretch * 128 + 128] = 7
    assert len(chunks.encode(pixels, pixels.shape)) < pixels.nbytes / 10


def test_bytes_that_are_no_chunk_are_refused():
    data = chunks.encode(noise("uint8"), (SIDE, SIDE))
    out = np.empty((SIDE, SIDE), np.uint8)
    flipped = bytearray(data)
    flipped[5000] ^= 1
    for bad in (b"", data[:-1], bytes(flipped), b"x" * 100):
        with pytest.raises(ValueError, match=r"."):
            chunks.decode(bad, out)
    for shape in ((SIDE, SIDE - 1), (SIDE, SIDE + 1)):
        with pytest.raises(ValueError, match=r"."):
            chunks.decode(data, np.empty(shape, np.uint8))


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
