"""Fixed jobs whose published pixels must not change: their inputs, made by integer arithmetic, and
what stands after `restore`.
"""

import hashlib
from pathlib import Path

import numpy as np

SERIAL = ("--executor", "serial", "--quiet")
QUICK = ("--tile", 32, "--stride", 16, "--steps", 2, *SERIAL)
EIGHT = ("--tile", 32, "--stride", 24, "--steps", 3, *SERIAL)


def blocks(height, width, bands, top, seed=0):
    """Return (H, W, C) integers in 5 % to 95 % of `top`: random blocks of 7 px on a ramp, smoothed
    twice by integers.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    cells = rng.integers(0, 1001, (height // 7 + 2, width // 7 + 2, bands))
    values = np.repeat(np.repeat(cells, 7, 0), 7, 1)[: height + 2, : width + 2]
    for _ in range(2):
        padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
        rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        values = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) // 16
    ramp = np.arange(width + 2)[None, :, None] * 200 // width
    fine = rng.integers(-20, 21, values.shape)
    return (np.clip(values * 3 // 4 + ramp + fine, 50, 950) * top // 1000)[:height, :width]


def write_inputs(folder):
    """Write the jobs' inputs into a folder."""
    import tifffile

    def tiff(name, array):
        photometric = "rgb" if array.ndim == 3 and array.shape[2] == 3 else "minisblack"
        planar = {"planarconfig": "contig"} if array.ndim == 3 and array.shape[2] != 3 else {}
        tifffile.imwrite(folder / name, array, photometric=photometric, **planar)

    tiff("rgb8.tif", blocks(26, 30, 3, 255).astype("uint8"))
    tiff("rgb8b.tif", blocks(64, 56, 3, 255, seed=1).astype("uint8"))
    tiff("grey8.tif", blocks(60, 70, 1, 255, seed=2).astype("uint8")[..., 0])
    tiff("grey16.tif", blocks(25, 23, 1, 65535, seed=3).astype("uint16")[..., 0])
    tiff("rgb16.tif", blocks(48, 48, 3, 65535, seed=4).astype("uint16"))
    tiff("bands5.tif", blocks(24, 28, 5, 65535, seed=5).astype("uint16"))
    tiff("float.tif", (blocks(40, 44, 3, 1 << 20, seed=6) / (1 << 20)).astype("float32"))
    mask = np.full((64, 56), 255, "uint8")
    mask[20:34, 14:40] = 0
    mask[::3, 1::2] = 0
    tiff("mask.tif", mask)


# Name -> the input, and what stands after it and the output.
JOBS = {
    "sr4": ("rgb8.tif", "--scale", 4, *QUICK),
    "sr4-starts-predicted": ("rgb8.tif", "--scale", 4, "--tile", 64, "--stride", 48, *SERIAL),
    "sr2-grey16": ("grey16.tif", "--scale", 2, "--start", 100, *EIGHT),
    "sr2-five-bands-single": ("bands5.tif", "--scale", 2, "--bands-as", "single", *QUICK),
    "sr3-five-bands": (
        *("bands5.tif", "--scale", 3),
        *("--tile", 48, "--stride", 24, "--steps", 2, *SERIAL),
    ),
    "sr-bicubic": (
        *("rgb8.tif", "--scale", 2, "--kernel", "bicubic"),
        *("--tile", 64, "--stride", 32, "--steps", 2, *SERIAL),
    ),
    "colorize-detail": ("grey8.tif", "--task", "colorize", "--intent", "detail", *EIGHT),
    "inpaint": ("rgb8b.tif", "--task", "inpaint", "--mask", "mask.tif", *EIGHT),
    "inpaint-repaint": (
        *("rgb8b.tif", "--task", "inpaint", "--mask", "mask.tif"),
        *("--method", "repaint", *QUICK),
    ),
    "denoise": (
        *("rgb8b.tif", "--task", "denoise", "--sigma", 20),
        *("--tile", 32, "--stride", 24, *SERIAL),
    ),
    "denoise-grey-detail": (
        *("grey8.tif", "--task", "denoise", "--sigma", "8%"),
        *("--intent", "detail", *EIGHT),
    ),
    "deblur-grey16": (
        *("rgb16.tif", "--task", "deblur", "--blur", "gaussian:1:5"),
        *("--tile", 48, "--stride", 24, "--steps", 2, *SERIAL),
    ),
    "float-range": ("float.tif", "--task", "sr", "--scale", 2, "--range", "0,1", *QUICK),
    "noisy-sr-ddrm": ("rgb8.tif", "--scale", 2, "--method", "ddrm", "--sigma", 5, *QUICK),
    "ilvr": ("rgb8.tif", "--scale", 4, "--method", "ilvr", *QUICK),
    "dps": ("grey16.tif", "--scale", 2, "--method", "dps", *QUICK),
    "pigdm": ("rgb8.tif", "--scale", 2, "--method", "pigdm", *QUICK),
    "paper": (
        *("rgb8.tif", "--scale", 2, "--intent", "paper", "--travel", "2,2"),
        *("--tile", 32, "--stride", 16, "--steps", 6, *SERIAL),
    ),
    "generate": (
        *("--task", "generate", "--size", "70x60", "--intent", "paper", "--seed", 5),
        *QUICK,
    ),
    "outpaint": ("rgb8b.tif", "--task", "outpaint", "--pad", "8,16,0,8", *EIGHT),
    "order-bridge": (
        *("rgb8b.tif", "--scale", 2, "--order", "bridge", "--order-block", 2),
        *QUICK,
    ),
    "region": ("rgb8b.tif", "--scale", 2, "--region", "32,32,80,80:analytic:", *QUICK),
}


def arguments(name, folder, out, rules):
    """Return what stands after `restore` for a job whose inputs lie in `folder`, under the pixel
    rules of that number.
    """
    whole = [str(folder / part) if str(part).endswith(".tif") else part for part in JOBS[name]]
    inputs = [] if name == "generate" else [whole.pop(0)]
    job = folder / f"rules-{rules}.toml"
    job.write_text(f"[sampling]\npixel_rules = {rules}\n")
    return [*inputs, out, *whole, "--job", job]


def rounding():
    """Return a short name of how this machine's processor and libraries round: machines of one name
    publish the same bytes.
    """
    import torch

    x = torch.from_numpy(blocks(40, 40, 16, 1000, seed=9).astype("float32") / 1000)
    x = x.permute(2, 0, 1)[None].contiguous()
    w = torch.from_numpy(blocks(9, 16, 24, 1000, seed=8).astype("float32") / 1000 - 0.5)
    w = w.permute(2, 1, 0).reshape(24, 16, 3, 3).contiguous()
    y = torch.nn.functional.silu(torch.nn.functional.conv2d(x, w, padding=1))
    y = torch.nn.functional.group_norm(y, 4)
    y = torch.einsum("bchw,bdhw->bcd", y, y).softmax(-1) @ y.flatten(2)
    return hashlib.sha256(y.numpy().tobytes()).hexdigest()[:16]


def published(out):
    """Return the published samples of a run, (C, H, W)."""
    import zarr

    return np.ascontiguousarray(zarr.open_array(str(Path(out) / "0"), mode="r")[:])
