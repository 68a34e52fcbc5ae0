"""The measurement y and the operator A under a window of the output.

May import: job, tiling, the ground floor, kernels and storage.
"""
