"""Publish an image as an OME-Zarr pyramid, shard by shard, and copy it to an object store.

It may import zarr_format and the modules at the root of storage.
"""
