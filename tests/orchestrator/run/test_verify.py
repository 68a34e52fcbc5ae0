"""verify: agrees with what was published, and finds what was changed, lost or never finished."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small, job, serially):
    """A finished super-resolution x4 of 20x24 px."""
    out = tmp_path_factory.mktemp("finished") / "out"
    serially(job(small, out, sampling={"intent": "faithful"}))
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def change(root, where, by):
    array = zarr.open_array(str(root / "0"), mode="r+")
    array[where] = np.clip(array[where].astype(int) + by, 1, 254).astype(np.uint8)


@pytest.mark.slow
def test_a_published_image_passes(finished, cli):
    found = verify_run(finished)
    assert found.complete
    assert found.passed
    assert found.consistency.max <= 0.5 + 1e-9
    assert found.consistency.cells + found.consistency.clipped == 3 * 20 * 24
    assert found.seams.overall.lines > 0
    ended = cli("verify", finished)
    assert (ended.code, ended.err) == (0, "")
    assert "holds" in ended.out


def test_json_says_the_same(finished, cli):
    told = json.loads(cli("verify", finished, "--json").out)
    found = verify_run(finished)
    assert told["complete"] is True
    assert told["consistency"]["max"] == pytest.approx(found.consistency.max)
    assert told["seams"]["overall"]["ratio"] == pytest.approx(found.seams.overall.ratio)
    assert told["passed"] is True


def test_the_consistency_is_the_definition_itself(finished, published_pixels, make_picture):
    averages = published_pixels(finished).astype(float).reshape(3, 20, 4, 24, 4).mean(axis=(2, 4))
    error = np.abs(averages - make_picture(20, 24))
    found = verify_run(finished).consistency
    assert found.clipped == 0
    assert found.max == pytest.approx(error.max())
    assert found.rms == pytest.approx(np.sqrt((error**2).mean()))


@pytest.mark.parametrize(
    ("where", "by"),
    [
        (np.s_[:, :, :], 1),
        (np.s_[:, 40:44, 40:44], 40),
        (np.s_[1, 79, 95], 120),
        (np.s_[0, 0:4, 0:4], 2),
    ],
    ids=[
        "everything a little",
        "one cell",
        "one pixel in the last corner",
        "one channel of the first corner",
    ],
)
def test_a_change_of_the_published_pixels_is_found(where, by, copy, cli):
    change(copy, where, by)
    assert not verify_run(copy).consistent
    ended = cli("verify", copy)
    assert ended.code == 1
    assert "VIOLATED" in ended.out


def test_a_change_that_keeps_the_measurement_is_no_violation(copy):
    """Noise in the null space of the operator: consistency holds, which is all that the measurement
    can tell.
    """
    change(copy, np.s_[:, 40, 40], 5)
    change(copy, np.s_[:, 41, 41], -5)
    found = verify_run(copy)
    assert found.consistent


def test_a_visible_seam_raises_the_ratio(copy):
    before = verify_run(copy).seams.overall.ratio
    edge = load_edges(copy)
    for x in edge:
        change(copy, np.s_[:, :, x:], 12)
    assert verify_run(copy).seams.overall.ratio > 1.5 * before


def load_edges(root):
    from orchestrator.planning.resolve import load_plan

    axis = load_plan(RunDir(root)).levels[0].grid.cols
    return [axis.owned(i)[0] for i in range(1, axis.count)]


def stored_objects(root, level=0):
    return sorted(path for path in (root / str(level) / "c").rglob("*") if path.is_file())


def test_a_lost_shard_is_not_read_as_black(copy, cli):
    stored_objects(copy)[0].unlink()
    ended = cli("verify", copy)
    assert ended.code == 1
    assert "missing" in ended.complaint
    assert cli("export", copy, copy.parent / "a.png").code == 1
    assert not (copy.parent / "a.png").exists()


def test_a_damaged_shard_is_found(copy, cli):
    path = stored_objects(copy)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(bytes(data))
    ended = cli("verify", copy)
    assert ended.code == 1
    assert str(copy) in ended.complaint


@pytest.mark.slow
def test_a_lost_level_of_the_pyramid_is_found(
    make_picture, write_picture, job, serially, tmp_path, cli
):
    source = write_picture(tmp_path / "in.png", make_picture(140, 8))
    out = tmp_path / "out"
    serially(
        job(
            source,
            out,
            sampling={"intent": "faithful", "steps": 1},
            tiling={"levels": 1, "tile": 64, "stride": 32},
        )
    )
    assert (out / "1").exists()
    assert cli("verify", out).code == 0
    stored_objects(out, level=1)[0].unlink()
    ended = cli("verify", out)
    assert ended.code == 1
    assert "FAIL  complete" in ended.out


def test_an_image_of_another_shape_is_found(copy, cli):
    metadata = copy / "0" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("80,", "79,"))
    ended = cli("verify", copy)
    assert ended.code == 1
    assert "(3, 79, 96)" in ended.complaint


def test_a_run_that_is_not_finished_is_refused(small, job, serially, tmp_path, cli):
    def stop(event):
        if type(event).__name__ == "BatchCommitted":
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        serially(job(small, out), [stop])
    for command in (("verify", out), ("export", out, tmp_path / "a.png")):
        ended = cli(*command)
        assert ended.code == 2
        assert f"gigarestore resume {out}" in ended.complaint


@pytest.mark.slow
def test_the_input_may_go_once_it_was_staged_and_must_stay_where_it_was_not(
    make_picture, write_picture, job, serially, tmp_path, cli
):
    image = make_picture(20, 24)
    for name, kept, code in (("in.png", True, 0), ("in.tif", False, 2)):
        source = write_picture(tmp_path / name, image)
        out = tmp_path / f"{name}.zarr"
        serially(job(source, out, sampling={"intent": "faithful", "steps": 1}))
        assert RunDir(out).staged_input.exists() is kept
        source.unlink()
        ended = cli("verify", out)
        assert ended.code == code
        assert kept or "no such file" in ended.complaint
        assert cli("status", out).code == 0


@pytest.mark.slow
def test_a_changed_input_is_found(make_picture, write_picture, job, serially, tmp_path, cli):
    source = write_picture(tmp_path / "in.tif", make_picture(20, 24))
    serially(job(source, tmp_path / "out", sampling={"intent": "faithful", "steps": 1}))
    write_picture(source, make_picture(20, 24, seed=4))
    assert cli("verify", tmp_path / "out").code == 1


@pytest.mark.slow
@pytest.mark.parametrize("rules", [1, 2])
def test_an_image_of_black_and_white_alone_holds_only_where_it_is_right(
    rules, write_picture, job, serially, tmp_path, cli
):
    pixels = np.full((3, 8, 8), 255, np.uint8)
    pixels[:, :4] = 0
    out = tmp_path / "out"
    serially(
        job(
            write_picture(tmp_path / "in.tif", pixels),
            out,
            sampling={"intent": "faithful", "steps": 1, "pixel_rules": rules},
        )
    )
    # Under the first rules values with a clipped pixel are counted apart.
    cells = 0 if rules == 1 else pixels.size
    image = zarr.open_array(str(out / "0"), mode="r+")
    image[:] = pixels.repeat(4, axis=1).repeat(4, axis=2)
    found = verify_run(out)
    assert found.consistency.cells == cells
    assert found.passed
    image[0, 0, 0] = 255
    found = verify_run(out)
    assert found.consistency.cells == cells
    assert not found.passed
    ended = cli("verify", out)
    assert ended.code == 1
    assert ("NOT SHOWN" if rules == 1 else "VIOLATED") in ended.out
