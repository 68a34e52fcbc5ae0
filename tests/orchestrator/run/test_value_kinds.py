"""The tasks on the kinds of samples that users have: 16 bits in one band, 12 bits in three, floats
with gaps, four bands with gaps of their own. Each ends well, verifies, keeps its gaps, and is
closer to the truth than A+ y.

Colorization measures one grey value, so the grey tasks are given the mean of three bands; where the
kind has one band or four, the truth has three. A blur without noise has an inverse that is exact
but for rounding; what is to be beaten there is the blurred picture.
"""

import numpy as np
import pytest
import tifffile

SIDE = 48
SCALE = 2
NODATA = 0
SERIAL = ("--executor", "serial", "--quiet", "--tile", SIDE, "--steps", 5)
KINDS = ("uint16", "12-bit", "float-nan", "four-bands")
WHITE = {"uint16": 60000, "12-bit": 4095, "float-nan": 3.0, "four-bands": 10000}
"""Stored value of a bright sample."""
SIGMA = 0.06
"""Noise, share of that value."""


def scene(bands):
    """Return a picture in [0.1, 0.9], (bands, SIDE, SIDE): warm shapes on a slope, with texture."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = (y - 20) ** 2 + (x - 18) ** 2 < 150
    bar = np.abs(y - x - 14) < 5
    texture = 0.05 * np.sin(x / 1.7) * np.cos(y / 2.1)
    grey = 0.45 + 0.004 * (y - 24) + 0.25 * disc - 0.2 * bar + texture
    tint = np.array([1.08, 1.0, 0.92, 0.85])[:bands, None, None]
    return (grey * tint).clip(0.1, 0.9)


def truth(kind, bands=None):
    """Return stored samples of a kind, (bands, SIDE, SIDE) float64, without gaps."""
    usual = {"uint16": 1, "four-bands": 4}.get(kind, 3)
    return scene(bands or usual) * WHITE[kind]


def gaps(kind, shape):
    """Return which samples the kind has none of, each band its own place, aligned to cells."""
    empty = np.zeros(shape, bool)
    if kind in ("float-nan", "four-bands"):
        for band in range(len(empty)):
            first = 4 + (8 * band if kind == "four-bands" else 0)
            empty[band, 28:36, first : first + 6] = True
    return empty


def stored(kind, values, empty):
    """Return the samples as the kind stores them."""
    if kind == "float-nan":
        return np.where(empty, np.nan, values).astype("float32")
    return np.where(empty, NODATA, np.rint(values).clip(1, 65535)).astype("uint16")


def write(path, kind, values, empty):
    pixels = stored(kind, values, empty)
    rows = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    planar = {} if rows.ndim == 2 else {"planarconfig": "contig"}
    tags = [(42113, "s", 0, str(NODATA), True)] if kind == "four-bands" else []
    tifffile.imwrite(path, rows, photometric="minisblack", extratags=tags, **planar)
    return path


def pooled(values, scale=SCALE):
    c, h, w = values.shape
    return values.reshape(c, h // scale, scale, w // scale, scale).mean(axis=(2, 4))


def grown(values, scale=SCALE):
    return values.repeat(scale, axis=1).repeat(scale, axis=2)


def blurred(values):
    """Return what `--blur gaussian:1:5` measures, edges repeated."""
    bell = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    weights = bell / bell.sum()
    wide = np.pad(values, ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = sum(w * wide[:, i : i + SIDE] for i, w in enumerate(weights))
    return sum(w * rows[:, :, i : i + SIDE] for i, w in enumerate(weights))


FINE = np.random.default_rng(3).random((SIDE, SIDE)) < 0.6
COARSE = np.random.default_rng(4).random((SIDE // SCALE, SIDE // SCALE)) < 0.7


class Trial:
    """A task's measurement of a kind, how it is asked for, and A+ y."""

    options = ()
    mask = None
    grey = False
    scale = 1

    def measure(self, x, white):
        return x

    def least(self, y, white):
        """Return A+ y."""
        return y


class SuperResolution(Trial):
    options = ("--task", "sr", "--scale", SCALE)
    scale = SCALE

    def measure(self, x, white):
        return pooled(x)

    def least(self, y, white):
        return grown(y)


class Inpaint(Trial):
    options = ("--task", "inpaint")
    mask = FINE

    def least(self, y, white):
        return np.where(FINE, y, 0)


class Denoise(Trial):
    options = ("--task", "denoise", "--sigma", "auto")

    def measure(self, x, white):
        return x + np.random.default_rng(0).normal(0, SIGMA * white, x.shape)


class Deblur(Trial):
    options = ("--task", "deblur", "--blur", "gaussian:1:5")

    def measure(self, x, white):
        return blurred(x)


class Colorize(Trial):
    options = ("--task", "colorize")
    grey = True

    def measure(self, x, white):
        return x.mean(axis=0, keepdims=True)

    def least(self, y, white):
        return y.repeat(3, axis=0)


class SuperResolutionColorize(SuperResolution):
    options = ("--task", "sr+colorize", "--scale", SCALE)
    grey = True

    def measure(self, x, white):
        return pooled(x).mean(axis=0, keepdims=True)

    def least(self, y, white):
        return grown(y).repeat(3, axis=0)


class OldPhotograph(SuperResolutionColorize):
    options = ("--task", "inpaint+colorize+sr", "--scale", SCALE)
    mask = COARSE

    def least(self, y, white):
        return grown(np.where(COARSE, y, 0)).repeat(3, axis=0)


TRIALS = (
    *(SuperResolution, Inpaint, Denoise, Deblur),
    *(Colorize, SuperResolutionColorize, OldPhotograph),
)


def psnr(found, wanted, white):
    return 10 * np.log10(white**2 / np.mean((found - wanted) ** 2))


def pairs():
    """Return every task with every kind; those that share neither with the ones before are quick
    enough for every day.
    """
    for i, trial in enumerate(TRIALS):
        for j, kind in enumerate(KINDS):
            marks = [] if (i - j) % len(KINDS) == 0 else [pytest.mark.slow]
            yield pytest.param(trial, kind, marks=marks, id=f"{trial.__name__}-{kind}")


@pytest.mark.parametrize(("trial", "kind"), list(pairs()))
def test_a_task_on_a_kind_of_samples_verifies_and_beats_the_least(
    trial, kind, cli, published_pixels, tmp_path
):
    task = trial()
    white = WHITE[kind]
    wanted = truth(kind, 3 if task.grey else None)
    y = task.measure(wanted, white)
    empty = gaps(kind, y.shape)
    source = write(tmp_path / "in.tif", kind, y, empty)
    options = [*task.options]
    if task.mask is not None:
        tifffile.imwrite(tmp_path / "mask.tif", task.mask.astype("uint8") * 255)
        options += ["--mask", tmp_path / "mask.tif"]

    ended = cli("restore", source, tmp_path / "out.zarr", *options, *SERIAL)
    assert ended.code == 0, ended.err
    verified = cli("verify", tmp_path / "out.zarr")
    assert verified.code == 0, verified.out

    found = published_pixels(tmp_path / "out.zarr").astype(np.float64)
    assert found.shape == wanted.shape
    filled = np.zeros_like(empty) if task.mask is None else empty & ~task.mask
    lost = np.broadcast_to(grown(empty & ~filled, task.scale), wanted.shape)
    none = np.isnan(found) if kind == "float-nan" else found == NODATA
    assert np.array_equal(none, lost)
    measured = ~np.broadcast_to(grown(empty, task.scale), wanted.shape)
    least = task.least(y, white)
    assert psnr(found[measured], wanted[measured], white) > psnr(
        least[measured], wanted[measured], white
    )
