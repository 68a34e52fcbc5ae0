from pathlib import Path

import numpy as np
import pytest

from kernels.training import synthetic as synth
from kernels.training.sample_cache import Collection, ImagePool
from kernels.training.synthetic_shapes import fill
from kernels.training.synthetic_textures import blur


@pytest.mark.parametrize("index", range(8))
def test_an_image_is_a_function_of_seed_and_index(index: int) -> None:
    image = synth.draw(3, index, 64)
    assert image.shape == (3, 64, 64)
    assert image.dtype == np.uint8
    assert np.array_equal(image, synth.draw(3, index, 64))


def test_seeds_and_indices_give_different_images() -> None:
    images = [synth.draw(seed, index, 48) for seed in (0, 1) for index in (0, 1)]
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.slow
def test_images_are_not_flat_and_fill_the_range() -> None:
    images = np.stack([synth.draw(0, index, 64) for index in range(24)]).astype(float)
    assert np.quantile(images.std((1, 2, 3)), 0.2) > 5
    assert images.min() < 10
    assert images.max() > 245


@pytest.mark.slow
def test_the_spectrum_falls_with_frequency_as_that_of_photographs() -> None:
    power = np.zeros((96, 96))
    for index in range(24):
        grey = synth.draw(1, index, 96).mean(0) / 255
        power += (
            np.abs(np.fft.fft2((grey - grey.mean()) * np.hanning(96)[:, None] * np.hanning(96)))
            ** 2
        )
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    low = power[(f > 0.03) & (f < 0.06)].mean()
    high = power[(f > 0.24) & (f < 0.48)].mean()
    # Photographs have power about 1/f^2, here three octaves apart: a factor of 64.
    assert 10 < low / high < 1000


def test_a_filled_polygon_has_its_area_and_place() -> None:
    labels = np.zeros((40, 50), np.int32)
    fill(labels, np.array([[10.0, 5.0], [30.0, 5.0], [30.0, 25.0], [10.0, 25.0]]), 7)
    expected = np.zeros_like(labels)
    expected[5:25, 10:30] = 7
    assert np.array_equal(labels, expected)


def test_a_polygon_is_clipped_at_the_border_and_may_lie_outside() -> None:
    labels = np.zeros((20, 20), np.int32)
    fill(labels, np.array([[-10.0, -10.0], [5.0, -10.0], [5.0, 30.0], [-10.0, 30.0]]), 1)
    fill(labels, np.array([[40.0, 40.0], [50.0, 40.0], [45.0, 50.0]]), 2)
    assert labels[:, :5].all()
    assert not labels[:, 5:].any()


def test_a_disc_has_the_area_of_a_disc() -> None:
    phi = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    labels = np.zeros((100, 100), np.int32)
    fill(labels, np.stack([50 + 30 * np.cos(phi), 50 + 30 * np.sin(phi)], 1), 1)
    assert labels.sum() == pytest.approx(np.pi * 900, rel=0.01)


def test_blur_keeps_a_constant_and_the_mean() -> None:
    image = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)
    assert np.allclose(blur(np.ones_like(image), 2.0), 1, atol=1e-5)
    assert blur(image, 2.0).mean() == pytest.approx(image.mean(), abs=0.01)
    assert blur(image, 2.0).std() < 0.4 * image.std()


def collection(directory: Path, **changes: int) -> Collection:
    sizes = {"seed": 5, "side": 48, "shard_images": 2, "shards": 3} | changes
    return Collection(directory=directory, **sizes)


def test_crops_do_not_depend_on_who_drew_the_images(tmp_path: Path) -> None:
    inline = collection(tmp_path / "inline")
    drawn = collection(tmp_path / "drawn")
    with ImagePool(inline) as a, ImagePool(drawn, drawers=1) as b:
        for visible in (1, 2, 3, 9):
            one, other = (pool.crop(np.random.default_rng(visible), visible, 16) for pool in (a, b))
            assert one.shape == (3, 16, 16)
            assert np.array_equal(one, other)


def test_only_visible_shards_are_drawn_and_no_partial_file_stays(tmp_path: Path) -> None:
    images = collection(tmp_path)
    with ImagePool(images) as pool:
        for seed in range(8):
            pool.crop(np.random.default_rng(seed), 2, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        images.path(0).name,
        images.path(1).name,
    ]


def test_held_out_images_are_in_no_shard(tmp_path: Path) -> None:
    images = collection(tmp_path)
    for shard in range(images.shards):
        images.draw(shard)
    drawn = {image.tobytes() for shard in range(3) for image in np.load(images.path(shard))}
    assert len(drawn) == 6
    assert images.held_out(0).tobytes() not in drawn
