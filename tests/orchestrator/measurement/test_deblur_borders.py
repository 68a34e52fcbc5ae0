"""A x = y on the published image of every blur, wherever tiles meet, by the command that a user
would ask.
"""

import numpy as np
import pytest

from cluster.cli import _run
from orchestrator.job.fields.tolerance import limit
from orchestrator.planning.resolve import load_plan
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir

# Three tiles down and across at least, so that one is surrounded by eight others.
SIDES = (132, 127)


@pytest.fixture(scope="module")
def kernel_image(tmp_path_factory, write_picture):
    """Return a kernel of 5 x 5 px that is no product of two axes, as an image."""
    y, x = np.mgrid[-2:3, -2:3]
    weights = np.exp(-((y - x) ** 2) / 2.0 - (y + x) ** 2 / 6.0)
    return write_picture(
        tmp_path_factory.mktemp("kernel") / "kernel.png",
        np.rint(weights[None] * 255).astype(np.uint8),
    )


@pytest.mark.parametrize("dtype", ["uint8", pytest.param("uint16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("blur", ["uniform:9", "gaussian:1", "gaussian:2", "anisotropic:2,1"])
@pytest.mark.slow
def test_a_published_deblurring_measures_what_was_given(
    blur, dtype, tmp_path, make_picture, write_picture, capsys
):
    tiles = (
        ["--tile", "72", "--stride", "24"]
        if dtype == "uint16"
        else ["--tile", "64", "--stride", "32"]
    )
    check(tmp_path, write_picture, make_picture(*SIDES, 1, dtype), blur, tiles, capsys)


@pytest.mark.slow
def test_a_kernel_image_that_is_no_product_measures_what_was_given(
    kernel_image, tmp_path, make_picture, write_picture, capsys
):
    tiles = ["--tile", "48", "--stride", "32"]
    check(tmp_path, write_picture, make_picture(*SIDES, 1, "uint8"), kernel_image, tiles, capsys)


def check(folder, write_picture, pixels, blur, tiles, capsys):
    rng = np.random.default_rng(4)  # detail at every frequency, away from black and white
    top = np.iinfo(pixels.dtype).max
    noisy = (
        (0.6 * pixels + 0.2 * top + rng.normal(0, 0.01 * top, pixels.shape))
        .round()
        .astype(pixels.dtype)
    )
    clean = write_picture(folder / "clean.tif", noisy)
    task = ["--task", "deblur", "--blur", str(blur)]
    measured = str(folder / "measured.tif")
    out = str(folder / "out.zarr")
    assert _run(["degrade", str(clean), measured, *task]) == 0
    assert (
        _run(
            ["restore", measured, out, *task, "--executor", "serial", "-q", "--steps", "2", *tiles]
        )
        == 0
    )
    found = verify_run(folder / "out.zarr")
    plan = load_plan(RunDir.existing(folder / "out.zarr"))
    assert min(plan.levels[0].grid.rows.count, plan.levels[0].grid.cols.count) >= 3
    assert found.limit == limit(plan.task.stencil, plan.dtype, plan.values.levels) < 1
    assert found.consistency.cells > 5000
    assert found.consistency.max <= found.limit
    capsys.readouterr()
    assert _run(["verify", out]) == 0
