"""Plan and run a restoration: specification, tile geometry, dependencies, executors.

May import kernels and storage; modules at its root import no room. Importing this package (and job,
tiling, planning, scheduling, events) loads neither torch, ray, zarr nor tifffile.
"""
