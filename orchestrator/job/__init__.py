"""What was asked: job specification, task, plan and regions as frozen values.

May import: its fields and tasks, tiling, the ground floor, kernels and storage (without torch and
zarr).
"""
