"""The fields of a job that tasks read, and what their values mean: kernels, tolerances, operators.

May import: kernels and storage (torch and zarr inside functions only, but for user_operator), the
ground floor.
"""
