"""Try a prior on clean images: degrade, restore with the product itself, compare with what needs no
prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.denoisers.denoiser_registry import describe
from kernels.metrics import psnr, ssim
from orchestrator.errors import PlanError
from orchestrator.job.plan import Plan
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.registry import TASKS, trials
from orchestrator.job.tasks.task import Trial
from orchestrator.measurement.consistency import means
from orchestrator.measurement.windows import to_channels
from orchestrator.run.verify import seam_report
from storage.box import Box
from storage.export.small_image import write_image
from storage.pixels import peak
from storage.readers.reader_registry import open_image

Pixels = NDArray[Any]
Estimate = Callable[[], Pixels | None]

# Share of the pixels that inpainting lacks.
MISSING = 0.25
TILE_UNIT = 32
USUAL_TILE = 256


TRIALS = trials()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One result of one method."""

    image: str
    trial: str
    method: str
    seed: int
    psnr: float
    ssim: float
    consistency: float
    """RMS of A x - y, grey levels; for denoising about the noise."""
    seam: float
    """Differences across the edges of the prior's tiles over those beside them; 1 = no seam."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The pictures of one trial, for the contact sheet, with their scores."""

    pictures: dict[str, Pixels]
    scores: list[Score]


def read_clean(path: Path, side: int) -> Pixels:
    """Return the middle of an image, (C, h, w) with sides that are multiples of 4, at most `side`
    px; 0: all of it.
    """
    reader = open_image(path)
    height, width = (min(length, side or length) // 4 * 4 for length in reader.info.box.shape)
    if min(height, width) < 32:
        raise PlanError(
            f"{path} is {reader.info.height}x{reader.info.width} px; an evaluation needs 32 px a "
            "side"
        )
    y = (reader.info.height - height) // 2
    x = (reader.info.width - width) // 2
    return reader.read(Box(y, x, y + height, x + width))


def run_trial(
    trial: Trial,
    name: str,
    clean: Pixels,
    priors: Sequence[str],
    intent: str | None,
    seed: int,
    work: Path,
) -> Restored:
    """Degrade a clean picture (C, H, W) once and restore it by every prior and by what needs none.

    work: a folder for the files of the trial.
    """
    measured = _measure(trial, clean, seed, work)
    pictures: dict[str, Pixels] = {}
    plan: Plan | None = None
    for prior in priors:
        job = {**measured.job, "denoiser": prior}
        out = work / "restored.zarr"
        pictures[prior], plan = _restore(job, intent, seed, out, clean.shape[1:])
    assert plan is not None, "an evaluation has a prior"
    for method, estimate in baselines(trial, measured.y, measured.mask, clean.shape, clean.dtype):
        picture = estimate()
        if picture is not None:
            pictures[method] = picture

    top = float(peak(str(clean.dtype)))
    scores = [
        Score(
            image=name,
            trial=trial.name,
            method=method,
            seed=seed,
            psnr=psnr(picture, clean, top),
            ssim=ssim(picture, clean, top),
            consistency=misfit(trial, picture, measured.y, measured.mask),
            seam=_seam(plan, picture),
        )
        for method, picture in pictures.items()
    ]
    shown = {"measured": measured.y, **pictures, "original": clean}
    return Restored(pictures=shown, scores=scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measurement:
    """What is left of a clean picture, and the job that restores it."""

    y: Pixels
    mask: Pixels | None
    """(1, H, W), non-zero where it is known."""
    job: dict[str, Any]


def _measure(trial: Trial, clean: Pixels, seed: int, work: Path) -> _Measurement:
    """Degrade a clean picture with the operators that `restore` inverts."""
    from orchestrator.measurement.degrade import degrade

    work.mkdir(parents=True, exist_ok=True)
    paths = {role: work / f"{role}.tif" for role in ("clean", "measured", "mask")}
    write_image(paths["clean"], clean)
    mask = None
    if TASKS[trial.task["name"]].takes_mask:
        rng = np.random.default_rng([seed, 0x1A9])
        known = rng.random(clean.shape[1:]) >= MISSING
        mask = known.astype(np.uint8)[None] * np.uint8(255)
        write_image(paths["mask"], mask)

    task = dict(trial.task)
    mask_path = None if mask is None else str(paths["mask"])
    clean_input = {"path": str(paths["clean"]), "mask": mask_path}
    measured_input = {"path": str(paths["measured"]), "mask": mask_path}
    spec = JobSpec.build({"task": task, "input": clean_input})
    degrade(spec, paths["measured"], seed, overwrite=True)
    y = open_image(paths["measured"]).read(Box(0, 0, *_size(paths["measured"])))
    return _Measurement(y=y, mask=mask, job={"task": task, "input": measured_input})


def _seam(plan: Plan, picture: Pixels) -> float:
    """Return the seam ratio of a picture, for the tiles of a plan."""
    report = seam_report(plan, lambda box: picture[(slice(None), *box.slices())])
    return report.overall.ratio


def misfit(trial: Trial, x: Pixels, y: Pixels, mask: Pixels | None) -> float:
    """Return the RMS of A x - y over what was measured, grey levels."""
    measured = means(x, int(trial.task.get("scale", 1)), TASKS[trial.task["name"]].grey, None)
    error = (measured - y.astype(np.float64)) ** 2
    known = np.ones(error.shape, bool) if mask is None else np.broadcast_to(mask > 0, error.shape)
    return float(np.sqrt(error[known].mean()))


def baselines(
    trial: Trial, y: Pixels, mask: Pixels | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[tuple[str, Estimate]]:
    """Yield what needs no prior: A+ y always, then the classical methods for the task; None where
    one is missing.
    """
    from kernels.resample import bicubic_upsample, fill_unknown

    top = float(peak(str(dtype)))

    def stored(values: NDArray[np.floating]) -> Pixels:
        return np.asarray(np.clip(np.floor(values + 0.5), 0, top).astype(dtype))

    channels = shape[0]
    scale = int(trial.task.get("scale", 1))
    enlarged = y.repeat(scale, 1).repeat(scale, 2)
    yield "A+ y", lambda: to_channels(enlarged, channels)  # type: ignore[arg-type]
    if scale > 1:
        yield "bicubic", lambda: stored(bicubic_upsample(y.astype(np.float32), scale))
    if mask is not None:
        holes = np.where(mask > 0, y.astype(np.float32), np.float32(np.nan))
        yield "neighbours", lambda: stored(fill_unknown(holes))
    if TASKS[trial.task["name"]].starts_at_its_noise:
        sigma = float(trial.task["sigma"])
        yield (
            "wavelet",
            lambda: _classical(y / top, sigma, "wavelet", lambda unit: stored(unit * top)),
        )
        yield "TV", lambda: _classical(y / top, sigma, "TV", lambda unit: stored(unit * top))


def _classical(
    unit: NDArray[np.floating], sigma: float, kind: str, stored: Callable[..., Pixels]
) -> Pixels | None:
    """Denoise (C, H, W) in [0, 1] with scikit-image, told the noise; None where it is not installed
    (extra `demo`).
    """
    try:
        import pywt  # noqa: F401
        from skimage.restoration import denoise_tv_chambolle, denoise_wavelet
    except ImportError:
        return None
    rows = unit.transpose(1, 2, 0)
    if kind == "TV":
        return stored(
            denoise_tv_chambolle(rows, weight=0.9 * sigma, channel_axis=2).transpose(2, 0, 1)
        )
    options: dict[str, Any] = {"wavelet": "db2", "rescale_sigma": False, "method": "BayesShrink"}
    return stored(denoise_wavelet(rows, sigma=sigma, channel_axis=2, **options).transpose(2, 0, 1))


def _restore(
    job: dict[str, Any], intent: str | None, seed: int, out: Path, size: tuple[int, ...]
) -> tuple[Pixels, Plan]:
    from orchestrator.run.lifecycle import start
    from orchestrator.run.serial_executor import SerialExecutor

    sampling = {"seed": seed, "intent": intent}
    # A network of any tile size need not fill up a small picture to its usual one.
    wanted = -(-max(size) // TILE_UNIT) * TILE_UNIT
    tiling = {"tile": wanted} if describe(job["denoiser"]).local and wanted < USUAL_TILE else {}
    values = {
        **job,
        "output": str(out),
        "sampling": sampling,
        "tiling": tiling,
        "run": {"executor": "serial"},
    }
    spec = JobSpec.build(values)
    outcome = start(spec, SerialExecutor(), overwrite=True)
    return open_image(out).read(Box(0, 0, *size)), outcome.plan


def _size(path: Path) -> tuple[int, int]:
    info = open_image(path).info
    return info.height, info.width
