"""Denoisers: one adapter per family of checkpoints, behind the protocol of `denoiser.py`.

May import kernels.schedule, kernels.noise, kernels.presets, kernels.user_code and
`guided_diffusion`; knows no operator, no sampler and no task.
"""
