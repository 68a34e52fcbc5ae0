"""Read, sample and write a batch of tiles: what happens on one device.

May import: measurement, job, tiling, the ground floor, kernels and storage.
"""
