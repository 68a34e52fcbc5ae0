"""What a run keeps until it is published: cells, pooled cells, journal, lock and fencing.

It may import zarr_format and the modules at the root of storage.
"""
