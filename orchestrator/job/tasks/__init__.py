"""The tasks, one file and one class each: a new task is a file here and a row in the tests.

May import: job, kernels and storage (without torch and zarr), the ground floor.
"""
