"""kernels/operators."""
