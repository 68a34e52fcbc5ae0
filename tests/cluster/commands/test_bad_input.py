"""Bad input through the command line: exit 2, one clear line, nothing at OUT. Also what looks bad
and is not.
"""

import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning.estimate import disk_bytes
from orchestrator.planning.resolve import plan_job
from orchestrator.run.prepare import check_disk
from orchestrator.run_folder import RunDir

QUICK = ["--scale", "4", "--tile", "32", "--steps", "1", "--executor", "serial", "--quiet"]


@pytest.fixture
def refused(cli, tmp_path):
    """Run a command that must be refused as bad input; return its one line. Nothing may appear at
    OUT.
    """

    def run(*arguments):
        ended = cli(*arguments)
        assert ended.code == 2, ended
        assert "Traceback" not in ended.err
        assert not (tmp_path / "out").exists(), "something was left behind"
        return ended.complaint

    return run


def png_chunk(name, payload):
    return (
        struct.pack(">I", len(payload))
        + name
        + payload
        + struct.pack(">I", zlib.crc32(name + payload))
    )


def empty_png():
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 7, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


def test_a_missing_file_is_refused(refused, tmp_path):
    assert "no such file" in refused("restore", tmp_path / "none.png", tmp_path / "out", *QUICK)


@pytest.mark.parametrize(
    "content", [b"", b"hello, world", b"\0" * 100, b"GIF89a....", b"<html></html>"]
)
def test_what_is_not_an_image_is_refused(content, refused, tmp_path):
    path = tmp_path / "in.png"
    path.write_bytes(content)
    line = refused("restore", path, tmp_path / "out", *QUICK)
    assert str(path) in line


def test_a_folder_without_an_image_is_refused(refused, tmp_path):
    (tmp_path / "photos").mkdir()
    assert "zarr.json" in refused("restore", tmp_path / "photos", tmp_path / "out", *QUICK)


TIFFS = {
    "strips.tif": {},
    "tiles.tif": {"tile": (16, 16)},
    "deflate.tif": {"compression": "deflate", "rowsperstrip": 8},
}


@pytest.mark.parametrize("name", ["whole.png", "whole.jpg", *TIFFS])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused(name, share, refused, tmp_path, make_picture, write_picture):
    path = write_picture(tmp_path / name, make_picture(40, 50), **TIFFS.get(name, {}))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(len(whole) * share))])
    assert str(path) in refused("restore", path, tmp_path / "out", *QUICK)


def test_an_image_damaged_where_only_decoding_shows_it_is_refused_and_leaves_nothing(
    refused, tmp_path, make_picture, write_picture
):
    path = write_picture(tmp_path / "in.png", make_picture(40, 50))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    assert "fails its CRC" in refused("restore", path, tmp_path / "out", *QUICK)


def test_an_image_of_zero_size_is_refused(refused, tmp_path):
    path = tmp_path / "in.png"
    path.write_bytes(empty_png())
    assert "at least 1 x 1" in refused("restore", path, tmp_path / "out", *QUICK)


def test_an_image_smaller_than_a_tile_works(
    cli, tmp_path, make_picture, write_picture, published_pixels
):
    path = write_picture(tmp_path / "in.png", make_picture(3, 5))
    ended = cli("restore", path, tmp_path / "out", *QUICK)
    assert (ended.code, ended.err) == (0, "")
    assert published_pixels(tmp_path / "out").shape == (3, 12, 20)


@pytest.mark.parametrize("scale", [3, 5, 6, 7])
def test_a_scale_that_does_not_fit_the_tile_is_refused_with_tiles_that_do(
    scale, refused, cli, small, tmp_path
):
    options = ["--steps", "1", "--executor", "serial", "--quiet", "--levels", "1"]
    line = refused("restore", small, tmp_path / "out", "--scale", scale, "--tile", 64, *options)
    assert "tile 64 does not fit scale" in line
    for tile in map(int, line.rpartition("choose ")[2].split(" or ")):
        assert cli("plan", small, "--scale", scale, "--tile", tile, "--levels", 1).code == 0


BAD_OPTIONS = [
    (["--task", "dehaze"], ["task.name", "deblur", "inpaint"]),
    (["--task", "denoise", "--sigma", "-1"], ["task.sigma", "-1"]),
    (["--task", "denoise", "--sigma", "loud"], ["--sigma", "'loud'", "percentage"]),
    (["--task", "denoise", "--sigma", "nan"], ["task.sigma"]),
    (["--task", "denoise"], ["--sigma above 0"]),
    (["--task", "inpaint"], ["--mask FILE"]),
    (["--task", "colorize", "--scale", "2"], ["has no scale"]),
    (["--scale", "1"], ["scale"]),
    (["--scale", "0"], ["task.scale", "0"]),
    (["--scale", "two"], ["--scale", "valid integer"]),
    (["--eta", "2"], ["sampling.eta", "2"]),
    (["--eta", "much"], ["--eta", "much", "ddpm"]),
    (["--steps", "0"], ["sampling.steps", "0"]),
    (["--steps", "-3"], ["sampling.steps", "-3"]),
    (["--steps", "1001"], ["sampling.steps", "1001"]),
    (["--start", "1000"], ["--start 1000", "999"]),
    (["--start", "0"], ["sampling.start", "0"]),
    (["--noise-scale", "2"], ["noise_scale", "2"]),
    (["--travel", "10"], ["--travel", "10,3"]),
    (["--travel", "0,3"], ["travel"]),
    (["--seed", "-1"], ["seed", "-1"]),
    (["--levels", "9"], ["--levels 9", "choose --levels 2"]),
    (["--levels", "0"], ["tiling.levels", "0"]),
    (["--tile", "31"], ["tile 31", "32"]),
    (["--tile", "4"], ["tiling.tile", "4"]),
    (["--tile", "32", "--stride", "32"], ["stride 32", "overlap"]),
    (["--tile", "32", "--stride", "18", "--levels", "1"], ["stride 18", "16 or 20"]),
    (["--tile", "32", "--stride", "16", "--margin", "12"], ["margin 12", "choose 8"]),
    (["--tile", "32", "--stride", "16", "--margin", "-4"], ["margin", "-4"]),
    (["--order", "spiral"], ["tiling.order", "spiral", "centre"]),
    (["--intent", "pretty"], ["intent", "pretty", "faithful"]),
    (["--form", "magic"], ["form", "magic", "posterior"]),
    (["--inverse", "smooth", "--sigma", "3"], ["smooth inverse", "noise-free"]),
    (["--executor", "dask"], ["executor", "dask", "serial"]),
    (["--workers", "0"], ["run.workers", "0"]),
    (["--batch", "0"], ["run.batch", "0"]),
    (["--denoiser", "stable-diffusion"], ["unknown denoiser", "guided-diffusion:PATH"]),
    (["--denoiser", "builtin:x"], ["takes no path"]),
    (["--denoiser", "guided-diffusion:"], ["names nothing"]),
    (["--size", "10x10", "--task", "generate"], ["takes no input image"]),
    (["--mask", "SMALL"], ["takes no --mask"]),
    (["--address", "127.0.0.1:1", "--executor", "ray"], ["no Ray cluster answers at 127.0.0.1:1"]),
    (["--no-such-option"], ["--no-such-option"]),
]


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS, ids=lambda value: " ".join(value))
def test_a_bad_option_is_refused_by_its_name(options, said, refused, small, tmp_path):
    given = [str(small) if option == "SMALL" else option for option in options]
    serial = [] if "--executor" in options else ["--executor", "serial"]
    line = refused("restore", small, tmp_path / "out", *given, *serial)
    assert all(part in line for part in said), line
    assert len(line) < 400


def test_a_command_that_is_not_one_is_refused(refused):
    assert "dance" in refused("dance")


def test_restore_without_a_word_is_refused(refused, small):
    assert "usage: gigarestore restore IN OUT" in refused("restore")
    assert "no output named" in refused("restore", small, "--scale", 4)
    assert "no input named" in refused("restore", "--scale", 4)


def test_a_size_that_is_none_is_refused(refused, tmp_path):
    for size in ("10", "0x10", "10x-3", "big", "10 x 10"):
        assert "size" in refused("restore", tmp_path / "out", "--task", "generate", "--size", size)
    assert "--size HEIGHTxWIDTH" in refused("restore", tmp_path / "out", "--task", "generate")


def test_a_mask_of_another_size_is_refused(refused, small, tmp_path, make_picture, write_picture):
    mask = write_picture(tmp_path / "mask.png", make_picture(19, 24, channels=1))
    line = refused("restore", small, tmp_path / "out", "--task", "inpaint", "--mask", mask)
    assert "19x24" in line
    assert "20x24" in line
    missing = refused(
        "restore", small, tmp_path / "out", "--task", "inpaint", "--mask", tmp_path / "none.png"
    )
    assert "none.png: no such file" in missing


def test_pixels_of_another_kind_are_refused(refused, tmp_path):
    import tifffile

    for dtype in (np.float32, np.int16, np.uint32):
        path = tmp_path / f"{np.dtype(dtype).name}.tif"
        tifffile.imwrite(path, np.zeros((20, 24), dtype))
        whole = ("--range", "full")  # which only unsigned samples have
        assert str(path) in refused("restore", path, tmp_path / "out", *QUICK, *whole)


class Bomb:
    """What a hostile checkpoint would hold: unpickling it calls a function."""

    def __reduce__(self):
        return Path.touch, (Path("bomb-went-off"),)


def checkpoint_files(folder):
    """Write files that are no guided-diffusion checkpoint; name -> what must be said."""
    (folder / "text.pt").write_text("not weights")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "pickle.pt").write_bytes(pickle.dumps({"weights": Bomb()}))
    torch.save({"weights": Bomb()}, folder / "code.pt")
    torch.save({"conv.weight": torch.zeros(3, 3)}, folder / "other.pt")
    torch.save([1, 2, 3], folder / "list.pt")
    torch.save(
        {
            "time_embed.0.weight": torch.zeros(4, 9),
            "input_blocks.0.0.weight": torch.zeros(2, 3, 3, 3),
        },
        folder / "shapes.pt",
    )
    (folder / "half.safetensors").write_bytes(struct.pack("<Q", 10**6) + b"{")
    (folder / "folder.pt").mkdir()
    return [
        "text.pt",
        "empty.pt",
        "pickle.pt",
        "code.pt",
        "other.pt",
        "list.pt",
        "shapes.pt",
        "half.safetensors",
        "folder.pt",
    ]


@pytest.mark.parametrize("number", range(9))
def test_a_file_that_is_no_checkpoint_is_refused_and_its_code_does_not_run(
    number, refused, small, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = checkpoint_files(tmp_path)[number]
    denoiser = f"guided-diffusion:{tmp_path / name}"
    line = refused("restore", small, tmp_path / "out", *QUICK, "--denoiser", denoiser)
    assert name in line
    assert len(line) < 600
    assert not (tmp_path / "bomb-went-off").exists()


def test_a_missing_checkpoint_is_refused(refused, small, tmp_path):
    line = refused(
        "restore",
        small,
        tmp_path / "out",
        *QUICK,
        "--denoiser",
        f"guided-diffusion:{tmp_path / 'no.pt'}",
    )
    assert "no.pt" in line


@pytest.mark.slow
def test_an_output_that_exists_is_refused_and_both_ways_out_are_named(
    cli, small, tmp_path, published_files
):
    out = tmp_path / "out"
    assert cli("restore", small, out, *QUICK).code == 0
    before = published_files(out)
    again = cli("restore", small, out, *QUICK)
    assert again.code == 2
    assert "--overwrite" in again.complaint
    (RunDir(out).root / "zarr.json").rename(tmp_path / "kept.json")
    unfinished = cli("restore", small, out, *QUICK)
    assert unfinished.code == 2
    assert "--overwrite" in unfinished.complaint
    assert f"gigarestore resume {out}" in unfinished.complaint
    assert published_files(out) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_an_output_that_is_something_else_is_left_alone(overwrite, cli, small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("a file")
    for place in (out, file):
        ended = cli("restore", small, place, *QUICK, *overwrite)
        assert ended.code == 2
        assert "choose another OUT" in ended.complaint
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    assert file.read_text() == "a file"


def test_an_output_named_like_a_picture_is_refused_with_the_way_to_one(refused, small, tmp_path):
    line = refused("restore", small, tmp_path / "out.png", *QUICK)
    assert f"gigarestore export {tmp_path / 'out.zarr'} {tmp_path / 'out.png'}" in line
    assert not (tmp_path / "out.png").exists()


def test_an_output_folder_that_cannot_be_written_is_one_line(cli, small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "out", Path("/proc/gigarestore/out")):
        ended = cli("restore", small, place, *QUICK)
        assert ended.code in (1, 2)
        assert ended.complaint
        assert not place.exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path):
    size = {"size": (2_000_000, 2_000_000), "bands": 3, "dtype": "uint8"}
    plan = plan_job(JobSpec.build({"input": size, "task": {"name": "sr", "scale": 4}}))
    with pytest.raises(
        PlanError, match=r"no disk space: .* needs about \d+\.\d GB and .* has"
    ) as refused:
        check_disk(RunDir(tmp_path / "a" / "b" / "out"), disk_bytes(plan))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "a").exists()
    check_disk(RunDir(tmp_path / "out"), 1000)


def test_no_disk_space_through_the_command_line(refused, tmp_path):
    line = refused(
        "restore", tmp_path / "out", "--task", "generate", "--size", "2000000x2000000", "--quiet"
    )
    assert line.startswith("no disk space: ")


CHANGES = [
    (["--steps", "3"], "sampling.steps"),
    (["--seed", "9"], "sampling.seed"),
    (["--eta", "0.3"], "sampling.eta"),
    (["--intent", "detail"], "sampling.intent"),
    (["--noise-scale", "0.5"], "sampling.noise_scale"),
    (["--travel", "2,2"], "sampling.travel"),
    (["--inverse", "replicate"], "sampling.inverse"),
    (["--start", "77"], "sampling.start"),
    (["--tile", "64"], "tiling.tile"),
    (["--stride", "16"], "tiling.stride"),
    (["--margin", "0"], "tiling.margin"),
    (["--levels", "1"], "tiling.levels"),
    (["--scale", "2"], "task.scale"),
    (["--sigma", "5"], "task.sigma"),
    (["--denoiser", "analytic:"], "denoiser"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small, job, serially):
    out = tmp_path_factory.mktemp("finished") / "out"
    serially(job(small, out, sampling={"intent": "faithful", "steps": 1}, tiling={"stride": None}))
    return out


@pytest.mark.parametrize(("options", "field"), CHANGES, ids=lambda value: str(value))
def test_resume_with_a_changed_option_is_refused_by_its_name_and_changes_nothing(
    options, field, finished, cli
):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    ended = cli("resume", finished, "--executor", "serial", *options)
    assert ended.code == 2
    name = field.rpartition(".")[2]
    assert (
        field in ended.complaint or f"--{name}" in ended.complaint or f"{name} " in ended.complaint
    )
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_resume_with_the_options_of_the_run_is_not_a_change(finished, cli):
    options = [
        "--steps",
        1,
        "--seed",
        0,
        "--tile",
        32,
        "--scale",
        4,
        "--executor",
        "serial",
        "--batch",
        2,
    ]
    assert cli("resume", finished, *options).code == 0


@pytest.mark.parametrize("command", ["resume", "status", "verify"])
def test_what_is_no_run_is_refused(command, cli, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "none", tmp_path / "empty"):
        ended = cli(command, place)
        assert ended.code == 2
        assert "gigarestore restore" in ended.complaint


def test_a_run_folder_with_a_damaged_job_is_refused(cli, finished, tmp_path):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    RunDir(copy).job.write_text("[task]\nname = 'dehaze'\n")
    for command in ("resume", "status", "verify"):
        ended = cli(command, copy)
        assert ended.code == 2
        assert "job.toml" in ended.complaint


def test_a_job_file_that_is_wrong_is_refused(refused, small, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text("[sampling]\nstep = 3\n")
    assert "did you mean 'steps'" in refused("restore", small, tmp_path / "out", "--job", job)
    assert "cannot read" in refused(
        "restore", small, tmp_path / "out", "--job", tmp_path / "none.toml"
    )


@pytest.mark.slow
def test_an_export_that_cannot_be_made_is_refused(cli, finished, small, tmp_path):
    for arguments, said in (
        ((finished, tmp_path / "a.bmp"), ".png"),
        ((finished, tmp_path / "no" / "a.png"), "does not exist"),
        ((finished, small), "exists already"),
        ((tmp_path / "none", tmp_path / "a.png"), "holds no published image"),
    ):
        ended = cli("export", *arguments)
        assert ended.code == 2
        assert said in ended.complaint
    assert not list(tmp_path.iterdir())
