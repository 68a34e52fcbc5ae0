"""Plan and run a restoration: specification, tile geometry, dependencies, executors.

Importing this package (and spec, grid, graph, plan, frontier, events) loads neither torch, ray,
zarr nor tifffile.
"""
