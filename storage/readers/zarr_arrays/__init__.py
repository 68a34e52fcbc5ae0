"""Zarr: images that this package published or staged, and arrays of anybody else (OME-Zarr).

It may import readers.common, zarr_format and the modules at the root of storage.
"""
