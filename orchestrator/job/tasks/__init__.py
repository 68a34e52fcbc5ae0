"""The tasks, one file and one class each: a new task is a file here and a row in the tests.

May import: job.fields, tiling, kernels and storage (torch and zarr inside functions only), the
ground floor.
"""
