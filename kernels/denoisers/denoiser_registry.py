"""Describe a denoiser before it is loaded: enough to plan a run, on a machine that need not have
torch.

`kernels.denoiser_info` lists the schemes of the references.
"""

from __future__ import annotations

from kernels.denoiser_info import (
    ANALYTIC_CONTENT,
    BUILTIN_WEIGHTS,
    PREDICTOR_WEIGHTS,
    DenoiserInfo,
    file_hash,
    split_ref,
)

# Those that may have classes.
CONDITIONAL = ("guided-diffusion", "diffusers")


def describe(ref: str, label: int | None = None) -> DenoiserInfo:
    """Return the description of the denoiser that `ref` names, reading no more than its file's head
    or hash.

    label: the class of a class-conditional network. torch is imported only for a checkpoint. Raises
    ValueError for an unknown scheme, a file that is not a checkpoint, and a label that the network
    does not take or lacks.
    """
    scheme, path = split_ref(ref)
    if scheme not in CONDITIONAL and label is not None:
        raise ValueError(
            f"denoiser {ref!r} knows no classes, found class {label}; leave --class out"
        )
    if scheme == "builtin":
        return _describe_builtin()
    if scheme == "analytic":
        return DenoiserInfo(
            name="analytic",
            tile=256,
            multiple=1,
            content=ANALYTIC_CONTENT,
        )
    if scheme == "prior":
        from kernels.denoisers.builtin import describe_prior  # imports torch, as do the following

        return describe_prior(path)
    if scheme == "diffusers":
        from kernels.denoisers.diffusers import describe_diffusers

        return describe_diffusers(path, label)
    if scheme in ("module", "sigma"):
        from kernels.denoisers.user import describe_user_denoiser

        return describe_user_denoiser(ref)
    from kernels.denoisers.guided_diffusion.checkpoints import describe_guided_diffusion

    if label is None:
        return describe_guided_diffusion(path)
    return describe_guided_diffusion(path, label=label)


def _describe_builtin() -> DenoiserInfo:
    files = (BUILTIN_WEIGHTS, PREDICTOR_WEIGHTS)
    stored = sum(file.stat().st_size for file in files)
    return DenoiserInfo(
        name="builtin",
        tile=256,
        multiple=8,
        content=file_hash(BUILTIN_WEIGHTS),
        weight_bytes=2 * stored,  # stored as float16
        predicts=True,
        local=True,
    )
