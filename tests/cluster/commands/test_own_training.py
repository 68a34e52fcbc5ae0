"""`gigarestore train` on one's own images, and `evaluate` of what came of it."""

import itertools
import json
import os
import signal
import time
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cluster.training.training_images import Areas, open_training_images
from kernels.denoiser_info import BUILTIN_WEIGHTS
from kernels.denoisers.prior_metadata import read_metadata, read_record
from kernels.training import synthetic as synth
from kernels.training.command import CHECKPOINT
from kernels.training.near_duplicates import SIDE, from_text, share_pixels, to_text, window_hashes
from kernels.training.recipe import FINE_TUNING
from kernels.training.trainer import Trainer
from storage.export.small_image import write_image

# Small crops and few steps of the built-in network: a second or two.
SHORT = ("--batch", 2, "--crop", 16, "--seed", 3)


def scene(index, height=96, width=96):
    return synth.draw(9, 1_600_000_000 + index, max(height, width))[:, :height, :width]


@pytest.fixture
def scans(tmp_path, write_picture):
    """Three images of different format, size, bands and depth."""
    rgb = write_picture(tmp_path / "a.png", scene(0))
    deep = write_picture(
        tmp_path / "b.tif", scene(1, 80, 64).astype(np.uint16) * 257, tile=(16, 16)
    )
    grey = write_picture(tmp_path / "c.png", scene(2, 70, 90)[:1])
    return [rgb, deep, grey]


@pytest.mark.slow
def test_a_prior_is_trained_carded_and_restores(cli, scans, tmp_path):
    out = tmp_path / "own.safetensors"
    ended = cli("train", *scans, "--out", out, *SHORT, "--steps", 6, "--every", 3)
    assert ended.code == 0, ended.err
    assert "validation by image, 1 of 3" in ended.err
    assert "step 6 of 6" in ended.err
    metadata = read_metadata(out)
    seen = read_record(metadata, "seen")
    assert {image["name"] for image in seen["images"]} == {"a.png", "b.tif", "c.png"}
    assert read_record(metadata, "training")["data"] == [
        image["content"] for image in seen["images"]
    ]
    card = (tmp_path / "own.md").read_text()
    assert all(image["content"] in card for image in seen["images"])
    assert not (tmp_path / "own.safetensors.training").exists()
    small = ("--scale", 2, "--tile", 32, "--steps", 1, "--executor", "serial", "--quiet")
    assert (
        cli("restore", scans[0], tmp_path / "o.zarr", "--denoiser", f"prior:{out}", *small).code
        == 0
    )
    domain = json.loads((tmp_path / "o.zarr" / "zarr.json").read_text())["attributes"][
        "gigarestore"
    ]["domain"]
    assert domain["known"] == read_record(metadata, "domain")["mean"]


@pytest.mark.slow
def test_a_network_of_its_own_has_the_images_bands(cli, tmp_path):
    images = [tmp_path / "0.tif", tmp_path / "1.tif"]
    for i, path in enumerate(images):
        write_image(path, np.concatenate([scene(i), scene(i + 5)[:1]]))
    out = tmp_path / "four.safetensors"
    ended = cli(
        "train",
        *images,
        "--from-scratch",
        "--out",
        out,
        *SHORT,
        "--steps",
        2,
        "--every",
        2,
        "--quiet",
    )
    assert ended.code == 0, ended.err
    assert json.loads(read_metadata(out)["config"])["image_channels"] == 4
    assert ended.err == ""


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    cli, start_command, scans, tmp_path
):
    options = (*SHORT, "--steps", 25, "--every", 5, "--patience", 0)
    whole = tmp_path / "whole.safetensors"
    killed = tmp_path / "killed.safetensors"
    assert cli("train", *scans[:2], "--out", whole, *options).code == 0
    command = ("train", *scans[:2], "--out", killed, *options, "--checkpoint-seconds", 0)
    process = start_command(*command, cwd=tmp_path)
    wait_for(tmp_path / "killed.safetensors.training" / "checkpoint.pt", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not killed.exists()
    again = cli(*command)
    assert again.code == 0, again.err
    assert "resuming at step" in again.err
    ours = load_file(killed)
    theirs = load_file(whole)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_other_images_do_not_continue_a_training(cli, scans, tmp_path):
    work = tmp_path / "own.safetensors.training"
    work.mkdir()
    short = (*SHORT, "--steps", 1, "--every", 1, "--quiet", "--out", tmp_path / "own.safetensors")
    Trainer(FINE_TUNING).save(work / CHECKPOINT)
    ended = cli("train", *scans[:2], *short)
    assert ended.code == 2
    assert "was trained with another" in ended.complaint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "p.safetensors"], "no images named"),
        (["a.png", "--out", "p.bin"], "choose --out p.safetensors"),
        (["a.png", "--preset", "smoke"], "leave IMAGES or --preset out"),
        (["--preset", "vast"], "unknown preset 'vast'"),
        (["missing.png"], "missing.png: no such file"),
        (["a.png", "a.png"], "is the same image"),
        (["a.png", "--crop", 20], "--crop 20 is not a multiple of 8"),
        (["a.png", "c.png", "--from-scratch"], "have 1 and 3 bands"),
        (["a.png", "--from-scratch", "--init", "p"], "leave it or --init out"),
        (["a.png", "--range", "5"], "--range '5' is no range"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    cli, scans, tmp_path, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    ended = cli("train", *options)
    assert ended.code == 2
    assert said in ended.complaint
    assert not list(tmp_path.glob("*.safetensors"))


def flat_images(tmp_path, write_picture, levels, side=40):
    return [
        write_picture(tmp_path / f"{n}.png", np.full((3, side, side), n, np.uint8)) for n in levels
    ]


@given(st.integers(0, 2**31), st.integers(2, 9))
@settings(max_examples=10, deadline=None)
@pytest.mark.slow
def test_no_crop_for_training_comes_from_a_validation_image(
    tmp_path_factory, write_picture, seed, count
):
    folder = tmp_path_factory.mktemp("split")
    images = open_training_images(
        flat_images(folder, write_picture, range(count)), folder, seed, 3, None
    )
    rng = np.random.default_rng(seed)

    def levels(areas):
        return {round(float(areas.crop(rng, 1, 8).mean() + 1) * 127.5) for _ in range(40)}

    assert not levels(images.train) & levels(images.validation)
    assert len(images.validation.areas) == max(1, round(0.2 * count))


@pytest.mark.parametrize(("height", "width"), [(100, 80), (60, 90)])
def test_a_single_image_is_split_into_disjoint_areas(tmp_path, write_picture, height, width):
    path = write_picture(tmp_path / "one.png", scene(3, height, width))
    images = open_training_images([path], tmp_path, 0, 3, None)
    (train,), (held,) = images.train.areas, images.validation.areas
    assert train.box.intersect(held.box).empty
    assert train.box.area + held.box.area == height * width
    assert "disjoint areas" in images.split


@pytest.mark.slow
def test_crops_are_read_by_windows_whatever_the_size(tmp_path, write_picture):
    class Recorded:
        """The image's own reader, which notes what was asked of it."""

        def __init__(self, reader):
            self.reader = reader
            self.info = reader.info
            self.largest = 0

        def read_valid(self, box):
            self.largest = max(self.largest, box.area)
            return self.reader.read_valid(box)

    path = write_picture(
        tmp_path / "large.tif", np.tile(scene(4, 256, 256), (1, 4, 4)), tile=(64, 64)
    )
    (area,) = open_training_images([path], tmp_path, 0, 3, None).train.areas
    reader = Recorded(area.picture.reader)
    source = Areas([replace(area, picture=replace(area.picture, reader=reader))])
    crops = [source.crop(np.random.default_rng(i), 1, 16) for i in range(60)]
    assert {crop.shape for crop in crops} == {(3, 16, 16)}
    assert 0 < reader.largest <= 32 * 32


def test_samples_without_data_teach_nothing(tmp_path):
    """What lies under an alpha of 0 is white; crops hold what is near instead."""
    pixels = scene(6, 96, 96)
    pixels = (pixels * 0.6).astype(pixels.dtype)
    valid = np.ones((96, 96), bool)
    valid[20:70, 30:60] = False
    pixels[:, ~valid] = 255
    alpha = (valid * 255).astype("uint8")
    path = tmp_path / "in.png"
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(np.dstack([*pixels, alpha]))))
    images = open_training_images([path], tmp_path, 0, 3, None)
    crops = [images.train.crop(np.random.default_rng(i), 1, 32) for i in range(30)]
    assert max(float(crop.max()) for crop in crops) < 0.6


def test_an_area_smaller_than_a_crop_is_continued(tmp_path, write_picture):
    path = write_picture(tmp_path / "tiny.png", scene(5, 80, 20))
    source = open_training_images([path], tmp_path, 0, 3, None).validation
    assert source.crop(np.random.default_rng(0), 1, 64).shape == (3, 64, 64)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=15, deadline=None)
def test_a_crop_shares_window_hashes_with_its_original_and_other_pictures_do_not(y, x):
    rng = np.random.default_rng(0)
    original = rng.integers(0, 256, (3, 260, 260)).astype(np.uint8)
    other = rng.integers(0, 256, (3, 260, 260)).astype(np.uint8)
    crop = window_hashes(original[:, y : y + 190, x : x + 190])
    assert set(crop.tolist()) <= set(window_hashes(original).tolist())
    assert share_pixels(crop, window_hashes(original)) == (len(crop) >= 3)
    assert not share_pixels(crop, window_hashes(other))


def test_window_hashes_do_not_depend_on_how_a_picture_is_cut_and_flat_ones_have_none():
    picture = np.random.default_rng(1).integers(0, 65536, (1, 200, 300)).astype(np.uint16)
    pieces = [
        window_hashes(picture[:, y : y + 100 + SIDE - 1, x : x + 100 + SIDE - 1])
        for y, x in itertools.product((0, 100), (0, 100, 200))
    ]
    assert np.array_equal(np.unique(np.concatenate(pieces)), window_hashes(picture))
    assert len(window_hashes(picture)) > 3
    assert len(window_hashes(np.full((3, 300, 300), 240, np.uint8))) == 0
    assert np.array_equal(from_text(to_text(window_hashes(picture))), window_hashes(picture))
    assert len(window_hashes(picture.astype(np.float32))) > 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_picture):
    """A prior trained (not much) on two images, and those."""
    from cluster.cli import _run

    folder = tmp_path_factory.mktemp("trained")
    images = [write_picture(folder / f"{i}.png", scene(20 + i, 256, 256)) for i in (0, 1)]
    out = folder / "p.safetensors"
    options = ["--out", out, *SHORT, "--steps", 1, "--every", 1, "--quiet"]
    assert _run([str(argument) for argument in ("train", *images, *options)]) == 0
    return out, images


@pytest.mark.slow
def test_an_evaluation_refuses_images_of_the_training(cli, trained, tmp_path, write_picture):
    prior, (first, second) = trained
    moved = tmp_path / "moved.bin"
    moved.write_bytes(first.read_bytes())
    part = write_picture(tmp_path / "part.tif", scene(21, 256, 256)[:, 20:230, 31:240])
    for image, said in ((moved, "is 0.png, on which"), (part, "shares pixels with")):
        ended = cli("evaluate", prior, "--images", image, "--out", tmp_path / "e")
        assert ended.code == 2
        assert said in ended.complaint
    assert not (tmp_path / "e").exists()
    assert second.exists()


@pytest.mark.slow
def test_an_evaluation_compares_and_says_what_is_known_of_the_training(
    cli, trained, tmp_path, write_picture
):
    prior, _ = trained
    images = [write_picture(tmp_path / f"test{i}.png", scene(30 + i, 64, 64)) for i in (0, 1)]
    out = tmp_path / "e"
    options = (
        "--out",
        out,
        "--beside",
        "builtin",
        "--seeds",
        2,
        "--trials",
        "sr2,denoise25,inpaint",
    )
    ended = cli("evaluate", prior, "--images", images[0], images[1], *options)
    assert ended.code == 0, ended.err
    document = json.loads((out / "evaluation.json").read_text())
    ours, builtin = document["priors"]
    assert "none of which shares" in document["priors"][ours]
    assert "synth" in document["priors"][builtin]
    rows = {(row["trial"], row["method"]): row for row in document["summary"]}
    assert rows["sr2", ours]["psnr"] > rows["sr2", "A+ y"]["psnr"]
    assert rows["sr2", ours]["consistency"] < 0.5 < rows["sr2", "bicubic"]["consistency"]
    assert rows["denoise25", ours]["psnr"] > rows["denoise25", "A+ y"]["psnr"] + 3
    assert rows["inpaint", ours]["consistency"] == 0
    assert rows["inpaint", ours]["psnr"] > rows["inpaint", "A+ y"]["psnr"] + 10
    assert rows["denoise25", ours]["seeds"] == 2
    assert rows["denoise25", ours]["psnr_seed_sd"] > 0
    assert rows["sr2", ours]["psnr_se"] > 0
    assert "| inpaint | neighbours |" in (out / "table.md").read_text()
    assert (out / "contact.png").stat().st_size > 1000
    assert not (out / "work").exists()
    again = cli("evaluate", prior, "--images", images[0], "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.complaint


def test_the_shipped_prior_says_what_it_knows():
    metadata = read_metadata(BUILTIN_WEIGHTS)
    assert read_record(metadata, "domain")["pictures"] >= 20
    assert len(read_record(metadata, "validation")["psnr"]) == 3
    assert "synth" in metadata["trained_on"]
