"""From a job specification to a checked plan, and what the plan will cost.

May import: scheduling, measurement, job, tiling, the ground floor, kernels and storage.
"""
