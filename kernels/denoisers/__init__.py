"""kernels/denoisers."""
