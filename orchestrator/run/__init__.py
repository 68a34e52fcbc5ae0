"""One run from start to published image; resume; many images.

May import: monitoring, worker, scheduling, planning, measurement, job, tiling, the ground floor,
kernels and storage.
"""
