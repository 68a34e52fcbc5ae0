"""Whole restorations of the tasks beyond cells and masks, through the command's own options, and
what they refuse.
"""

import sys

import numpy as np
import pytest
import tifffile

from cluster.cli import _run
from kernels.operators import stencil as blur
from orchestrator.errors import PlanError
from orchestrator.job.fields.blur import read_blur
from orchestrator.job.fields.tolerance import tolerance
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.registry import TASKS
from orchestrator.planning.fingerprint import fingerprint
from orchestrator.planning.resolve import plan_job
from orchestrator.run.verify import verify_run

QUICK = ["--executor", "serial", "-q", "--steps", "2", "--tile", "32"]
HEIGHT = 52
WIDTH = 45


@pytest.fixture
def clean(tmp_path, make_picture, write_picture):
    def make(dtype="uint8", height=HEIGHT, width=WIDTH, channels=3):
        pixels = make_picture(height, width, channels, dtype)
        return pixels, write_picture(tmp_path / f"clean-{dtype}-{channels}.png", pixels)

    return make


def command(*arguments):
    assert _run([str(a) for a in arguments]) == 0


def there_and_back(clean_path, measured, *task, restore=None, quick=QUICK):
    """Degrade, restore and verify; return the run's folder and what was found."""
    out = measured.with_suffix(".out.zarr")
    command("degrade", clean_path, measured, *task)
    command("restore", measured, out, *(task if restore is None else restore), *quick)
    return out, verify_run(out)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "task",
    [
        ["deblur", "--blur", "uniform:5"],
        ["deblur", "--blur", "gaussian:10:5"],
        ["deblur", "--blur", "anisotropic:20,1:5"],
        ["sr", "--scale", "2", "--kernel", "bicubic"],
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_measurements_that_overlap_hold_across_all_tiles(clean, tmp_path, dtype, task):
    _, path = clean(dtype, 76, 69)
    quick = [*QUICK[:-1], "48", "--stride", "16", "--margin", "16"]
    _, found = there_and_back(path, tmp_path / "measured.png", "--task", *task, quick=quick)
    assert found.complete
    assert found.consistent, found.consistency
    assert found.consistency.cells > 500
    assert found.limit <= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [["deblur", "--blur", "gaussian:1"], ["sr", "--scale", "2", "--kernel", "bicubic"]],
    ids=" ".join,
)
def test_overlapping_measurements_hold_beside_black_and_white_too(
    task, tmp_path, make_picture, write_picture
):
    """No value is set apart, and cutting pixels off would have moved many by more."""
    pixels = make_picture(64, 72).astype(float)
    pixels = np.clip((pixels - pixels.mean()) * 3 + 128, 0, 255).astype(np.uint8)
    assert ((pixels == 0) | (pixels == 255)).mean() > 0.1
    path = write_picture(tmp_path / "clean.png", pixels)
    quick = [*QUICK[:-1], "48"]
    _, found = there_and_back(path, tmp_path / "measured.png", "--task", *task, quick=quick)
    assert found.consistency.clipped == 0
    assert found.consistency.beside > 100
    assert found.consistency.max < 0.8
    assert found.passed


@pytest.mark.slow
def test_a_kernel_file_that_is_no_product_deblurs(clean, tmp_path, published_pixels):
    weights = np.array([[0, 1, 2], [1, 20, 1], [2, 1, 0]]) / 28
    np.save(tmp_path / "kernel.npy", weights)
    pixels, path = clean()
    task = ["--task", "deblur", "--blur", tmp_path / "kernel.npy"]
    out, found = there_and_back(path, tmp_path / "measured.png", *task)
    (tmp_path / "kernel.npy").unlink()  # the run keeps the kernel itself
    assert found.passed
    assert verify_run(out).passed
    error = np.abs(published_pixels(out)[:, 4:-4, 4:-4].astype(int) - pixels[:, 4:-4, 4:-4]).mean()
    assert error < 3


@pytest.mark.parametrize("channels", [1, 3])
def test_compressed_sensing_restores_any_size_from_a_file_that_says_everything(
    clean, tmp_path, channels, published_pixels
):
    pixels, path = clean(channels=channels)
    task = ["--task", "cs", "--ratio", "0.5", "--block", "16", "--seed", "5"]
    out, found = there_and_back(path, tmp_path / "measured.zarr", *task, restore=["--task", "cs"])
    assert published_pixels(out).shape == pixels.shape
    assert found.passed
    assert found.consistency.cells > 0
    assert found.limit < 2


@pytest.mark.parametrize(
    "task",
    [["deblur", "--blur", "uniform:3"], ["cs", "--ratio", "0.3", "--block", "8"]],
    ids=" ".join,
)
@pytest.mark.slow
def test_noisy_measurements_are_not_forced(clean, tmp_path, task):
    _, path = clean()
    measured = tmp_path / ("measured.zarr" if task[0] == "cs" else "measured.png")
    restore = ["--task", "cs"] if task[0] == "cs" else ["--task", *task]
    _, found = there_and_back(
        path,
        measured,
        "--task",
        *task,
        "--sigma",
        "8",
        restore=[*restore, "--sigma", "8"],
        quick=[*QUICK, "--steps", "12"],
    )
    assert found.passed
    assert 2 < found.consistency.rms < 16


@pytest.mark.slow
def test_outpainting_keeps_the_input_bit_for_bit(clean, tmp_path, published_pixels):
    pixels, path = clean()
    pad = ["--task", "outpaint", "--pad", "3,7,0,12"]
    out = tmp_path / "out.zarr"
    command("restore", path, out, *pad, *QUICK)
    found = published_pixels(out)
    assert found.shape == (3, HEIGHT + 3, WIDTH + 19)
    assert np.array_equal(found[:, 3:, 12:-7], pixels)
    assert verify_run(out).passed
    cut = tmp_path / "cut.png"
    command("degrade", path, cut, *pad)
    assert (
        plan_job(
            JobSpec.build({"input": {"path": str(cut)}, "task": {"name": "denoise", "sigma": 1}})
        ).height
        == 49
    )


def test_a_value_marks_unknown_pixels(clean, tmp_path, write_picture, published_pixels):
    pixels, _ = clean()
    pixels[:, 10:20, 10:20] = 0
    path = write_picture(tmp_path / "holes.png", pixels)
    command("restore", path, tmp_path / "out.zarr", "--task", "inpaint", "--nodata", "0", *QUICK)
    found = published_pixels(tmp_path / "out.zarr")
    known = np.ones((HEIGHT, WIDTH), bool)
    known[10:20, 10:20] = False
    assert np.array_equal(found[:, known], pixels[:, known])
    assert found[:, ~known].min() > 0
    assert verify_run(tmp_path / "out.zarr").passed


@pytest.mark.slow
def test_an_old_photograph_takes_a_mask_of_either_size(clean, tmp_path, write_picture):
    _, path = clean(height=48, width=56)
    rng = np.random.default_rng(1)
    for name, shape in (("fine", (48, 56)), ("coarse", (24, 28))):
        known = (rng.random((1, *shape)) < 0.7).astype(np.uint8) * 255
        known[:, 4:10, 4:10] = 0
        mask = write_picture(tmp_path / f"{name}.png", known)
        task = ["--task", "inpaint+colorize+sr", "--scale", "2", "--mask", mask]
        _out, found = there_and_back(path, tmp_path / f"old-{name}.png", *task)
        assert found.passed, name
        assert found.consistency.cells > 300


OWN = '''
import torch
class Thirds:
    """Means of 3 x 3 px of the negative."""
    scale = 3
    alignment = 3
    def __init__(self, gain=1.0):
        self.gain = gain
    def A(self, x):
        return -torch.nn.functional.avg_pool2d(x, 3)
    def pinv(self, y):
        return -self.gain * y.repeat_interleave(3, 2).repeat_interleave(3, 3)
'''


def test_an_operator_of_ones_own_restores_and_a_wrong_one_is_refused_by_its_law(
    clean, tmp_path, monkeypatch, capsys
):
    (tmp_path / "my_operators.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _, path = clean(height=54, width=48)
    task = ["--operator", "my_operators:Thirds"]
    quick = [*QUICK[:-1], "48"]
    _, found = there_and_back(path, tmp_path / "measured.png", *task, quick=quick)
    assert found.passed
    assert found.consistency.cells > 500
    capsys.readouterr()
    wrong = [*task, "--operator-arg", "gain=0.5"]
    assert (
        _run(["restore", str(tmp_path / "measured.png"), str(tmp_path / "x.zarr"), *wrong, *quick])
        == 2
    )
    line = capsys.readouterr().err
    assert "breaks A A+ A = A: relative error 0.5" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "x.zarr").exists()
    assert _run(["restore", str(path), str(tmp_path / "x.zarr"), "--operator", "none_such:X"]) == 2
    sys.modules.pop("my_operators")


def plan_of(task, *, size=(60, 70), tiling=None, **other):
    return plan_job(
        JobSpec.build(
            {
                "input": {"size": size, **other.pop("input", {})},
                "task": task,
                "tiling": tiling or {},
            }
        )
    )


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ({"name": "deblur"}, {}, "needs --blur"),
        ({"name": "deblur", "blur": "uniform:4"}, {}, "odd"),
        ({"name": "deblur", "blur": "gaussian:-1"}, {}, "above 0"),
        ({"name": "deblur", "blur": "motion:3"}, {}, "no known blur"),
        (
            {"name": "deblur", "blur": "uniform:9"},
            {"tiling": {"tile": 16}},
            "too large for tiles of 16 px; choose --tile",
        ),
        (
            {"name": "deblur", "blur": "uniform:9"},
            {"tiling": {"margin": 4}},
            "choose --margin 8 or more",
        ),
        ({"name": "deblur", "blur": "uniform:3"}, {"tiling": {"levels": 2}}, "choose --levels 1"),
        ({"name": "sr", "scale": 4, "blur": "uniform:3"}, {}, "takes no --blur; use --task deblur"),
        ({"name": "denoise", "sigma": 3, "kernel": "bicubic"}, {}, "takes no --kernel bicubic"),
        ({"name": "cs"}, {}, "--ratio"),
        ({"name": "cs", "ratio": 0.25, "block": 12}, {}, "power of two"),
        ({"name": "outpaint"}, {}, "needs --pad"),
        ({"name": "outpaint"}, {"input": {"pad": (0, 0, 0, 0)}}, "leaves nothing to invent"),
        ({"name": "denoise", "sigma": 1}, {"input": {"nodata": 3}}, "takes no --nodata"),
        ({"name": "operator"}, {}, "needs --operator"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_anything_runs(task, options, said):
    with pytest.raises(PlanError) as refused:
        plan_of(task, **options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("values", [{"ratio": 0.0}, {"ratio": 1.5}, {"sigma": -1}])
def test_values_out_of_range_are_refused_by_name(values):
    with pytest.raises(PlanError, match=next(iter(values))):
        JobSpec.build({"task": {"name": "cs", **values}})


def test_a_kernel_that_does_not_sum_to_one_is_refused_with_what_to_do(tmp_path, write_picture):
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    with pytest.raises(PlanError, match="sums to 9 instead of 1; divide it by its sum"):
        read_blur(str(tmp_path / "k.npy"))
    np.savetxt(tmp_path / "k.txt", np.full((3, 5), 1 / 15))
    assert read_blur(str(tmp_path / "k.txt")).taps == (3, 5)
    image = write_picture(
        tmp_path / "k.png", np.full((1, 3, 3), 40, np.uint8)
    )  # an image has no unit
    assert np.allclose(read_blur(str(image)).weights, 1 / 9)


def test_a_mask_of_another_size_is_refused_with_both_sizes(clean, tmp_path, write_picture):
    _, path = clean()
    mask = write_picture(tmp_path / "mask.png", np.ones((1, 20, 20), np.uint8))
    values = {
        "input": {"path": str(path), "mask": str(mask)},
        "task": {"name": "inpaint+colorize+sr", "scale": 2},
    }
    with pytest.raises(
        PlanError, match=r"20x20 px and the input 52x45; .* or the output's, 104x90"
    ):
        plan_job(JobSpec.build(values))


@pytest.mark.parametrize(
    ("name", "scale", "levels"),
    [("deblur", 1, 1), ("cs", 32, 1), ("operator", 3, 1), ("sr", 4, 2), ("outpaint", 1, 3)],
)
def test_tasks_whose_pooled_measurement_says_nothing_have_one_level(name, scale, levels):
    task = TASKS[name](scale=scale)
    assert task.deepest(1000, 1000, 256) + 1 == levels
    if levels == 1:
        assert task.posed(2) is None


def test_coarser_levels_of_a_bicubic_measurement_are_posed_as_averages():
    plan = plan_of({"name": "sr", "scale": 8, "kernel": "bicubic"}, size=(256, 256))
    assert [level.posed.scale for level in plan.levels] == [8, 4, 2]
    rng = np.random.default_rng(0)
    x = np.add.outer(np.sin(np.arange(128) / 9), np.cos(np.arange(128) / 7))[None] + rng.normal(
        0, 0.02, (1, 128, 128)
    )
    y = blur.bicubic(8).measure(x)
    start, stop = blur.bicubic(8).inside(0, 0, 128)
    pooled = x.reshape(1, 16, 8, 16, 8).mean(axis=(2, 4))[:, start:stop, start:stop]
    assert (
        np.sqrt(np.mean((y - pooled) ** 2)) < 0.1 * x.std()
    )  # what the guide of a coarser level is off by


@pytest.mark.parametrize(
    ("dtype", "kernel", "wanted"),
    [
        ("uint8", blur.gaussian(3), 0.45),
        ("uint16", blur.gaussian(3), 0.45),
        ("uint16", blur.uniform(9), 0.3),
    ],
)
def test_the_tolerance_of_a_blur_leaves_room_for_storing(dtype, kernel, wanted):
    assert tolerance(kernel, dtype) == pytest.approx(wanted, abs=0.12)
    assert 0 < tolerance(blur.bicubic(2), dtype) <= 0.15 <= tolerance(blur.uniform(3), dtype)


def test_every_new_parameter_is_in_the_fingerprint():
    marks = [
        fingerprint(plan_of({"name": "deblur", "blur": name}))
        for name in ("uniform:3", "uniform:5")
    ]
    assert marks[0]["task.weights"] != marks[1]["task.weights"]
    pads = [
        fingerprint(plan_of({"name": "outpaint"}, input={"pad": pad}))
        for pad in ((1, 0, 0, 0), (0, 1, 0, 0))
    ]
    assert pads[0]["input.pad"] != pads[1]["input.pad"]


@pytest.mark.parametrize(
    "task",
    [
        {"name": "deblur", "blur": "gaussian:1.5"},
        {"name": "cs", "ratio": 0.25},
        {"name": "sr", "scale": 4, "kernel": "bicubic"},
    ],
    ids=str,
)
def test_a_resolved_job_resolves_to_itself(task):
    resolved = plan_of(task).spec
    assert plan_job(resolved).spec == resolved
    assert plan_job(JobSpec.from_toml(resolved.to_toml())).spec == resolved


def plan_error(capsys, *arguments):
    assert _run(["plan", *map(str, arguments)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_a_method_that_cannot_restore_a_measurement_is_refused_before_the_run(
    clean, tmp_path, monkeypatch, capsys
):
    (tmp_path / "particular_operators.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _, path = clean(height=54, width=48)
    _, grey = clean(height=54, width=48, channels=1)
    own = ["--operator", "particular_operators:Thirds"]
    assert "singular values" in plan_error(capsys, path, *own, "--method", "ddrm")
    assert "measures 3 of the 3 channels" in plan_error(capsys, grey, *own)
    known = np.full((54, 48), 255, np.uint8)
    known[10:20, 10:20] = 0
    tifffile.imwrite(tmp_path / "known.tif", known)
    mask = ["--task", "inpaint", "--mask", tmp_path / "known.tif", "--grey-as", "mean"]
    assert "restores masked pixels only" in plan_error(capsys, grey, *mask, "--method", "repaint")
    assert _run(["plan", str(grey), *map(str, mask[:-2]), "--method", "repaint"]) == 0
    assert _run(["plan", str(path), *own, "--method", "dps"]) == 0
