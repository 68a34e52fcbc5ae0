"""The demonstration: a real photograph reduced x4, restored on Ray, verified, and shown beside the
original.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.options.exit_codes import DONE, FAILED
from cluster.terminal.progress import ProgressView, duration
from kernels.metrics import psnr, ssim
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.run.drive import Outcome
from orchestrator.run.lifecycle import start
from orchestrator.run.verify import Verification, verify_run
from storage.box import Box
from storage.readers.reader_registry import open_image

Pixels = NDArray[np.uint8]

SCALE = 4
# The greatest seam ratio that still counts as seamless: 10 % above the picture's own differences.
SEAM_LIMIT = 1.10


def run_demo(out: Path, workers: int) -> int:
    """Run the whole product once; return 0 when the result beats bicubic, is consistent and has no
    seams, else 1.
    """
    began = time.perf_counter()
    original = _photograph()
    reduced = _reduce(original)
    out.mkdir(parents=True, exist_ok=True)
    _write_png(out / "input.png", reduced)
    outcome = _restore(out, workers)
    restored = open_image(outcome.root).read(Box(0, 0, *original.shape[1:])).astype(np.uint8)
    bicubic = _bicubic(reduced)
    picture = out / "comparison.png"
    _write_png(picture, _side_by_side([_nearest(reduced), bicubic, restored, original]))
    verification = verify_run(outcome.root)

    scores = {
        name: (psnr(pixels, original, 255), ssim(pixels, original, 255))
        for name, pixels in (("bicubic", bicubic), ("restored", restored))
    }
    _print_scores(outcome, original, scores, verification)
    whole = duration(time.perf_counter() - began)
    print(f"time: {duration(outcome.seconds)} for {outcome.tiles} tiles, {whole} in all")
    print(f"files: {picture} (input | bicubic | restored | original), {outcome.root} (OME-Zarr)")

    better = all(r > b for r, b in zip(scores["restored"], scores["bicubic"], strict=True))
    seamless = verification.seams.overall.ratio <= SEAM_LIMIT
    if better and verification.passed and seamless:
        return DONE
    print("the demo did not reach what it promises: see the figures above", file=sys.stderr)
    return FAILED


def _restore(out: Path, workers: int) -> Outcome:
    from orchestrator.ray_backend.executor import RayExecutor

    spec = JobSpec.build(
        {
            "input": {"path": str(out / "input.png")},
            "output": str(out / "restored.zarr"),
            "task": {"name": "sr", "scale": SCALE},
            "tiling": {"tile": 128},
            "run": {"executor": "ray", "workers": workers},
        }
    )
    with ProgressView() as progress:
        return start(spec, RayExecutor(workers), [progress], overwrite=True)


def _print_scores(
    outcome: Outcome,
    original: Pixels,
    scores: dict[str, tuple[float, float]],
    verification: Verification,
) -> None:
    """Print what was restored and how near it is: to the original, and to what was measured."""
    levels = ", ".join(
        f"level {level.index}: {level.grid.rows.count}x{level.grid.cols.count}"
        for level in outcome.plan.levels[::-1]
    )
    _, height, width = original.shape
    print(f"photograph {height}x{width} px, reduced x{SCALE} and restored; tiles {levels}")
    for name, (decibel, similarity) in scores.items():
        print(f"{name:9} PSNR {decibel:.2f} dB, SSIM {similarity:.4f}")

    consistency = verification.consistency
    assert consistency is not None, "super-resolution has a measurement"
    clipped = ""
    if consistency.clipped:
        clipped = f" ({consistency.clipped} cells at black or white apart)"
    print(f"consistency: |A x - y| at most {consistency.max:.3f} grey levels{clipped}")
    print(f"seam ratio: {verification.seams.overall.ratio:.3f} (1 = no seam)")


def _photograph() -> Pixels:
    try:
        from skimage import data
    except ImportError:
        raise PlanError(
            "the demo needs scikit-image; install it with: pip install 'gigarestore[demo]'"
        ) from None
    return np.ascontiguousarray(data.astronaut().transpose(2, 0, 1))


def _reduce(image: Pixels) -> Pixels:
    channels, height, width = image.shape
    cells = image.reshape(channels, height // SCALE, SCALE, width // SCALE, SCALE)
    reduced: Pixels = np.floor(cells.mean(axis=(2, 4)) + 0.5).astype(np.uint8)
    return reduced


def _nearest(image: Pixels) -> Pixels:
    return image.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


def _bicubic(image: Pixels) -> Pixels:
    from kernels.resample import bicubic_upsample

    enlarged = bicubic_upsample(image.astype(np.float32), SCALE)
    clipped: Pixels = np.clip(np.floor(enlarged + 0.5), 0, 255).astype(np.uint8)
    return clipped


def _side_by_side(images: list[Pixels]) -> Pixels:
    gap = np.full((3, images[0].shape[1], 8), 255, dtype=np.uint8)
    parts = [part for image in images for part in (image, gap)][:-1]
    return np.concatenate(parts, axis=2)


def _write_png(path: Path, image: Pixels) -> None:
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image.transpose(1, 2, 0))))
