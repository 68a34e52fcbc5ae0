"""kernels/training."""
