"""Dhariwal and Nichol's networks: U-Net, classifier and their published checkpoints.

May import kernels.schedule and kernels.denoiser_info, and no other denoiser.
"""
