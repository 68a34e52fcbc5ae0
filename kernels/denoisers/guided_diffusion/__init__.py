"""Dhariwal and Nichol's networks and their published checkpoints: U-Net, classifier, weights file,
inferred architecture.

May import kernels.schedule and kernels.denoisers.info, and no other denoiser.
"""
