"""Bytes of chunks and shards, and the JSON documents around them, as zarr v3 specifies them.

It may import the modules at the root of storage.
"""
