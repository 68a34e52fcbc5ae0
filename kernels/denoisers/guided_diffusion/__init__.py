"""kernels/denoisers/guided_diffusion."""
