"""kernels/bench."""
