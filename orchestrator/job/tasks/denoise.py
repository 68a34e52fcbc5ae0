"""Denoising: every pixel is measured, with Gaussian noise of a stated deviation."""

from __future__ import annotations

from kernels.presets import DENOISING
from orchestrator.errors import PlanError
from orchestrator.job.fields.noise_option import check_noise
from orchestrator.job.fields.sections import TaskFields
from orchestrator.job.tasks.task import OwnOption, Task, Trial


def _trial(levels: int) -> Trial:
    """Return noise of so many levels of 255."""
    noise = {"sigma": levels / 255, "sigma_unit": "fraction"}
    return Trial(name=f"denoise{levels}", task=noise, random=True)


class Denoise(Task):
    """All pixels with their noise, which places them on the diffusion's trajectory."""

    name = "denoise"
    place = 30
    starts_at_its_noise = True
    presets = DENOISING
    own_options = (OwnOption("--noise", lambda given: given.noise is not None),)
    trials = (_trial(10), _trial(25), _trial(50))

    @classmethod
    def check(cls, given: TaskFields) -> None:
        """Raise PlanError for a scale, and without noise."""
        super().check(given)
        check_noise(given)
        if not given.noisy:
            raise PlanError(
                "task denoise needs --sigma above 0: the noise's standard deviation in grey "
                "levels, or auto; or --noise for counts and speckle"
            )
